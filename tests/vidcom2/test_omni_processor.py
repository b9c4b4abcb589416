"""Qwen-Omni's own processors: where they put the tokens of each frame and of the sound."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch

from tests.vidcom2.hf_slow import encode, lm_of, outer_of
from tests.vidcom2.hf_tiny import Row, batch, tiny
from tests.vidcom2.kinds.qwen_omni import AUDIO, RATE, film, with_sound
from tests.vidcom2.omni_tiny import tiny_processor
from tests.vidcom2.rows import MERGE, PATCH, VIDEO, Visual
from tests.vidcom2.test_transformers import PRUNED, assert_follows, generate, references
from vidcom2.models.layouts import LAYOUTS, framed_videos

FILM = "<|vision_bos|><|VIDEO|><|vision_eos|>"
HEARD = "<|audio_bos|><|AUDIO|><|audio_eos|>"
over_kinds = pytest.mark.parametrize("kind", RATE)

model_of = functools.cache(tiny)


processor_of = functools.cache(tiny_processor)


def process(kind: str, text: str, films: list[tuple[int, int, int]], fps: float, sounds: list[int], own: bool) -> Row:
    """A prompt as the processor writes it.

    films: frames, height and width in tokens. sounds: mel frames of each sound. own: the sounds are those of the films.
    """
    generator, processor = torch.Generator().manual_seed(0), processor_of(kind)
    videos = [
        torch.randint(256, (2 * t, 3, h * MERGE * PATCH, w * MERGE * PATCH), generator=generator, dtype=torch.uint8)
        for t, h, w in films
    ]
    heard = [np.random.default_rng(i).normal(size=160 * mels).astype(np.float32) for i, mels in enumerate(sounds)]
    asked: dict[str, Any] = {"audio": heard} if heard else {}
    if own and hasattr(processor, "load_audio_from_video"):
        asked |= {"load_audio_from_video": True, "audio_from_video_indices": list(range(len(sounds)))}
    elif own:
        asked["use_audio_in_video"] = True
    settings = {"fps": fps, "do_sample_frames": False, "do_resize": False, "return_tensors": "pt"}
    made = dict(processor(text=[text], videos=videos, **asked, **settings))
    ids = made.pop("input_ids")[0].tolist()
    del made["attention_mask"]
    made["video_second_per_grid"] = torch.as_tensor(made["video_second_per_grid"])
    at = iter([i for i, token in enumerate(ids) if token == VIDEO])
    visuals = [Visual("video", t, h * w, tuple(next(at) for _ in range(t * h * w))) for t, h, w in films]
    assert next(at, None) is None
    spots = tuple(i for i, token in enumerate(ids) if token == AUDIO)
    visuals += [Visual("audio", 1, len(spots), spots)] if heard else []
    return Row(kind, ids, visuals, made)


def rows_by_frame(row: Row) -> list[list[list[int]]]:
    """The columns that our layout finds for each frame of each video in the model's own call."""
    model, found = model_of(row.kind), []
    layout = LAYOUTS[row.kind]

    def look(lm: Any, args: Any, kwargs: dict[str, Any]) -> None:
        called = batch([row])
        for video in framed_videos(layout, outer_of(model), called, kwargs["position_ids"]):
            found.append(video.columns.view(video.frames, -1).tolist())

    handle = lm_of(model).register_forward_pre_hook(look, with_kwargs=True)
    try:
        generate(model, batch([row]), use_audio_in_video=with_sound(row), max_new_tokens=1)
    finally:
        handle.remove()
    return found


CASES = {
    "silent": (f"w3 {FILM} w4", [(4, 2, 3)], 2.0, [], False),
    "two silent": (f"w3 {FILM} w4 {FILM} w5", [(3, 2, 3), (5, 1, 2)], 2.0, [], False),
    "with sound": (f"w3 {FILM} w4", [(4, 2, 3)], 2.0, [390], True),
    "sound outlasts": (f"w3 {FILM} w4", [(3, 3, 2)], 4.0, [620], True),
    "picture outlasts": (f"w3 {FILM} w4", [(6, 2, 2)], 2.0, [130], True),
    "two with sound": (f"w3 {FILM} w4 {FILM} w5", [(3, 2, 3), (4, 1, 2)], 1.0, [390, 210], True),
    "sound apart": (f"w3 {HEARD} w4 {FILM} w5", [(4, 2, 3)], 2.0, [250], False),
    "five seconds a frame": (f"w3 {FILM} w4", [(4, 2, 3)], 0.4, [700], True),
}
over_cases = pytest.mark.parametrize("case", CASES)


@over_kinds
@over_cases
def test_frames_are_those_of_the_tower(kind, case):
    """The i-th placeholder of a video takes the i-th token of the tower, which encodes frame by frame."""
    row = process(kind, *CASES[case])
    model, embeds = model_of(kind), []
    handle = lm_of(model).register_forward_pre_hook(
        lambda lm, args, kwargs: embeds.append(kwargs["inputs_embeds"][0]), with_kwargs=True
    )
    try:
        found = rows_by_frame(row)
    finally:
        handle.remove()
    films = [(seen, features) for seen, features, _ in encode(model, row) if seen.modality == "video"]
    assert len(found) == len(films) == len(CASES[case][1])
    for frames, (seen, features) in zip(found, films, strict=True):
        assert len(frames) == seen.frames
        for frame, own in zip(frames, features.view(seen.frames, seen.tokens, -1), strict=True):
            assert torch.equal(embeds[0][frame], own)


@over_kinds
@over_cases
def test_answers_equal_the_reference(kind, case):
    row = process(kind, *CASES[case])
    with PRUNED(model_of(kind)):
        out = generate(model_of(kind), batch([row]), use_audio_in_video=with_sound(row))
    assert_follows(out, references(model_of(kind), [row]))


@over_kinds
@pytest.mark.parametrize("case", ["with sound", "sound outlasts", "picture outlasts"])
def test_films_of_the_other_tests_are_written_as_the_processor_writes_them(kind, case):
    _, [size], fps, [mels], _ = CASES[case]
    ours = film(kind, *size, 2 / fps, mels, torch.Generator())
    assert process(kind, *CASES[case]).ids == [3, *ours.ids, 4]


def test_a_frame_may_be_in_several_pieces():
    """Where frames are further apart than a chunk, Qwen2.5-Omni's processor puts sound between the tokens of one."""
    kind = "qwen2_5_omni_thinker"
    pieces = [frame for (frames,) in [rows_by_frame(process(kind, *CASES["five seconds a frame"]))] for frame in frames]
    assert any(frame[-1] - frame[0] >= len(frame) for frame in pieces)
