"""Splicing visual rows into text: from token ids with image slots to padded embeddings, masks, labels, positions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.model.visual_inputs import VisualInput
from llava.model.visual_layout import VisualRows
from vidcom2 import Compressor, Record
from vidcom2.models.spliced import SplicedVisual


@dataclass(frozen=True)
class Row:
    """One prompt.

    Attributes:
        embeds: [L, D].
        labels: int64 [L].
        position: int64 [L], where each row stands in the uncompressed sequence.
        starts: Where each visual input begins.
    """

    embeds: Tensor
    labels: Tensor
    position: Tensor
    starts: tuple[int, ...]

    def cut(self, length: int | None) -> Row:
        """Return the first `length` rows; None returns all."""
        return Row(self.embeds[:length], self.labels[:length], self.position[:length], self.starts)


@dataclass(frozen=True)
class Padded:
    """A padded batch of prompts.

    Attributes:
        embeds: [B, L, D], 0 on padding.
        labels: int64 [B, L], IGNORE_INDEX on padding.
        mask: bool [B, L], rows that are no padding.
        position: int64 [B, L], 0 on padding.
        shift: For each prompt, how many rows of padding are on its left.
        cut: For each prompt, how many rows at its end were cut off.
    """

    embeds: Tensor
    labels: Tensor
    mask: Tensor
    position: Tensor
    shift: tuple[int, ...]
    cut: tuple[int, ...]


def splice(ids: Tensor, labels: Tensor, visuals: Iterator[VisualRows], embed: Callable[[Tensor], Tensor]) -> Row:
    """Replace every image slot of one prompt, in order, by the next of `visuals`.

    Args:
        ids: int64 [n], without padding.
        labels: int64 [n].
        visuals: Supply of visual inputs.
        embed: The LLM's token embedding.
    """
    slots = (ids == IMAGE_TOKEN_INDEX).nonzero().flatten().tolist()
    text = embed(ids[ids != IMAGE_TOKEN_INDEX])  # one look-up, so that a device map's hooks run once
    embeds: list[Tensor] = []
    targets: list[Tensor] = []
    positions: list[Tensor] = []
    starts: list[int] = []
    at = used = length = 0  # in ids, in text, in the uncompressed sequence
    for slot in [*slots, len(ids)]:
        count = slot - at
        embeds.append(text[used : used + count])
        targets.append(labels[at:slot])
        positions.append(torch.arange(length, length + count))
        at, used, length = slot + 1, used + count, length + count
        if slot < len(ids):
            visual = next(visuals)
            starts.append(sum(map(len, embeds)))
            embeds.append(visual.rows.to(text))
            targets.append(labels.new_full((len(visual.rows),), IGNORE_INDEX))
            positions.append(length + visual.offset)
            length += visual.length
    return Row(torch.cat(embeds), torch.cat(targets), torch.cat(positions).to(ids.device), tuple(starts))


def pad_rows(whole: list[Row], side: str, limit: int | None = None) -> Padded:
    """Stack prompts of different lengths, cut to `limit` rows, padded with zeros on `side` ("left" or "right")."""
    rows = [row.cut(limit) for row in whole]
    length = max(len(row.embeds) for row in rows)

    def stack(parts: list[Tensor], fill: int) -> Tensor:
        out = parts[0].new_full((len(parts), length, *parts[0].shape[1:]), fill)
        for i, part in enumerate(parts):  # by index: autograd refuses to write into the lines of an iteration
            first = length - len(part) if side == "left" else 0
            out[i, first : first + len(part)] = part
        return out

    return Padded(
        embeds=stack([row.embeds for row in rows], 0),
        labels=stack([row.labels for row in rows], IGNORE_INDEX),
        mask=stack([torch.ones_like(row.position, dtype=torch.bool) for row in rows], False),
        position=stack([row.position for row in rows], 0),
        shift=tuple(length - len(row.embeds) if side == "left" else 0 for row in rows),
        cut=tuple(len(row.embeds) - len(left.embeds) for row, left in zip(whole, rows, strict=True)),
    )


def spliced_visuals(
    inputs: Sequence[VisualInput],
    visuals: Sequence[VisualRows],
    starts: Sequence[Sequence[int]],
    padded: Padded,
    compressor: Compressor | None,
) -> Iterator[SplicedVisual]:
    """Yield the record and the columns of each visual input.

    Args:
        inputs: The visual inputs of the batch, in order.
        visuals: Their rows.
        starts: For each prompt, where its inputs begin, without padding.
        padded: The batch.
        compressor: What compressed its videos; None for nothing.
    """
    pairs = iter(zip(inputs, visuals, strict=True))
    for sample, sample_starts in enumerate(starts):
        for start in sample_starts:
            entry, visual = next(pairs)
            compressed = compressor if entry.merge and entry.modality == "video" else None
            first = start + padded.shift[sample]
            left = max(0, min(len(visual.rows), padded.mask.shape[1] - first))  # the others were cut off
            record = Record(
                sample=sample,
                modality="video" if entry.modality == "video" else "image",
                method=compressed.spec if compressed else "none",
                positions=(compressed.positions or "repack") if compressed else "repack",
                start=first,
                frames_before=tuple(before for before, _ in visual.frames),
                frames_after=tuple(after for _, after in visual.frames),
                separators_before=visual.separators[0],
                separators_after=visual.separators[1],
                cut=len(visual.rows) - left,
                by_hand=visual.by_hand,
            )
            yield SplicedVisual(record, torch.arange(first, first + left), visual.frame[:left])
