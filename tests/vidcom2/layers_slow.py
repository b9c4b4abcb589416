"""A slow second opinion on dropping tokens inside the LLM: one sample, no cache, no padding, whole attention maps.

The layers of an eager model are called one by one; a row is dropped by leaving it out of a list. The schedule (how many
tokens a stage keeps) and the frames' budgets are the method's own; which tokens these are is decided here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vidcom2.inside import InsideLLM
from vidcom2.methods.pdrop import PDrop
from vidcom2.methods.sparsevlm import SparseVLM


@dataclass
class Dense:
    """A prompt as the LLM gets it: rows [N, D], positions [N] or [3, N], which rows are words, and of each video the
    places of its patch tokens, frames, and separators. visual, levels: deepstack features and where they go."""

    rows: Tensor
    positions: Tensor
    words: list[bool]
    videos: list[tuple[list[int], int, int]]
    visual: Tensor | None = None
    levels: Sequence[Tensor] = ()


@dataclass
class Slot:
    """A row on its way: number of its prompt row (None for merged ones), hidden state, position, and of which video
    and frame it is."""

    number: int | None
    hidden: Tensor
    position: Tensor
    video: int | None = None
    frame: int = 0


@dataclass
class Outcome:
    """Final hidden states [n, D]; tokens of each video in each layer; patch tokens of its frames in the last one."""

    hidden: Tensor
    counts: list[list[int]] = field(default_factory=list)
    frames: list[list[int]] = field(default_factory=list)


def through(layer: Any, lm: Any, slots: list[Slot]) -> tuple[Tensor, Tensor | None, tuple[Tensor, Tensor]]:
    """What a layer makes of the rows [n, D], its attention map [heads, n, n], and the rotary embedding it used.

    A layer with linear attention has no map, and needs no mask for a single sequence.
    """
    hidden = torch.stack([slot.hidden for slot in slots])[None]
    positions = torch.stack([slot.position for slot in slots], dim=-1).unsqueeze(-2)
    rotary = lm.rotary_emb(hidden, positions)
    n = len(slots)
    if not hasattr(layer, "self_attn"):
        out = layer(hidden, attention_mask=None, position_embeddings=rotary, position_ids=None, past_key_values=None)
        return out[0], None, (rotary[0][0], rotary[1][0])
    mask = torch.full((n, n), torch.finfo(hidden.dtype).min).triu(1)[None, None]
    maps = []
    handle = layer.self_attn.register_forward_hook(lambda module, args, output: maps.append(output[1][0]))
    try:
        out = layer(hidden, attention_mask=mask, position_embeddings=rotary, position_ids=None, past_key_values=None)
    finally:
        handle.remove()
    return out[0], maps[0], (rotary[0][0], rotary[1][0])


def find_raters(method: InsideLLM, dense: Dense, video: int) -> list[int]:
    columns = dense.videos[video][0]
    asked = [i for i, word in enumerate(dense.words) if word and i > columns[-1]]
    if not isinstance(method, SparseVLM) or not asked:
        return [len(dense.rows) - 1]
    likeness = torch.stack([(dense.rows[c] @ dense.rows[asked].T).softmax(0) for c in columns]).mean(0)
    return [i for i, value in zip(asked, likeness, strict=True) if value > likeness.mean()] or asked


def grade(
    method: InsideLLM, attention: Tensor, rotary: tuple[Tensor, Tensor], size: int, raters: list[int], at: list[int]
):
    """The score of each row in `at`, of heads of `size` channels; those that the rotary embedding lacks stay as is."""
    part = attention[:, raters][:, :, at]
    if isinstance(method, SparseVLM) and method.version == 2:
        cos, sin = rotary
        still = size - cos.shape[-1]
        part = part / ((cos[raters] @ cos[at].T + sin[raters] @ sin[at].T + still) / size**0.5)
        sums = [float(head.sum()) for head in part]
        part = part[sorted(range(len(sums)), key=lambda h: -sums[h])[: method.heads]]
    return part.mean(dim=(0, 1)).tolist()


def pick(scores: list[float], keep: int, frames: list[int], budgets: list[int] | None) -> list[int]:
    """Which of the rows stay."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    if budgets is None:
        return sorted(order[:keep])
    there = [frames.count(t) for t in range(len(budgets))]
    given = [min(a, b) for a, b in zip(budgets, there, strict=True)]
    while sum(given) < sum(budgets) and given != there:
        spare = [a - b for a, b in zip(there, given, strict=True)]
        given[spare.index(max(spare))] += 1
    return sorted(i for t, k in enumerate(given) for i in [j for j in order if frames[j] == t][:k])


