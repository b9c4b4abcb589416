"""Methods that look at places get the rows and columns of a frame, in every kind of model, also from generate()."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from tests.vidcom2.hf_tiny import QWEN, STACKED, Row, batch, prompt, text, tiny, video
from tests.vidcom2.kinds import NEW
from tests.vidcom2.test_transformers import assert_follows, generate, references
from vidcom2 import Compressor, compressor
from vidcom2.compressor import Kept
from vidcom2.models.layouts import LAYOUTS
from vidcom2.models.layouts.layout import FramedVideo, Layout, with_patches

noted: list[tuple[int, int]] = []
OTHERS = ("llava_onevision", "llava_next_video", "internvl")
CLASS_TOKEN = "video_llava"
KINDS = [kind for kind in (*QWEN, *OTHERS, *NEW) if kind != CLASS_TOKEN]

model_of = functools.cache(tiny)


@dataclass(frozen=True)
class Noted(Compressor):
    """Notes the grid of each video, and keeps the first token of each frame."""

    name: ClassVar[str] = "noted"
    uses_grid: ClassVar[bool] = True

    def _select_grid(self, x: Tensor, rows: int, columns: int) -> Kept:
        noted.append((rows, columns))
        frames, m = x.shape[:2]
        return Kept(torch.arange(frames) * m, torch.ones(frames, dtype=torch.int64))


def rows_of(kind: str) -> list[Row]:
    """Prompts with frames that are no squares, where the kind has such; two videos of one M in one of them."""
    if not (NEW[kind].stacked if kind in NEW else kind in STACKED):
        first = [video(3, 2, 3)]
        second = [video(4, 3, 2), text(2), video(2, 2, 3)] if kind not in NEW or NEW[kind].videos else [video(4, 3, 2)]
    else:
        first, second = [video(4, 2, 3)], [video(4, 2, 3)]
    return [prompt(kind, text(3), *first, text(2), seed=1), prompt(kind, text(6), *second, text(3), seed=2)]


def expected(rows: list[Row]) -> list[tuple[int, int]]:
    return [visual.grid or (math.isqrt(visual.tokens),) * 2 for row in rows for visual in row.videos]


@pytest.mark.parametrize("kind", KINDS)
def test_the_grid_arrives(kind):
    model, rows = model_of(kind), rows_of(kind)
    inputs = batch(rows)
    assert any(h != w for h, w in expected(rows)) or kind in (*OTHERS, "smolvlm", "perception_lm")
    with Noted(0.5)(model):
        noted.clear()
        with torch.no_grad():
            model(**inputs)
        assert noted == expected(rows)
        noted.clear()
        generate(model, inputs)
        assert noted == expected(rows)


@pytest.mark.parametrize("kind", ["qwen2_vl", "video_llama_3"])
@pytest.mark.parametrize("copies", [{"num_beams": 2}, {"num_return_sequences": 2, "do_sample": True}])
def test_the_grid_of_beams_and_samples(kind, copies):
    """Each prompt has one video, since VideoLLaMA 3's beams get the wrong ones otherwise."""
    model = model_of(kind)
    rows = [prompt(kind, text(3), video(3, 2, 3), seed=1), prompt(kind, text(6), video(2, 3, 2), text(3), seed=2)]
    with Noted(0.5)(model):
        noted.clear()
        model.generate(**batch(rows), max_new_tokens=2, **{"do_sample": False, **copies})
    assert noted == [grid for grid in expected(rows) for _ in range(2)]


@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen3_vl", "video_llama_3", "gemma4", "minicpmv4_6"])
@pytest.mark.parametrize("spec", ["simplecluster@0.4", "pool@0.4", "grid.time@0.2"])
def test_the_answer_is_the_references(kind, spec):
    model, rows = model_of(kind), rows_of(kind)
    with compressor(spec)(model):
        out = generate(model, batch(rows))
    assert_follows(out, references(model, rows, compressor(spec)))


def test_a_class_token_is_an_error():
    model, rows = model_of(CLASS_TOKEN), [prompt(CLASS_TOKEN, text(2), video(3), text(2))]
    with Noted(0.5)(model), pytest.raises(ValueError, match=r"10 tokens are no square: .* take another method"):
        generate(model, batch(rows))


# ---- which frame is whose


def framed(row: int, frames: int, m: int = 6) -> FramedVideo:
    empty = torch.zeros(0, dtype=torch.int64)
    return FramedVideo(row, torch.arange(frames * m), frames, empty, torch.arange(frames * m))


def test_copies_of_a_prompt_have_its_grids():
    """Rows 0 and 1 are copies of a prompt with two videos, 2 and 3 of a prompt with one."""
    layout = Layout("video_token_id", LAYOUTS["qwen2_vl"].frames, patches=lambda arguments: arguments["told"])
    told = [(4, 6)] * 2 + [(6, 4)] * 3 + [(2, 12)]
    videos = [framed(row, frames) for row, frames in ((0, 2), (0, 3), (1, 2), (1, 3), (2, 1), (3, 1))]
    found = [video.grid for video in with_patches(layout, videos, {"told": told})]
    assert found == [(2, 3), (3, 2), (2, 3), (3, 2), (1, 6), (1, 6)]
    assert [video.grid for video in with_patches(layout, videos[:2] + videos[4:5], {"told": told})] == [
        (2, 3),
        (3, 2),
        (1, 6),
    ]
    assert [video.grid for video in with_patches(layout, videos, {"told": told[:5]})] == [None] * 6  # do not fit
    assert [video.grid for video in with_patches(layout, videos, {"told": None})] == [None] * 6
