"""InternVL's images and frames have one placeholder: only what the processor numbers as frames is a video."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image

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
from tests.vllm.tiny import internvl
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


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A model and transformers' own processor, with 16 tokens per frame."""
    path = internvl(tmp_path_factory.mktemp("internvl"))
    return hf.AutoModelForImageTextToText.from_pretrained(path).eval(), hf.AutoProcessor.from_pretrained(path)


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


def label(number: int, together: bool = False, word: int = FRAME) -> list[int]:
    """What stands before a frame; a vocabulary may have a token for numbers as a whole."""
    digits = [20 + number] if together and number >= 10 else [WORDS + int(digit) for digit in str(number)]
    return [*[NEWLINE] * (number > 1), word, *digits, COLON]


def numbered(frames: int, together: bool = False) -> list[list[int]]:
    return [label(i, together) for i in range(1, frames + 1)]


PICTURES = {
    "bare": [[AND], [NEWLINE]],
    "in words": [[AND, PICTURE, COLON], [PICTURE, COLON]],
    "hyphens": [[NEWLINE, PICTURE, HYPHEN, WORDS + i + 1, COLON] for i in range(3)],
    "one number": [[PICTURE, WORDS + 1, COLON]],
}
"""Images of one tile that are no frames beside a video."""


def frames_found(model, labels: list[list[int]]) -> list[int]:
    with VidCom2(0.3)(model) as run:
        generate(model, batch([images(labels)]), max_new_tokens=1)
    return [len(record.frames_before) for record in run.records]


@pytest.mark.parametrize("frames", [(2, 2), (3, 5, 4), (9, 9), (10, 11), (12, 2)])
@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("between", [[], [NEWLINE], [AND, PICTURE]])
def test_a_new_number_one_begins_a_video(model, frames, together, between):
    labels = numbered(frames[0], together)
    for more in frames[1:]:
        first, *others = numbered(more, together)
        labels += [between + first, *others]
    assert frames_found(model, labels) == list(frames)


@pytest.mark.parametrize("pictures", PICTURES)
@pytest.mark.parametrize("first", [False, True])
def test_images_beside_a_video(model, pictures, first):
    others = PICTURES[pictures]
    assert frames_found(model, [*others, *numbered(4)] if first else [*numbered(4), *others]) == [4]
    assert frames_found(model, [*numbered(3), *others, *numbered(3)]) == [3, 3]


def test_an_image_of_several_tiles_beside_a_video(model):
    image = Row(KIND, [START, *[IMAGE] * (2 * TOKENS), END], [], prompt(KIND, video(2)).media)
    with VidCom2(0.3)(model) as run:
        generate(model, batch([prompt(KIND, video(3)) + image + prompt(KIND, video(4), text(3))]), max_new_tokens=1)
    assert [len(record.frames_before) for record in run.records] == [3, 4]


UNCLEAR = {
    "a frame left out": [*numbered(2), label(4)],
    "frames left out": [*numbered(2), label(4), label(5)],
    "a frame left out, over ten": [*numbered(11), label(13)],
    "numbered images": [*numbered(3), [AND, PICTURE, WORDS + 1, COLON], label(2, word=PICTURE)],
    "numbered images first": [label(1, word=PICTURE), label(2, word=PICTURE), [AND, *label(1)], label(2)],
    "a video of one frame": [*numbered(3), [AND, *label(1)]],
}


@pytest.mark.parametrize("labels", UNCLEAR)
def test_numbers_that_are_unclear(model, labels):
    with pytest.raises(ValueError, match=f"a prompt here has {len(UNCLEAR[labels])} of them"):
        frames_found(model, UNCLEAR[labels])


@pytest.mark.parametrize(
    ("words", "videos", "pictures", "expected"),
    [
        ("a <video> and b <video> ?", (3, 3), 0, [3, 3]),
        ("<video>\n<video> ?", (11, 11), 0, [11, 11]),
        ("a <image> then <video>\n<image><image> and <video> ?", (4, 4), 3, [4, 4]),
        ("Image-1: <image>\nImage-2: <image>\n<video> ?", (2,), 2, [2]),
    ],
)
def test_prompts_of_the_processor(checkpoint, words, videos, pictures, expected):
    """transformers' processor, with a token for each byte; its videos are of one length, its images of 1 or 3 tiles."""
    model, processor = checkpoint
    drawn = np.random.default_rng(0)
    clips = [drawn.integers(0, 255, (frames, 48, 48, 3), dtype=np.uint8) for frames in videos]
    shapes = [(48, 48 + 48 * (i % 2), 3) for i in range(pictures)]
    shown = [Image.fromarray(drawn.integers(0, 255, shape, dtype=np.uint8)) for shape in shapes]
    inputs = processor(
        text=[words.replace("<image>", "<IMG_CONTEXT>")], videos=clips, images=shown or None, return_tensors="pt"
    )
    ids = inputs["input_ids"][0]
    columns = (ids == model.config.image_token_id).nonzero()[:, 0]
    found = list(transformers.LAYOUTS[KIND].split(model.model, inputs, ids, columns))
    assert [len(video) // 16 for video in found] == expected
    # The model fills the placeholders in order, so those of a video must be where the pixels of its frames are.
    tile = {column: i // 16 for i, column in enumerate(columns.tolist())}
    for clip, place in zip(clips, found, strict=True):
        alone = processor(text=["<video>"], videos=[clip], return_tensors="pt")["pixel_values"]
        assert torch.equal(inputs["pixel_values"][[tile[column] for column in place.tolist()[::16]]], alone)
    with VidCom2(0.3)(model) as run:
        model.generate(**inputs, max_new_tokens=1, do_sample=False)
    assert [len(record.frames_before) for record in run.records] == expected