def recycle(slots: list[Slot], scores: list[float]) -> list[Slot]:
    """SparseVLM's merged tokens of the dropped ones."""
    chosen = sorted(range(len(slots)), key=lambda i: -scores[i])[: int(0.3 * len(slots)) + 1]
    own = [slots[i] for i in chosen]
    x = [slot.hidden for slot in own]
    far = [[float((a - b).norm()) / len(a) ** 0.5 for b in x] for a in x]
    clusters = int(len(x) / 10) + 1
    density = [float(torch.exp(-torch.tensor([d * d for d in sorted(row)[:clusters]]).mean())) for row in far]
    most = max(map(max, far))
    lonely = [min([far[i][j] for j in range(len(x)) if density[j] > density[i]], default=most) for i in range(len(x))]
    centres = sorted(range(len(x)), key=lambda i: -density[i] * lonely[i])[:clusters]
    groups: list[list[Tensor]] = [[] for _ in centres]
    for i in range(len(x)):
        mine = centres.index(i) if i in centres else min(range(clusters), key=lambda c: far[i][centres[c]])
        groups[mine].append(x[i])
    return [
        Slot(None, sum(group) / (len(group) + 1e-6), own[c].position, own[c].video, own[c].frame)  # type: ignore[arg-type]
        for group, c in zip(groups, centres, strict=True)
    ]


@torch.no_grad()
def run(lm: Any, dense: Dense, method: InsideLLM, after: Tensor) -> Outcome:
    """The language model on a prompt and what follows it, rows [t, D]."""
    repack, layers = method.numbers == "repack", len(lm.layers)
    full = [layer.self_attn for layer in lm.layers if hasattr(layer, "self_attn")]
    linear = [i for i, layer in enumerate(lm.layers) if not hasattr(layer, "self_attn")]
    more = dense.positions[..., -1:] + 1 + torch.arange(len(after))
    positions = torch.cat([dense.positions, more], dim=-1)
    slots = [Slot(i, row, positions[..., i]) for i, row in enumerate([*dense.rows, *after])]
    plans, budgets, raters = [], [], []
    out: set[int] = set()  # rows that do not enter the first layer
    for v, (columns, frames, _) in enumerate(dense.videos):
        for i, column in enumerate(columns):
            slots[column].video, slots[column].frame = v, i // (len(columns) // frames)
        plans.append(method.schedule(layers, len(columns), linear))
        x = dense.rows[columns].view(frames, -1, dense.rows.shape[-1])
        fca = method.fca
        budgets.append([fca and fca.budgets(x, stage.keep / len(columns)).tolist() for stage in plans[-1]])
        raters.append(find_raters(method, dense, v))
        if (kept := method.enter(x)) is not None and plans[-1]:
            for place, row in zip(kept.index.tolist(), kept.apply(x), strict=True):
                slots[columns[place]].hidden = row
            out.update(set(columns) - {columns[place] for place in kept.index.tolist()})
    if out:
        slots[:] = [slot for slot in slots if slot.number not in out]
        for i, slot in enumerate(slots):
            slot.position = torch.full_like(slot.position, i) if repack else slot.position
    ranked: dict[int, list[float]] = {}
    outcome = Outcome(dense.rows, [[] for _ in dense.videos])

    def rank(attention: Tensor | None, rotary: tuple[Tensor, Tensor]) -> None:
        assert attention is not None, "a linear layer ranks"
        for v, own in enumerate(raters):
            at = [i for i, slot in enumerate(slots) if slot.video == v]
            rows = [i for i, slot in enumerate(slots) if slot.number in own]
            ranked[v] = grade(method, attention, rotary, full[0].head_dim, rows, at)

    def drop(stage: int) -> None:
        for v, plan in enumerate(plans):
            at = [i for i, slot in enumerate(slots) if slot.video == v]
            keep = plan[stage].keep
            if isinstance(method, SparseVLM) and method.version == 1:
                keep = min(keep, len(at) - 1)
            kept = pick(ranked[v], keep, [slots[i].frame for i in at], budgets[v][stage])
            gone = [i for i in range(len(at)) if i not in kept]
            merged = []
            if isinstance(method, SparseVLM) and method.version == 1 and gone:
                merged = recycle([slots[at[i]] for i in gone], [ranked[v][i] for i in gone])
            lost = {at[i] for i in gone}
            slots[:] = [
                *(slot for i, slot in enumerate(slots) if i <= at[-1] and i not in lost),
                *merged,
                *slots[at[-1] + 1 :],
            ]
        if repack and plans:
            for i, slot in enumerate(slots):
                slot.position = torch.full_like(slot.position, i)

    for index, layer in enumerate(lm.layers):
        for stage, what in enumerate(plans[0] if plans else ()):
            if isinstance(method, PDrop) and what.rank == index:
                _, attention, rotary = through(layer, lm, slots)
                rank(attention, rotary)
                drop(stage)
            elif not isinstance(method, PDrop) and what.rank + 1 == index:
                drop(stage)
        for v in range(len(dense.videos)):
            outcome.counts[v].append(sum(slot.video == v for slot in slots))
        hidden, attention, rotary = through(layer, lm, slots)
        if any(what.rank == index for what in (plans[0] if plans else ())) and not isinstance(method, PDrop):
            rank(attention, rotary)
        if index < len(dense.levels):
            assert dense.visual is not None
            places = dense.visual.nonzero()[:, 0].tolist()
            for i, slot in enumerate(slots):
                if slot.number in places:
                    hidden[i] += dense.levels[index][places.index(slot.number)]
        for slot, row in zip(slots, hidden, strict=True):
            slot.hidden = row
    for v, (_, frames, _) in enumerate(dense.videos):
        left = [slot.frame for slot in slots if slot.video == v and slot.number is not None]
        outcome.frames.append([left.count(t) for t in range(frames)])
    outcome.hidden = lm.norm(torch.stack([slot.hidden for slot in slots]))
    return outcome
