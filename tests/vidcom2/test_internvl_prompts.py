"""InternVL's images and frames have one placeholder: only what the processor numbers as frames is a video."""

from __future__ import annotations

import pytest

from tests.vidcom2.hf_tiny import (
    COLON,
    END,
    FRAME,
    IMAGE,
    NEWLINE,
    SIDE,
    START,
    WORDS,
    Row,
    Visual,
    batch,
    prompt,
    text,
    tiny,
    video,
)
from tests.vidcom2.test_transformers import assert_follows, generate, references
from vidcom2 import VidCom2
from vidcom2.models import transformers

KIND, TOKENS = "internvl", (SIDE["internvl"] // 2) ** 2
PICTURE, HYPHEN, SPACE, AND, QUESTION = 5, 6, 7, 8, [11, 12, 13]
LABELS = {
    "two": [[], [NEWLINE]],
    "three": [[], [NEWLINE], [NEWLINE]],
    "three, different text between": [[], [AND], [AND, PICTURE]],
    "two, one word": [[PICTURE, COLON], [AND, PICTURE, COLON]],
    "hyphens": [[*[NEWLINE] * (i > 0), PICTURE, HYPHEN, WORDS + i + 1, COLON] for i in range(3)],
    "two, hyphens": [[*[NEWLINE] * (i > 0), PICTURE, HYPHEN, WORDS + i + 1, COLON] for i in range(2)],
    "spaces": [[*[NEWLINE] * (i > 0), PICTURE, SPACE, WORDS + i + 1, COLON] for i in range(3)],
    "letters": [[*[NEWLINE] * (i > 0), PICTURE, 20 + 7 * i, COLON] for i in range(3)],
    "same number": [[*[NEWLINE] * (i > 0), FRAME, WORDS + 1, COLON] for i in range(3)],
    "backwards": [[*[NEWLINE] * (i > 0), FRAME, WORDS + 3 - i, COLON] for i in range(3)],
    "a word between": [[*[NEWLINE] * (i > 0), *[AND] * (i == 2), FRAME, WORDS + i + 1, COLON] for i in range(4)],
}


def images(labels: list[list[int]]) -> Row:
    """A prompt with images of one tile, and what stands before each."""
    ids, spots = [3, 4], []
    for label in labels:
        ids += [*label, START, *[IMAGE] * TOKENS, END]
        spots += range(len(ids) - 1 - TOKENS, len(ids) - 1)
    media = prompt(KIND, video(len(labels))).media
    return Row(KIND, ids + QUESTION, [Visual("video", len(labels), TOKENS, tuple(spots))], media)


@pytest.fixture(scope="module")
def model():
    return tiny(KIND)


@pytest.mark.parametrize("labels", LABELS)
def test_images_are_no_video(model, labels, monkeypatch):
    row, compressor = images(LABELS[labels]), VidCom2(0.3)
    with compressor(model), pytest.raises(ValueError, match=f"a prompt here has {len(LABELS[labels])} of them"):
        generate(model, batch([row]))
    monkeypatch.setitem(transformers.LAYOUTS, KIND, transformers.INTERNVL_ONE_VIDEO)
    with compressor(model) as run:
        assert_follows(generate(model, batch([row])), references(model, [row], compressor))
    assert len(run.records[0].frames_before) == len(LABELS[labels])


def test_one_image_is_no_video(model):
    with VidCom2(0.3)(model) as run:
        out = generate(model, batch([images([[]])]))
    assert run.records == []
    assert out.sequences.tolist() == generate(model, batch([images([[]])])).sequences.tolist()


@pytest.mark.parametrize("frames", [2, 9, 10, 12, 101])
@pytest.mark.parametrize("digits", ["each", "together"])
def test_numbered_frames_are_a_video(model, frames, digits):
    """A vocabulary may have a token for each digit, or for numbers as a whole."""
    row = prompt(KIND, text(3), video(frames), text(4))
    if digits == "together":
        numbers = [WORDS + i if i < 10 else 20 + i % 50 for i in range(1, frames + 1)]
        row = images([[*[NEWLINE] * (i > 0), FRAME, number, COLON] for i, number in enumerate(numbers)])
    with VidCom2(0.3)(model) as run:
        generate(model, batch([row]), max_new_tokens=1)
    assert [len(record.frames_before) for record in run.records] == [frames]


def test_images_of_several_tiles_are_no_frames(model, monkeypatch):
    row = images([[], [NEWLINE]])
    several = [i for i in row.ids if i not in (START, END, NEWLINE)]  # the tiles side by side: one image of two
    monkeypatch.setitem(transformers.LAYOUTS, KIND, transformers.INTERNVL_ONE_VIDEO)
    with VidCom2(0.3)(model), pytest.raises(ValueError, match="an image of several tiles"):
        generate(model, batch([Row(KIND, several, [], row.media)]))
