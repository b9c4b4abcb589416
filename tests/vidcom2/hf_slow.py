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
from tests.vidcom2.kinds import NEW
from vidcom2 import Compressor
from vidcom2.models.transformers import LAYOUTS

MEDIA = {
    "video": (
        "pixel_values_videos",
        "video_grid_thw",
        "video_merge_sizes",
        "video_position_ids",
        "num_frames_per_video",
        "target_sizes_videos",
    ),
    "image": (
        "pixel_values",
        "image_grid_thw",
        "image_merge_sizes",
        "image_sizes",
        "batch_num_images",
        "image_position_ids",
        "target_sizes",
    ),
    "audio": ("input_features", "feature_attention_mask"),
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
    """What the LLM sees of a prompt: rows [L', D] and positions [L'] or [3, L'].

    visual: which rows are visual; levels: deepstack features of those rows, per level. kind, ids, groups: the kind of
    model, the rows' token ids, and the number of the frame or image that each is of, None for text.
    """

    rows: Tensor
    positions: Tensor
    visual: Tensor
    levels: list[Tensor]
    kind: str
    ids: list[int]
    groups: list[int | None]
    counts: list[Counts] = field(default_factory=list)


@dataclass
class Answer:
    """Greedy tokens, and the logits [N, V] that each was taken from."""

    tokens: list[int]
    logits: Tensor


def outer_of(model: Any) -> Any:
    """The part that encodes; the thinkers of Qwen-Omni do it themselves in 5.17."""
    return model.model if hasattr(model.model, "language_model") or hasattr(model.model, "text_model") else model


def lm_of(model: Any) -> Any:
    """The language model, which has another name in SmolVLM."""
    return getattr(model.model, "text_model", getattr(model.model, "language_model", model.model))


def encode(model: Any, row: Row) -> list[tuple[Visual, Tensor, list[Tensor]]]:
    """Each visual with its features [n, D], separators included, and its deepstack features."""
    found: dict[Any, Any] = {}
    outer = outer_of(model)

    def media_of(visual: Visual) -> tuple[str, ...]:
        """InternVL and SmolVLM have one argument for images and for the frames of videos."""
        own = MEDIA[visual.modality]
        return own if own[0] in row.media else MEDIA["image"]

    for media in {media_of(visual) for visual in row.visuals}:
        visuals = [visual for visual in row.visuals if media_of(visual) == media]
        door = visuals[0].modality if hasattr(outer, f"get_{visuals[0].modality}_features") else "image"
        pixels, *names = media
        values = row.media[pixels] if pixels in row.media else row.media["pixel_values_images"]  # Video-LLaVA in 5.17
        settings = {name: row.media[name] for name in names if name in row.media}
        out = getattr(outer, f"get_{door}_features")(values, **settings, return_dict=True)
        pooled = [out.last_hidden_state] if door == "audio" else out.pooler_output
        features = torch.cat([part.reshape(-1, part.shape[-1]) for part in pooled])
        levels = getattr(out, "deepstack_features", None) or []
        deep = [level if isinstance(level, Tensor) else torch.cat(level) for level in levels]  # 5.17, later
        if len(features) < sum(len(visual.at) for visual in visuals):  # 5.17: a separator is put on by forward
            patches = features.split([len(visual.patches) for visual in visuals])
            features = torch.cat([row for own in patches for row in (own, outer.image_newline[None])])
        sizes = [len(visual.at) for visual in visuals]
        parts = zip(features.split(sizes), *(level.split(sizes) for level in deep), strict=True)
        found[media] = [(v, own, levels) for v, (own, *levels) in zip(visuals, parts, strict=True)]
    order = {media: iter(items) for media, items in found.items()}
    return [next(order[media_of(visual)]) for visual in row.visuals]


def full_positions(model: Any, row: Row) -> Tensor:
    """Positions [L] or [3, L] in the sequence that keeps everything."""
    length = len(row.ids)
    outer = outer_of(model)
    if not hasattr(outer, "get_rope_index"):
        return torch.arange(length)
    if not row.visuals:
        return torch.arange(length).expand(3, -1)
    if row.kind in NEW and (rope := NEW[row.kind].rope) is not None:
        return outer.get_rope_index(**rope(row))[0][:, 0]
    grids = {name: value for name, value in row.media.items() if not name.startswith("pixel")}
    return outer.get_rope_index(**row.text, **grids)[0][:, 0]


@torch.no_grad()
def shorten(model: Any, row: Row, compressor: Compressor) -> Shortened:
    """Drop from the prompt's rows those patch tokens of each video that the compressor does not select."""
    rows = list(model.get_input_embeddings()(torch.tensor(row.ids)))
    groups: list[int | None] = [None] * len(rows)
    kept = [True] * len(rows)
    deep: dict[int, list[Tensor]] = {}
    counts = []
    for number, (visual, features, levels) in enumerate(encode(model, row)):
        for i, place in enumerate(visual.at):
            groups[place] = 1000 * number + i // visual.tokens
            rows[place] = features[i]
            if levels:
                deep[place] = [level[i] for level in levels]
        if visual.modality == "video":
            frames, m = visual.frames, visual.tokens
            chosen = compressor.select(features[: frames * m].view(frames, m, -1), visual.grid)
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
    if (compressor.positions or LAYOUTS[model.config.model_type].positions) == "repack":
        positions = torch.arange(len(places)).expand(*positions.shape[:-1], -1)  # mRoPE's three alike, as for text
    seen = [place for place in places if place in deep]
    depth = len(deep[seen[0]]) if seen else 0
    return Shortened(
        torch.stack([rows[place] for place in places]),
        positions,
        torch.tensor([place in deep for place in places]),
        [torch.stack([deep[place][level] for place in seen]) for level in range(depth)],
        row.kind,
        [row.ids[place] for place in places],
        [groups[place] for place in places],
        counts,
    )


@torch.no_grad()
def follow(model: Any, prompt: Shortened, tokens: Sequence[int]) -> Tensor:
    """[V]: the logits of what comes after the prompt and `tokens`."""
    rows = torch.cat([prompt.rows, model.get_input_embeddings()(torch.tensor(tokens, dtype=torch.long))])
    # As generate() counts on: from the last position, also where a long video's last frame is at a later one.
    more = prompt.positions[..., -1:] + 1 + torch.arange(len(tokens))
    positions = torch.cat([prompt.positions, more], dim=-1)
    # Explicit, as transformers would take gaps in the positions for the borders of packed sequences.
    others: dict[str, Any] = {"attention_mask": torch.ones(1, len(rows), dtype=torch.long)}
    if prompt.levels:
        visual = torch.cat([prompt.visual, torch.zeros(len(tokens), dtype=torch.bool)])
        others |= {"visual_pos_masks": visual[None], "deepstack_visual_embeds": prompt.levels}
    ids, lm = [*prompt.ids, *tokens], lm_of(model)
    if "ple_input_ids" in inspect.signature(lm.forward).parameters:
        others["ple_input_ids"] = torch.tensor(ids)[None]
    if prompt.kind in NEW and (extra := NEW[prompt.kind].extra) is not None:
        others |= extra(model, ids, [*prompt.groups, *(None for _ in tokens)])
    hidden = lm(
        inputs_embeds=rows[None],
        position_ids=positions.unsqueeze(-2),
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
