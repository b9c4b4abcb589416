"""A slow reference for batches: one sample at a time, rows assembled in loops, no padding and no cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from llava.constants import IMAGE_TOKEN_INDEX

Placed = list[tuple[Tensor, int]]
"""Rows [D], each with its position in the uncompressed sequence."""


@dataclass
class Counts:
    """What a Record should say about one visual input, except for the padding in front of its sample."""

    modality: str
    start: int
    frames_before: list[int]
    frames_after: list[int]
    separators_before: int
    separators_after: int


@dataclass
class Sample:
    """Text ids with slots, and for each slot ("video" | "image", pixels)."""

    ids: Tensor
    visuals: Sequence[tuple[str, Tensor]] = ()
    counts: list[Counts] = field(default_factory=list)


def video_rows(model: Any, pixels: Tensor, at: int, counts: Counts) -> tuple[Placed, int]:
    """Return the rows of a video that starts at position `at`, and the position after it."""
    newlines, newline = model.config.mm_newline_position, model.model.image_newline
    compressor = model.compressor
    features = model.get_2dPool(model.encode_images(pixels))
    frames, m, _ = features.shape
    side = int(m**0.5)
    shown = dict(enumerate(features.flatten(0, 1)))  # by number of the token, merged ones as the compressor made them
    if compressor is not None:
        chosen = compressor.select(features)
        into = [shown[i] for i in chosen.index.tolist()] if chosen.features is None else chosen.features
        shown = dict(zip(chosen.index.tolist(), into, strict=True))
    kept = set(shown)
    moves = compressor is not None and compressor.newlines == "released" and len(kept) < frames * m
    drops = compressor is not None and compressor.newlines == "rows"

    rows: Placed = []

    def separate(into: Placed, position: int, stays: bool = True) -> int:
        counts.separators_before += 1
        if stays:
            counts.separators_after += 1
            into.append((newline, position))
        return position + 1

    for t in range(frames):
        behind: Placed = []
        survivors = 0
        for y in range(side):
            alive = False
            for x in range(side):
                if t * m + y * side + x in kept:
                    alive = True
                    survivors += 1
                    rows.append((shown[t * m + y * side + x], at))
                at += 1
            if newlines == "grid":
                at = separate(behind if moves else rows, at, alive or not drops)
        rows += behind
        if newlines == "frame":
            at = separate(rows, at)
        counts.frames_before.append(m)
        counts.frames_after.append(survivors)
    if newlines == "one_token":
        at = separate(rows, at)
    return rows, at


def image_rows(model: Any, pixels: Tensor, at: int, counts: Counts) -> tuple[Placed, int]:
    """An image of one view: its patches and one newline, never compressed."""
    patches = list(model.encode_images(pixels)[0])
    counts.frames_before.append(len(patches))
    counts.frames_after.append(len(patches))
    counts.separators_before = counts.separators_after = 1
    rows = [(row, at + i) for i, row in enumerate([*patches, model.model.image_newline])]
    return rows, at + len(rows)


@torch.no_grad()
def inputs_of(model: Any, sample: Sample) -> tuple[Tensor, Tensor]:
    """Return the LLM's rows [1, L, D] and position ids [1, L] of one sample. Fills sample.counts."""
    sample.counts.clear()
    table = model.model.embed_tokens.weight
    visuals = iter(sample.visuals)
    rows: Placed = []
    at = 0
    for token in sample.ids.tolist():
        if token != IMAGE_TOKEN_INDEX:
            rows.append((table[token], at))
            at += 1
            continue
        modality, pixels = next(visuals)
        counts = Counts(modality, len(rows), [], [], 0, 0)
        sample.counts.append(counts)
        more, at = (video_rows if modality == "video" else image_rows)(model, pixels, at, counts)
        rows += more
    original = model.compressor is not None and model.compressor.positions == "original"
    positions = [position for _, position in rows] if original else list(range(len(rows)))
    return torch.stack([row for row, _ in rows])[None], torch.tensor([positions])


@torch.no_grad()
def bare_logits(model: Any, embeds: Tensor, positions: Tensor) -> Tensor:
    """Return logits [L, V] of the bare LLM, without cache and padding."""
    hidden = model.model(
        inputs_embeds=embeds,
        position_ids=positions,
        attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long),
        use_cache=False,
    ).last_hidden_state
    return model.lm_head(hidden)[0]


@torch.no_grad()
def follow(model: Any, sample: Sample, tokens: Sequence[int]) -> Tensor:
    """Return logits [L + len(tokens), V] for the answer `tokens`. The last row is for the token after it."""
    embeds, positions = inputs_of(model, sample)
    if tokens:
        embeds = torch.cat([embeds, model.model.embed_tokens.weight[torch.tensor(tokens)][None]], dim=1)
        after = positions[:, -1:] + 1 + torch.arange(len(tokens))
        positions = torch.cat([positions, after], dim=1)
    return bare_logits(model, embeds, positions)


def greedy(model: Any, sample: Sample, steps: int) -> tuple[list[int], Tensor]:
    """Return the greedy answer, with the whole sequence run again for each token, and the prompt's logits [L, V]."""
    tokens: list[int] = []
    prefill = follow(model, sample, tokens)
    logits = prefill
    for _ in range(steps):
        tokens.append(int(logits[-1].argmax()))
        logits = follow(model, sample, tokens)
    return tokens, prefill


def beam_search(model: Any, sample: Sample, beams: int, steps: int) -> tuple[list[int], float]:
    """Return the best answer of `steps` tokens and its total log-probability. No answer ends early."""
    alive: list[tuple[list[int], float]] = [([], 0.0)]
    for _ in range(steps):
        grown = []
        for tokens, score in alive:
            step = follow(model, sample, tokens)[-1].log_softmax(-1)
            grown += [([*tokens, i], score + value) for i, value in enumerate(step.tolist())]
        alive = sorted(grown, key=lambda pair: -pair[1])[:beams]
    return alive[0]
