"""Checking a call: its prompt, and its `images`, which become a list with one entry for each image or video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from llava.constants import IMAGE_TOKEN_INDEX

MODALITIES = ("image", "video", "text")
"""LLaVA's own names. "text" is the dummy image of a text-only prompt."""


@dataclass(frozen=True)
class Encoded:
    """One image or video after tower and projector. In `images` it replaces the pixels, under any compressor.

    Attributes:
        features: [V, tokens, D].
    """

    features: Tensor


@dataclass(frozen=True)
class VisualInput:
    """One image or video of a call.

    Attributes:
        views: [V, 3, S, S], the frames of a video, or the base view and the tiles of an image; or these encoded.
        modality: One of MODALITIES.
        image_size: (width, height) of an image, if known.
        merge: Whether it is pooled and gets newlines. False for images of a plain 4-D tensor.
    """

    views: Tensor | Encoded
    modality: str
    image_size: tuple[int, int] | None
    merge: bool = True


def prompt_ids(inputs: Tensor | None, input_ids: Tensor | None) -> Tensor:
    """Return the prompts [B, n], which generate() takes by two names.

    Raises:
        ValueError: If both came, or none, or if the shape is another.
    """
    if (inputs is None) == (input_ids is None):
        given = "neither of them" if inputs is None else "both"
        raise ValueError(f"generate() takes the prompt as inputs or as input_ids; {given} came")
    ids = input_ids if inputs is None else inputs
    assert ids is not None
    if ids.ndim != 2 or 0 in ids.shape:
        raise ValueError(f"a prompt of shape {tuple(ids.shape)} is not [batch, tokens], at least one of each")
    return ids


def has_slot(ids: Tensor) -> bool:
    """Return whether ids [B, n] have an image slot. It waits for the device."""
    return bool((ids == IMAGE_TOKEN_INDEX).any())


def visual_inputs(
    images: Any, modalities: str | Sequence[str], image_sizes: Sequence[tuple[int, int]] | None
) -> list[VisualInput]:
    """Turn every accepted form of `images` into a list with one entry for each image or video.

    Args:
        images: See `LlavaMetaForCausalLM.prepare_inputs_labels_for_multimodal`.
        modalities: One for each of `images`, or one for all.
        image_sizes: (width, height) for each of `images`, or None.

    Raises:
        ValueError: If the numbers of entries differ, if a modality is unknown, or for a video in a 4-D tensor, which
            holds images.
    """
    named = [modalities] if isinstance(modalities, str) else list(modalities)
    if unknown := [name for name in named if name not in MODALITIES]:
        raise ValueError(f"modality {unknown[0]!r} is unknown; use {', '.join(MODALITIES)}")
    if isinstance(images, Tensor) and images.ndim == 4:
        if "video" in named:
            raise ValueError(
                f"images of shape {tuple(images.shape)} with modalities={modalities!r}: a 4-D tensor holds images, one "
                "for each slot; pass a video as a list, images=[frames]"
            )
        return [VisualInput(view[None], "image", None, merge=False) for view in images]
    if isinstance(images, Tensor) and images.ndim != 5:
        raise ValueError(f"images of shape {tuple(images.shape)}: pass a list of [V, 3, S, S] or [3, S, S] tensors")
    views = [view[None] if isinstance(view, Tensor) and view.ndim == 3 else view for view in images]
    if not views:
        return []  # a text-only call; nothing is left that `modalities` could speak of
    if isinstance(modalities, str):
        modalities = [modalities] * len(views)
    elif tuple(modalities) == ("image",):
        modalities = ["image"] * len(views)
    for name, given in (("modalities", modalities), ("image_sizes", image_sizes)):
        if given is not None and len(given) != len(views):
            raise ValueError(f"{len(views)} images came with {len(given)} {name}; pass one for each image or video")
    sizes = image_sizes if image_sizes is not None else [None] * len(views)
    return [VisualInput(v, m, s) for v, m, s in zip(views, modalities, sizes, strict=True)]


def used_inputs(inputs: list[VisualInput], samples: Sequence[Tensor]) -> list[VisualInput]:
    """Return the inputs that have a slot: all of them, or all but the dummies of text-only prompts.

    Args:
        inputs: The visual inputs of a batch.
        samples: int64 [n] each, the prompts without padding.

    Raises:
        ValueError: If slots and images do not match.
    """
    slots = [int((ids == IMAGE_TOKEN_INDEX).sum()) for ids in samples]
    if len(inputs) == sum(slots):
        return inputs
    if len(inputs) != sum(max(1, count) for count in slots):
        raise ValueError(
            f"the prompts have {slots} image slots but {len(inputs)} images came: pass one for each slot (a text-only "
            "prompt in a batch may have one dummy)"
        )
    used, at = [], 0
    for count in slots:
        used += inputs[at : at + count]
        at += max(1, count)
    return used
