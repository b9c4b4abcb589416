"""A slow second opinion on transformers' own classes: one sample, no hooks, no padding, no cache, rows by a loop.

It knows where a video's tokens are from the builder of tests/vidcom2/hf_tiny.py, not from the inputs.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tests.vidcom2.hf_tiny import Row, Visual
from vidcom2 import Compressor

MEDIA = {
    "video": ("pixel_values_videos", "video_grid_thw"),
    "image": ("pixel_values", "image_grid_thw", "image_sizes", "batch_num_images"),
}


@dataclass
class Counts:
    """What a Record should say of one video, but for where its row's padding ends."""

    start: int
    frames_before: list[int]
    frames_after: list[int]
    separators: int


@dataclass
class Shortened:
    """What the LLM sees of a prompt: rows [L', D], their token ids [L'], and positions [L'] or [3, L'].

    visual: which rows are visual; levels: deepstack features of those rows, per level.
    """

    rows: Tensor
    ids: Tensor
    positions: Tensor
    visual: Tensor
    levels: list[Tensor]
    counts: list[Counts] = field(default_factory=list)


@dataclass
class Answer:
    """Greedy tokens, and the logits [N, V] that each was taken from."""

    tokens: list[int]
    logits: Tensor


def encode(model: Any, row: Row) -> list[tuple[Visual, Tensor, list[Tensor]]]:
    """Each visual with its features [n, D], separators included, and its deepstack features."""
    found = {}
    for modality in {visual.modality for visual in row.visuals}:
        # InternVL has one door for both.
        door = modality if hasattr(model.model, f"get_{modality}_features") else "image"
        pixels, *names = MEDIA[door]
        media = {name: row.media[name] for name in names if name in row.media}
        out = getattr(model.model, f"get_{door}_features")(row.media[pixels], **media, return_dict=True)
        features = torch.cat([part.reshape(-1, part.shape[-1]) for part in out.pooler_output])
        levels = getattr(out, "deepstack_features", None) or []
        deep = [level if isinstance(level, Tensor) else torch.cat(level) for level in levels]  # 5.17, later
        visuals = [visual for visual in row.visuals if visual.modality == modality]
        if len(features) < sum(len(visual.at) for visual in visuals):  # 5.17: a separator is put on by forward
            patches = features.split([len(visual.patches) for visual in visuals])
            features = torch.cat([row for own in patches for row in (own, model.model.image_newline[None])])
        sizes = [len(visual.at) for visual in visuals]
        parts = zip(features.split(sizes), *(level.split(sizes) for level in deep), strict=True)
        found[modality] = [(v, own, levels) for v, (own, *levels) in zip(visuals, parts, strict=True)]
    order = {modality: iter(items) for modality, items in found.items()}
    return [next(order[visual.modality]) for visual in row.visuals]


def full_positions(model: Any, row: Row) -> Tensor:
    """Positions [L] or [3, L] in the sequence that keeps everything."""
    length = len(row.ids)
    if not hasattr(model.model, "get_rope_index"):
        return torch.arange(length)
    if not row.visuals:
        return torch.arange(length).expand(3, -1)
    grids = {name: value for name, value in row.media.items() if not name.startswith("pixel")}
    return model.model.get_rope_index(**row.text, **grids)[0][:, 0]


@torch.no_grad()
def shorten(model: Any, row: Row, compressor: Compressor) -> Shortened:
    """Drop from the prompt's rows those patch tokens of each video that the compressor does not select."""
    table = model.get_input_embeddings().weight
    rows = [table[token] for token in row.ids]
    kept = [True] * len(rows)
    deep: dict[int, list[Tensor]] = {}
    counts = []
    for visual, features, levels in encode(model, row):
        for i, place in enumerate(visual.at):
            rows[place] = features[i]
            deep[place] = [level[i] for level in levels]
        if visual.modality == "video":
            frames, m = visual.frames, visual.tokens
            chosen = compressor.select(features[: frames * m].view(frames, m, -1))
            index = chosen.index.tolist()
            if chosen.features is not None:
                for i, merged in zip(index, chosen.features, strict=True):
                    rows[visual.patches[i]] = merged
            for i, place in enumerate(visual.patches):
                kept[place] = i in index
            after = [sum(i // m == frame for i in index) for frame in range(frames)]
            # Everything before this video is decided by now.
            counts.append(Counts(sum(kept[: visual.at[0]]), [m] * frames, after, len(visual.at) - frames * m))
    places = [place for place, stays in enumerate(kept) if stays]
    positions = full_positions(model, row)[..., places]
    if compressor.positions == "repack":
        positions = torch.arange(len(places)).expand(*positions.shape[:-1], -1)  # mRoPE's three alike, as for text
    seen = [place for place in places if place in deep]
    depth = len(deep[seen[0]]) if seen else 0
    return Shortened(
        torch.stack([rows[place] for place in places]),
        torch.tensor([row.ids[place] for place in places]),
        positions,
        torch.tensor([place in deep for place in places]),
        [torch.stack([deep[place][level] for place in seen]) for level in range(depth)],
        counts,
    )


@torch.no_grad()
def follow(model: Any, prompt: Shortened, tokens: Sequence[int]) -> Tensor:
    """[V]: the logits of what comes after the prompt and `tokens`."""
    table = model.get_input_embeddings().weight
    rows = torch.cat([prompt.rows, table[torch.tensor(tokens, dtype=torch.long)]])
    # As generate() counts on: from the last position, also where a long video's last frame is at a later one.
    more = prompt.positions[..., -1:] + 1 + torch.arange(len(tokens))
    positions = torch.cat([prompt.positions, more], dim=-1)
    others: dict[str, Any] = {}
    if prompt.levels:
        visual = torch.cat([prompt.visual, torch.zeros(len(tokens), dtype=torch.bool)])
        others = {"visual_pos_masks": visual[None], "deepstack_visual_embeds": prompt.levels}
    lm = model.model.language_model
    if "ple_input_ids" in inspect.signature(lm.forward).parameters:
        others["ple_input_ids"] = torch.cat([prompt.ids, torch.tensor(tokens, dtype=torch.long)])[None]
    hidden = lm(
        inputs_embeds=rows[None],
        position_ids=positions.unsqueeze(-2),
        # Explicit, as transformers would take gaps in the positions for the borders of packed sequences.
        attention_mask=torch.ones(1, len(rows), dtype=torch.long),
        use_cache=False,
        **others,
    ).last_hidden_state
    return model.lm_head(hidden[0, -1])


def greedy(model: Any, row: Row, compressor: Compressor, steps: int) -> Answer:
    """The greedy answer, the whole sequence run anew for each token."""
    prompt = shorten(model, row, compressor)
    tokens: list[int] = []
    logits = []
    for _ in range(steps):
        logits.append(follow(model, prompt, tokens))
        tokens.append(int(logits[-1].argmax()))
    return Answer(tokens, torch.stack(logits))


def beam_search(model: Any, row: Row, compressor: Compressor, beams: int, steps: int) -> list[tuple[list[int], float]]:
    """The best answers of `steps` tokens with their total log-probability, best first; nothing ends early."""
    prompt = shorten(model, row, compressor)
    alive: list[tuple[list[int], float]] = [([], 0.0)]
    for _ in range(steps):
        grown = []
        for tokens, score in alive:
            step = follow(model, prompt, tokens).log_softmax(-1)
            grown += [([*tokens, i], score + value) for i, value in enumerate(step.tolist())]
        alive = sorted(grown, key=lambda pair: -pair[1])[:beams]
    return alive
