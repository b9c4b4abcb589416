"""Images are not compressed, which is said where they may be the frames of a video."""

from __future__ import annotations

import warnings

import pytest

from tests.vidcom2.hf_tiny import QWEN, batch, image, prompt, text, tiny, video
from tests.vidcom2.test_transformers import generate
from vidcom2 import VidCom2

FRAMES = (text(3), image(), image(), image(), text(4))
over_kinds = pytest.mark.parametrize("kind", [*QWEN, "llava_onevision"])


@over_kinds
def test_a_video_handed_over_as_images_is_told_once(kind):
    model, inputs = tiny(kind), batch([prompt(kind, *FRAMES)])
    dense = generate(model, inputs)
    with VidCom2(0.3)(model) as run:
        with pytest.warns(RuntimeWarning, match=r"3 images and no video .* batch of 1: .*videos=\[frames\]"):
            out = generate(model, inputs)
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            generate(model, inputs)
    assert run.records == []
    assert out.sequences.tolist() == dense.sequences.tolist()


@over_kinds
@pytest.mark.parametrize(
    "rows",
    [
        [(text(2), image(), text(3))],
        [(text(2), image(), text(3)), (text(4), image(), text(5))],
        [(text(2), image(), image(), text(3), video(3), text(2))],
        [(text(5),)],
    ],
    ids=["image", "image each", "with a video", "words"],
)
def test_other_images_are_nothing_to_tell(kind, rows):
    inputs = batch([prompt(kind, *row, seed=i) for i, row in enumerate(rows)])
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        with VidCom2(0.3)(tiny(kind)) as run:
            generate(run.model, inputs)
