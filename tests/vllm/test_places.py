"""Positions of compressed prompts against transformers' own, and rows that know their places."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.vidcom2.hf_tiny import MERGE, Row, image, prompt, text, tiny, video
from vidcom2.vllm.places import Medium, Placed, PlacedRows, grid_places, placed, prompt_positions

PROMPTS = {
    "a video": [text(3), video(3), text(5)],
    "two videos": [text(1), video(3), text(2), video(3, 2, 4), text(4)],
    "video and image": [text(2), video(3), text(1), image(), text(2)],
    "image and video": [text(2), image(), text(1), video(1), text(1)],
    "nothing behind": [text(1), video(3)],
    "only text": [text(7)],
}
"""No video has more steps in time than rows or columns: behind such a video, transformers 5 counts on from another
position than transformers 4 and vLLM; see `test_text_behind_a_long_video`."""


def transformers_positions(kind: str, row: Row) -> Tensor:
    """[3, L], of the whole prompt."""
    grids = {name: row.media[name] for name in row.media if "pixel" not in name}
    return tiny(kind).model.get_rope_index(**row.text, **grids)[0][:, 0]


def grids(kind: str, row: Row) -> list[Tensor]:
    """The places of each visual's grid."""
    found = []
    seen = {"image": 0, "video": 0}
    for visual in row.visuals:
        t, h, w = row.media[f"{visual.modality}_grid_thw"][seen[visual.modality]].tolist()
        seconds = 1.0
        if kind == "qwen2_5_vl" and visual.modality == "video":
            seconds = 2 * row.media["second_per_grid_ts"][seen["video"]].item()  # tokens_per_second is 2
        found.append(grid_places(t, h // MERGE, w // MERGE, seconds))
        seen[visual.modality] += 1
    return found


@pytest.mark.parametrize("parts", PROMPTS.values(), ids=PROMPTS)
@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen2_5_vl"])
def test_whole_prompts(kind, parts):
    row = prompt(kind, *parts)
    media = [Medium.image(visual.at[0], grid) for visual, grid in zip(row.visuals, grids(kind, row), strict=True)]
    expected = transformers_positions(kind, row)
    positions, delta = prompt_positions(len(row.ids), media)
    assert positions.equal(expected)
    assert delta == expected.max() + 1 - len(row.ids)


def test_text_behind_a_long_video():
    """It follows the largest position, in time too: https://arxiv.org/abs/2409.12191, section 2.1, and vLLM."""
    positions, delta = prompt_positions(2 + 5 + 1, [Medium.image(2, grid_places(5, 1, 1, 2.5))])
    assert positions.tolist() == [[0, 1, 2, 4, 7, 9, 12, 13], [0, 1, 2, 2, 2, 2, 2, 13], [0, 1, 2, 2, 2, 2, 2, 13]]
    assert delta == 14 - 8


class Model:
    """What vLLM does with rows and positions."""

    def embed_input_ids(
        self, input_ids: Tensor, features: Any = None, *, is_multimodal: Tensor | None = None
    ) -> Tensor:
        return torch.zeros(len(input_ids), 4)

    def forward(self, input_ids: Any, positions: Tensor, more: str = "") -> Tensor:
        return positions.clone()


class Engine(PlacedRows, Model):
    pass


@pytest.mark.parametrize("chunk", [1000, 7, 1])
@pytest.mark.parametrize("parts", PROMPTS.values(), ids=PROMPTS)
@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen2_5_vl"])
def test_kept_tokens_keep_their_positions_in_every_chunk(kind, parts, chunk):
    """Prefill in chunks of any size, in bfloat16, with padded position buffers."""
    row = prompt(kind, *parts)
    generator = torch.Generator().manual_seed(0)
    stays = torch.ones(len(row.ids), dtype=torch.bool)
    features, media, is_visual = [], [], torch.zeros(len(row.ids), dtype=torch.bool)
    for visual, grid in zip(row.visuals, grids(kind, row), strict=True):
        at = torch.tensor(visual.at)
        is_visual[at] = True
        rows = torch.zeros(len(at), 4, dtype=torch.bfloat16)
        if visual.modality == "video":
            keep = torch.randperm(len(at), generator=generator)[: len(at) // 3 + 1].sort().values
            stays[at] = False
            stays[at[keep]] = True
            rows = Placed.of(rows[keep], grid[keep])
        features.append(rows)
    new = {old: i for i, old in enumerate(stays.nonzero().flatten().tolist())}
    for visual, grid, rows in zip(row.visuals, grids(kind, row), features, strict=True):
        offset = new[next(place for place in visual.at if place in new)]
        if visual.modality == "video":
            media.append(Medium.compressed(offset, len(rows), grid))
        else:
            media.append(Medium.image(offset, grid))
    positions, delta = prompt_positions(len(new), media)
    expected = transformers_positions(kind, row)
    assert delta == expected.max() + 1 - len(new)

    engine, seen = Engine(), []
    starts = [new[next(place for place in visual.at if place in new)] for visual in row.visuals]
    for begin in range(0, len(new), chunk):
        end = min(begin + chunk, len(new))
        window = [
            feature[max(begin - start, 0) : end - start]
            for start, feature in zip(starts, features, strict=True)
            if start < end and begin < start + len(feature)
        ]
        engine.embed_input_ids(torch.zeros(end - begin), window, is_multimodal=is_visual[stays][begin:end])
        buffer = torch.nn.functional.pad(positions[:, begin:end], (0, 3))
        seen.append(engine.forward(None, buffer)[:, : end - begin])
    assert torch.cat(seen, dim=1).equal(expected[:, stays])


def test_a_step_without_videos_after_one_with_videos():
    engine = Engine()
    rows = Placed.of(torch.zeros(2, 4), torch.tensor([[1, 2, 3], [4, 5, 6]]))
    is_video = torch.tensor([False, True, True])
    engine.embed_input_ids(torch.zeros(3), [rows], is_multimodal=is_video)
    assert engine.forward(None, torch.ones(3, 3, dtype=torch.int64)).tolist() == [[1, 2, 5], [1, 3, 6], [1, 4, 7]]
    assert engine.forward(None, torch.ones(3, 3, dtype=torch.int64)).eq(1).all()
    engine.embed_input_ids(torch.zeros(3), [rows], is_multimodal=is_video)
    engine.embed_input_ids(torch.zeros(3))
    assert engine.forward(None, torch.ones(3, 3, dtype=torch.int64)).eq(1).all()


def test_slices_know_their_places_and_results_are_plain():
    rows = Placed.of(torch.arange(12.0).view(4, 3), torch.arange(12).view(4, 3))
    for cut in (slice(1, 3), slice(0, 0), slice(None), slice(-1, None)):
        assert placed(rows[cut]).equal(rows.places[cut])
        assert torch.Tensor(rows[cut]).equal(torch.arange(12.0).view(4, 3)[cut])
    assert placed(rows[1:][1:]).equal(rows.places[2:])
    for plain in (
        rows[0],
        rows + 1,
        torch.cat([rows, rows]),
        rows.to(torch.bfloat16),
        rows[:, 1:],
        rows[torch.tensor([1])],
    ):
        assert type(plain) is Tensor
    assert placed(torch.zeros(3, 2)).equal(torch.zeros(3, 3, dtype=torch.int64))


def test_places_of_a_long_video_are_exact():
    """bfloat16 is exact to 256 only; see docs/serving.md."""
    grid = grid_places(64, 12, 20)
    rows = Placed.of(torch.zeros(len(grid), 4, dtype=torch.bfloat16), grid)
    assert placed(rows[5000:]).equal(grid[5000:])
    assert list(accumulate([64, 12, 20], lambda a, b: a * b))[-1] == len(grid)
    assert grid.unique(dim=0).shape == grid.shape
