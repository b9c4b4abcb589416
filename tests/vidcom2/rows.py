"""A prompt as a list of token ids that knows where its videos are, and what the builders of tiny models share.

`Kind` describes a model class; see tests/vidcom2/kinds/. Text is random ids.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

TYPED = {"qwen2_vl", "qwen2_5_vl", "qwen3_vl"}
"""The kinds whose processor returns mm_token_type_ids. `Kind` adds its own."""

PACKED: set[str] = set()
"""The kinds whose processor puts the pixels of all visuals side by side in the last dimension. `Kind` adds them."""

VOCAB, WORDS = 112, 80
"""Words are 1..79; 80..89 are the digits 0..9; the rest is special and never generated, its lm_head rows being zero."""
IMAGE, VIDEO, START, END, NEWLINE, FRAME, COLON = range(90, 97)
PADDED = ("input_ids", "attention_mask", "mm_token_type_ids")
PATCH, MERGE, HIDDEN = 4, 2, 48

TEXT = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}
ROPE = {"rope_type": "default", "rope_theta": 1000.0}
QWEN_TOWER = {"num_heads": 4, "patch_size": PATCH, "temporal_patch_size": 2, "spatial_merge_size": MERGE}
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "patch_size": PATCH,
}


@dataclass(frozen=True)
class Visual:
    """A video or an image of a row: T frames of M patch tokens.

    at: the places of its tokens in the row, the T·M patch tokens first and in frame order, then separators.
    grid: rows and columns of a frame, if it need not be a square.
    """

    modality: str
    frames: int
    tokens: int
    at: tuple[int, ...]
    grid: tuple[int, int] | None = None

    @property
    def patches(self) -> tuple[int, ...]:
        return self.at[: self.frames * self.tokens]


@dataclass(frozen=True)
class Row:
    """One prompt: its ids without padding, where its visuals are, and their pixels as the processor gives them."""

    kind: str
    ids: list[int]
    visuals: list[Visual] = field(default_factory=list)
    media: dict[str, Tensor] = field(default_factory=dict)

    def __add__(self, more: Row | Sequence[int]) -> Row:
        """The row that goes on with another, or with bare ids: an answer, the next turn of a chat."""
        if not isinstance(more, Row):
            more = Row(self.kind, list(more))
        shift = len(self.ids)
        moved = [replace(v, at=tuple(shift + i for i in v.at)) for v in more.visuals]
        names = [*self.media, *(name for name in more.media if name not in self.media)]
        media = {name: joined((self, more), name) for name in names}
        return Row(self.kind, self.ids + more.ids, self.visuals + moved, media)

    @property
    def text(self) -> dict[str, Tensor]:
        """What the processor makes of the text, each [1, L]."""
        ids = torch.tensor([self.ids])
        text = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if self.kind in TYPED:
            types = torch.zeros_like(ids)
            for visual in self.visuals:
                types[0, list(visual.at)] = 2 if visual.modality == "video" else 1
            text["mm_token_type_ids"] = types
        return text

    @property
    def videos(self) -> list[Visual]:
        return [visual for visual in self.visuals if visual.modality == "video"]


@dataclass(frozen=True)
class Kind:
    """A model class of transformers: how to build a tiny one, and what its processor writes for a video or an image.

    Attributes:
        name: `config.model_type`.
        model: Name of the class in transformers.
        config: Returns the config, given the number of layers of the language model.
        visual: Returns a row of nothing but one visual, with what the processor writes around it, given "video" or
            "image", frames, height and width in tokens, and a generator for words and pixels.
        typed: Whether the processor returns mm_token_type_ids.
        images: Whether a prompt may have images beside videos.
        videos: Whether a prompt may have several videos.
        attentions: The attn_implementation that it works with in the installed transformers.
        packed: Whether the processor puts the pixels of all visuals side by side in the last dimension.
        stacked: Whether the processor stacks all videos of a batch into one tensor, so that they have equal frames.
        rope: Returns the arguments of get_rope_index for a row; None for its text and all its media but the pixels.
        extra: Returns further arguments of the language model (its mask too, if that is not causal), given the model,
            the rows' token ids, and the number of the frame or image that each row is of (None for text).
    """

    name: str
    model: str
    config: Callable[[int], Any]
    visual: Callable[[str, int, int, int, torch.Generator], Row]
    typed: bool = False
    images: bool = True
    videos: bool = True
    stacked: bool = False
    packed: bool = False
    rope: Callable[[Row], dict[str, Any]] | None = None
    extra: Callable[[Any, Sequence[int], Sequence[int | None]], dict[str, Any]] | None = None
    attentions: Sequence[str] = ("sdpa", "eager")

    def __post_init__(self) -> None:
        if self.typed:
            TYPED.add(self.name)
        if self.packed:
            PACKED.add(self.name)


def joined(rows: Sequence[Row], name: str) -> Tensor:
    """One input of the model, such as pixels or grids, of all rows that have it."""
    values = [row.media[name] for row in rows if name in row.media]
    return torch.cat(values, dim=-1 if rows[0].kind in PACKED and name.startswith("pixel") else 0)


def pixels(frames: int, *shape: int, generator: torch.Generator) -> Tensor:
    """Frames that share a background and differ in a changing part."""
    background = torch.randn(1, *shape, generator=generator)
    return 0.7 * background + 0.7 * torch.randn(frames, *shape, generator=generator)
