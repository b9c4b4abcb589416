"""Images to pixels, prompts with image slots to token ids, and stopping at a phrase.

Names, signatures and results are those of upstream's `llava/mm_utils.py`.
"""

from __future__ import annotations

import ast
import base64
import math
import re
from collections.abc import Sequence
from io import BytesIO
from typing import Any, overload

import torch
from PIL import Image
from transformers import PreTrainedTokenizerBase, StoppingCriteria

from llava.constants import DEFAULT_IMAGE_TOKEN, IMAGE_TOKEN_INDEX

Size = tuple[int, int]
"""(width, height) in pixels, in PIL's order."""

Pinpoints = str | Sequence[Sequence[int]]
"""`image_grid_pinpoints` of a config: a list of sizes, that list as a string, or a range of tiles "(1x1),...,(6x6)"."""

RANGE_PATCH_SIZES = (224, 336, 384, 448, 512)
"""Tile sides in pixels for which upstream accepts a range of tiles."""


def select_best_resolution(original_size: Size, possible_resolutions: Sequence[Sequence[int]]) -> Size:
    """Choose the resolution that keeps most of the image's pixels, then the one with the least padding.

    The first one wins a tie (upstream's `select_best_resolution`).

    Args:
        original_size: (width, height) of the image in pixels.
        possible_resolutions: (width, height) pairs in pixels.

    Returns:
        One of `possible_resolutions`.

    Raises:
        ValueError: If there are no resolutions.
    """
    if not possible_resolutions:
        raise ValueError("possible_resolutions is empty: give at least one (width, height)")
    width, height = original_size

    def merit(resolution: Sequence[int]) -> tuple[int, int]:
        scale = min(resolution[0] / width, resolution[1] / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, kept - resolution[0] * resolution[1]

    best_width, best_height = max(possible_resolutions, key=merit)
    return best_width, best_height


def _resolutions(pinpoints: Pinpoints | None, patch_size: int) -> list[Size]:
    """Return the sizes in pixels that `pinpoints` lists. Raises ValueError if it is in none of the forms."""
    if isinstance(pinpoints, str):
        tiles = re.findall(r"\((\d+)x(\d+)\)", pinpoints)
        if tiles:
            if patch_size not in RANGE_PATCH_SIZES:
                raise ValueError(f"a range of tiles needs a patch size in {RANGE_PATCH_SIZES}, got {patch_size}")
            (first_w, first_h), (last_w, last_h) = (map(int, tile) for tile in (tiles[0], tiles[-1]))
            return [
                (w * patch_size, h * patch_size) for w in range(first_w, last_w + 1) for h in range(first_h, last_h + 1)
            ]
    try:
        listed: Any = ast.literal_eval(pinpoints) if isinstance(pinpoints, str) else pinpoints
        return [(int(width), int(height)) for width, height in listed]
    except (SyntaxError, TypeError, ValueError):
        form = 'a list of [width, height] or a string like "(1x1),...,(6x6)"'
        raise ValueError(f"image_grid_pinpoints must be {form}, got {pinpoints!r}") from None


def get_anyres_image_grid_shape(image_size: Size, grid_pinpoints: Pinpoints, patch_size: int) -> tuple[int, int]:
    """Return the grid of tiles that an image is cut into (upstream's `get_anyres_image_grid_shape`).

    Args:
        image_size: (width, height) of the image in pixels.
        grid_pinpoints: The config's `image_grid_pinpoints`.
        patch_size: Side of a tile in pixels.

    Returns:
        (columns, rows).

    Raises:
        ValueError: If `grid_pinpoints` is in none of its forms, or a range is given for another tile side than
            `RANGE_PATCH_SIZES`.
    """
    width, height = select_best_resolution(image_size, _resolutions(grid_pinpoints, patch_size))
    return width // patch_size, height // patch_size


def resize_and_pad_image(image: Image.Image, target_resolution: Size) -> Image.Image:
    """Resize an image to fit into a resolution, keep its aspect ratio, and centre it on black.

    Args:
        image: A PIL image.
        target_resolution: (width, height) in pixels.

    Returns:
        An RGB image of `target_resolution` (upstream's `resize_and_pad_image`).
    """
    target_w, target_h = target_resolution
    scale_w, scale_h = target_w / image.width, target_h / image.height
    if scale_w < scale_h:
        size = target_w, min(math.ceil(image.height * scale_w), target_h)
    else:
        size = min(math.ceil(image.width * scale_h), target_w), target_h
    canvas = Image.new("RGB", (target_w, target_h))
    canvas.paste(image.resize(size), ((target_w - size[0]) // 2, (target_h - size[1]) // 2))
    return canvas


def expand2square(pil_img: Image.Image, background_color: int | tuple[int, ...]) -> Image.Image:
    """Pad the shorter side, with the image in the middle (upstream's `expand2square`).

    Args:
        pil_img: A PIL image.
        background_color: Colour of the padding, in the image's mode.

    Returns:
        A square image; `pil_img` itself if it is square already.
    """
    side = max(pil_img.size)
    if pil_img.size == (side, side):
        return pil_img
    square = Image.new(pil_img.mode, (side, side), background_color)
    square.paste(pil_img, ((side - pil_img.width) // 2, (side - pil_img.height) // 2))
    return square


def divide_to_patches(image: Image.Image, patch_size: int) -> list[Image.Image]:
    """Cut an image into square tiles, row by row (upstream's `divide_to_patches`).

    Args:
        image: A PIL image.
        patch_size: Side of a tile in pixels.

    Returns:
        The tiles. A tile that reaches over the image's edge is black there.
    """
    return [
        image.crop((left, top, left + patch_size, top + patch_size))
        for top in range(0, image.height, patch_size)
        for left in range(0, image.width, patch_size)
    ]


def process_anyres_image(image: Image.Image, processor: Any, grid_pinpoints: Pinpoints | None) -> torch.Tensor:
    """Make the views of one image in "anyres" mode (upstream's `process_anyres_image`).

    Args:
        image: A PIL image.
        processor: The vision tower's image processor.
        grid_pinpoints: The config's `image_grid_pinpoints`.

    Returns:
        float32 [1 + tiles, 3, S, S]: the whole image squashed to a square, then its tiles row by row.

    Raises:
        ValueError: If `grid_pinpoints` is in none of its forms.
    """
    size = processor.size
    if isinstance(size, dict):
        side = size["shortest_edge"] if "shortest_edge" in size else min(size["height"], size["width"])
    else:
        side = min(size)
    best = select_best_resolution(image.size, _resolutions(grid_pinpoints, side))
    tiles = divide_to_patches(resize_and_pad_image(image, best), processor.crop_size["height"])
    return _pixels([image.resize((side, side)), *tiles], processor)


def _pixels(images: list[Image.Image], processor: Any) -> torch.Tensor:
    """Return float32 [n, 3, S, S]."""
    return processor.preprocess(images, return_tensors="pt")["pixel_values"]


def process_images(
    images: Sequence[Image.Image], image_processor: Any, model_cfg: Any
) -> torch.Tensor | list[torch.Tensor]:
    """Turn images into pixels in the mode `model_cfg.image_aspect_ratio` (upstream's `process_images`).

    Args:
        images: n PIL images.
        image_processor: The vision tower's image processor.
        model_cfg: A config with `image_aspect_ratio`. "anyres" and "anyres_max_<k>" read `image_grid_pinpoints` too and
            cut each image into tiles. "pad" pads to a square in the mean colour. Any other name, such as "square",
            resizes to a square and ignores the aspect ratio.

    Returns:
        float32 [n, 3, S, S]. In the "anyres" modes [n, 1 + tiles, 3, S, S] if all images have equally many tiles, else
        a list of [1 + tiles, 3, S, S].

    Raises:
        ValueError: If the mode is None, "highres" or "crop_split", which are not supported.
    """
    aspect = getattr(model_cfg, "image_aspect_ratio", None)
    if aspect is None or aspect in ("highres", "crop_split"):
        raise ValueError(
            f"image_aspect_ratio {aspect!r} is not supported; use 'anyres', 'anyres_max_<k>', 'pad' or 'square'"
        )
    if aspect == "anyres" or "anyres_max" in aspect:
        pinpoints = getattr(model_cfg, "image_grid_pinpoints", None)
        views = [process_anyres_image(image, image_processor, pinpoints) for image in images]
        same = all(view.shape == views[0].shape for view in views)
        return torch.stack(views) if views and same else views
    if aspect == "pad":
        grey = tuple(int(255 * mean) for mean in image_processor.image_mean)
        images = [expand2square(image.convert("RGB"), grey) for image in images]
    return _pixels(list(images), image_processor)


def load_image_from_base64(image: str | bytes) -> Image.Image:
    """Open an image file that is encoded in base64 (upstream's `load_image_from_base64`).

    Args:
        image: The encoded file.
    """
    return Image.open(BytesIO(base64.b64decode(image)))


@overload
def tokenizer_image_token(
    prompt: str,
    tokenizer: PreTrainedTokenizerBase,
    image_token_index: int = ...,
    return_tensors: None = None,
    slots: int | None = None,
) -> list[int]: ...
@overload
def tokenizer_image_token(
    prompt: str, tokenizer: PreTrainedTokenizerBase, image_token_index: int = ..., *, return_tensors: str
) -> torch.Tensor: ...
def tokenizer_image_token(
    prompt: str,
    tokenizer: PreTrainedTokenizerBase,
    image_token_index: int = IMAGE_TOKEN_INDEX,
    return_tensors: str | None = None,
    slots: int | None = None,
) -> list[int] | torch.Tensor:
    """Turn a prompt into token ids with a marker for each "<image>" (upstream's `tokenizer_image_token`).

    Args:
        prompt: Text with "<image>" for each image or video.
        tokenizer: The model's tokenizer. A BOS token that it adds appears once, in front.
        image_token_index: The marker id.
        return_tensors: "pt" for a tensor, None for a list.
        slots: How many of the "<image>" strings are slots; later ones are plain text. None means all. Upstream has no
            such argument.

    Returns:
        The L token ids: a list, or int64 [L].

    Raises:
        ValueError: If `return_tensors` is neither None nor "pt".
    """
    if return_tensors not in (None, "pt"):
        raise ValueError(f"return_tensors must be None or 'pt', got {return_tensors!r}")
    first, *rest = (
        tokenizer(piece).input_ids for piece in prompt.split(DEFAULT_IMAGE_TOKEN, -1 if slots is None else slots)
    )
    added = 1 if first and first[0] == tokenizer.bos_token_id else 0
    ids = list(first)
    for piece in rest:
        ids += [image_token_index, *piece[added:]]
    return ids if return_tensors is None else torch.tensor(ids, dtype=torch.long)


def get_model_name_from_path(model_path: str) -> str:
    """Return the last component of a path or hub name (upstream's `get_model_name_from_path`).

    Args:
        model_path: A directory or a hub name.

    Returns:
        The last component. For "checkpoint-<step>" the parent's name comes before it: "<run>_checkpoint-<step>".
    """
    *parents, name = model_path.strip("/").split("/")
    return f"{parents[-1]}_{name}" if name.startswith("checkpoint-") and parents else name


class KeywordsStoppingCriteria(StoppingCriteria):
    """Stops each sequence of a batch once the model has written a keyword (upstream's `KeywordsStoppingCriteria`).

    Text of the prompt never counts. Empty keywords are ignored: templates without a separator have the stop string "",
    which is in every text.

    Args:
        keywords: Texts that end generation.
        tokenizer: The model's tokenizer.
        input_ids: int64 [B, L], the prompt.
    """

    def __init__(self, keywords: Sequence[str], tokenizer: PreTrainedTokenizerBase, input_ids: torch.Tensor) -> None:
        self.keywords = [keyword for keyword in keywords if keyword]
        self.tokenizer = tokenizer
        self.prompt = input_ids
        self.keyword_ids = [tokenizer(keyword, add_special_tokens=False).input_ids for keyword in self.keywords]
        # A token adds at least one byte, so no spelling of a keyword takes more tokens than it has bytes.
        self.tail = max((len(keyword.encode()) for keyword in self.keywords), default=0)

    def __call__(self, input_ids: torch.Tensor, scores: Any = None, **kwargs: Any) -> torch.Tensor:
        """Tell which sequences are finished.

        Args:
            input_ids: int64 [B', L'], with or without the prompt in front. B' is a multiple of the prompt's B.
            scores: Not used.
            **kwargs: Not used.

        Returns:
            bool [B'].
        """
        if not self.keywords:
            return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        done = [self._ends(row) for row in self._written(input_ids)[:, -self.tail :].tolist()]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)

    def _written(self, ids: torch.Tensor) -> torch.Tensor:
        """Return `ids` without the prompt. `generate` itself leaves the prompt out if it started from embeddings."""
        length = self.prompt.shape[1]
        if ids.shape[1] < length:
            return ids
        # Beam search and several answers per prompt repeat each row of the prompt.
        prompt = self.prompt.to(ids.device).repeat_interleave(ids.shape[0] // self.prompt.shape[0], dim=0)
        return ids[:, length:] if torch.equal(ids[:, :length], prompt) else ids

    def _ends(self, tail: list[int]) -> bool:
        if any(ids and tail[-len(ids) :] == ids for ids in self.keyword_ids):
            return True
        text = self.tokenizer.decode(tail)
        return any(keyword in text for keyword in self.keywords)
