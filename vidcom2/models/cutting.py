"""Dropping rows between two layers, in four steps: choose, merge, reorder, record.

`choose` says which tokens of a video stay. `merge` puts merged tokens behind the rows. `reorder` takes the rows that
stay, in the order of the sequence, and pads them. `Cut.record` notes on the video where its tokens are now.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from vidcom2.features import full_precision
from vidcom2.inside import InsideLLM, Merged, choose_per_frame
from vidcom2.inside import choose as choose_best
from vidcom2.models.visual import Visual

NEW = -1
"""Origin of a merged row; new column of a dropped row."""


@dataclass(frozen=True)
class Rows:
    """The rows of a batch between two layers.

    Attributes:
        hidden: [B, n, D], hidden states.
        positions: Rotary positions, [B, n] or, for mRoPE, [3, B, n].
        origin: int64 [B, n], the column of each row in the prompt; NEW for merged rows.
        key: int64 [B, n], where each row stands in the sequence, in ascending order.
        live: bool [B, n], rows that stay and are no padding.
    """

    hidden: Tensor
    positions: Tensor
    origin: Tensor
    key: Tensor
    live: Tensor


@dataclass(frozen=True)
class Cut:
    """What one stage does to one video.

    Attributes:
        visual: The video.
        kept: int64, indices of the tokens that stay, among the present ones.
        gone: int64, indices of the tokens that go.
        merged: Dropped tokens that stay as means; None for none.
        added: int64, columns of the merged tokens behind the rows.
    """

    visual: Visual
    kept: Tensor
    gone: Tensor
    merged: Merged | None
    added: Tensor

    @property
    def centres(self) -> Tensor:
        """int64, indices of the dropped tokens that the merged ones stand for."""
        return self.gone[:0] if self.merged is None else self.gone[self.merged.centre]

    def record(self, now: Tensor) -> None:
        """Note the outcome on the video. now: int64 [n], the new column of each row; NEW for rows that are gone."""
        visual, numbers = self.visual, torch.arange(len(self.added), device=self.kept.device)
        visual.rows = now[torch.cat([visual.rows[self.kept], self.added])]
        visual.frame = torch.cat([visual.frame[self.kept], visual.frame[self.centres]])
        visual.ids = torch.cat([visual.ids[self.kept], visual.known + numbers])
        visual.known += len(numbers)
        if visual.scores is not None:
            visual.ranked.append(visual.scores)
            visual.history.append(visual.ids)
        # A prompt may end in the video, so that its last token is dropped. Then the row before it ranks.
        visual.raters = now.cummax(dim=0).values[visual.raters]


def enter(visual: Visual) -> Cut:
    """Return which tokens of a video enter the first layer."""
    assert visual.entering is not None
    kept = visual.entering.index.to(visual.rows.device)
    gone = torch.ones_like(visual.rows, dtype=torch.bool).index_fill_(0, kept, False).nonzero()[:, 0]
    return Cut(visual, kept, gone, None, gone[:0])


def choose(method: InsideLLM, visual: Visual, stage: int, hidden: Tensor) -> Cut:
    """Return which tokens of a video stay at a stage, and what the others are merged to.

    Args:
        method: The method.
        visual: The video, with its scores.
        stage: Number of the stage.
        hidden: [B, n, D], the rows as they leave the ranking layer.
    """
    present = len(visual.rows)
    assert visual.scores is not None
    budgets = visual.budgets[stage]
    if budgets is None:
        kept = choose_best(visual.scores, method.limit(visual.stages[stage].keep, present))
    else:
        kept = choose_per_frame(visual.scores, visual.frame, budgets)
    gone = torch.ones_like(visual.rows, dtype=torch.bool).index_fill_(0, kept, False).nonzero()[:, 0]
    merged = None
    if len(gone):
        with full_precision(hidden.device):
            merged = method.merge(hidden[visual.place.row, visual.rows[gone]], visual.scores[gone])
    return Cut(visual, kept, gone, merged, gone[:0])


def merge(rows: Rows, cuts: Sequence[Cut]) -> tuple[Rows, list[Cut]]:
    """Mark dropped rows, and put the merged tokens of every sequence behind its rows.

    A merged token has the position of its centre. In the sequence it stands behind the last token that the video had.
    """
    batch, length = rows.hidden.shape[:2]
    room = length + 1  # between the keys of two rows, for more merged tokens than there can be
    counts = [0] * batch
    for cut in cuts:
        counts[cut.visual.place.row] += len(cut.centres)
    extra = max(counts)
    rows = Rows(
        hidden=pad(rows.hidden, (0, 0, 0, extra)) if extra else rows.hidden,
        positions=pad(rows.positions, (0, extra)) if extra else rows.positions,
        origin=pad(rows.origin, (0, extra), value=NEW),
        key=pad(rows.key * room, (0, extra)),
        live=pad(rows.live, (0, extra)),
    )
    ends = [length] * batch
    with_columns = []
    for cut in cuts:
        visual, b, count = cut.visual, cut.visual.place.row, len(cut.centres)
        rows.live[b, visual.rows[cut.gone]] = False
        added = torch.arange(ends[b], ends[b] + count, device=rows.key.device)
        ends[b] += count
        if cut.merged is not None:
            rows.hidden[b, added] = cut.merged.features.to(rows.hidden.dtype)
            rows.positions[..., b, added] = rows.positions[..., b, visual.rows[cut.centres]]
            rows.key[b, added] = rows.key[b, visual.rows[-1]] + 1 + torch.arange(count, device=added.device)
            rows.live[b, added] = True
        with_columns.append(replace(cut, added=added))
    return rows, with_columns


def reorder(rows: Rows, on_the_right: bool) -> tuple[Rows, Tensor]:
    """Take the live rows, in the order of the sequence, padded to the longest of the batch.

    Args:
        rows: The rows, dropped ones included.
        on_the_right: Whether padding goes to the right of the rows.

    Returns:
        The rows that are left, and the new column of each row, int64 [B, n], NEW for rows that are gone.
    """
    longest = int(rows.live.sum(dim=1).max())
    dead: Tensor | int = rows.key.max() + 1 if on_the_right else -1
    order = torch.where(rows.live, rows.key, dead).argsort(dim=1, stable=True)
    order = order[:, :longest] if on_the_right else order[:, order.shape[1] - longest :]
    columns = torch.arange(longest, device=order.device).expand_as(order)
    now = torch.full_like(rows.key, NEW).scatter(1, order, columns).masked_fill(~rows.live, NEW)
    live = rows.live.gather(1, order)
    order = order.masked_fill(~live, 0)  # padding holds the first row, not rows that are gone
    left = Rows(
        hidden=rows.hidden.gather(1, order[..., None].expand(-1, -1, rows.hidden.shape[-1])),
        positions=rows.positions.gather(-1, order.expand(*rows.positions.shape[:-2], *order.shape)),
        origin=rows.origin.gather(1, order),
        key=columns,
        live=live,
    )
    return left, now
