"""Time as the models see it: positions and time stamps of ten seconds and of an hour, sampled by rate.

transformers' own processor and `get_rope_index` compute them from the numbers that our readers hand over. What they
should be is computed here from the files' frame numbers.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eval.demo.encode import write_video
from eval.models import protocol_for
from eval.models.llava import LLAVA_PROTOCOLS
from eval.models.qwen import QwenEngine
from llava.video import FrameSampling, read_video
from tests.eval.models.test_qwen import recorded
from tests.eval.qwen_tiny import make_qwen
from vidcom2 import Dense, Keep, VidCom2

SIDE = 64
CLIPS = {"seconds": (240, 24), "hour": (3600, 1), "fast": (240, 60)}
"""Frames and frames per second: ten seconds, an hour, and four seconds of 60 frames each."""
BY_RATE = "fps:2,max=64,min=8"
SHORT = {"max_new_tokens": 1}


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("times")
    for name, (count, fps) in CLIPS.items():
        grey = np.arange(count, dtype=np.uint8)[:, None, None, None]
        write_video(root / f"{name}.mp4", np.broadcast_to(grey, (count, SIDE, SIDE, 3)).copy(), fps)
    return {name: root / f"{name}.mp4" for name in CLIPS}


@pytest.fixture(scope="module")
def engines(tmp_path_factory) -> dict[str, QwenEngine]:
    """Engines that leave the small frames small."""
    made = {}
    for kind in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl"):
        model = make_qwen(tmp_path_factory.mktemp(kind), kind)
        small = replace(protocol_for(str(model)), min_pixels=3136, max_pixels=SIDE * SIDE)
        made[kind] = QwenEngine(str(model), small, "cpu", "float32")
    return made


@contextmanager
def watched(engine: QwenEngine) -> Any:
    """What the language model gets in its prefill: its rows and their positions."""
    calls: list[dict[str, torch.Tensor]] = []

    # Inside of the language model, so that a compressor's hook on it comes first.
    def positions(module: Any, args: Any, kwargs: Any) -> None:
        rows, places = [*args, *kwargs.values()][:2]
        calls.append({"rows": rows, "positions": places})

    handle = engine.model.model.language_model.rotary_emb.register_forward_pre_hook(positions, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


def asked(engine: QwenEngine, video: Path, sampling: str, method: Any) -> tuple[dict, Any, Any, list[dict]]:
    """What generate() got, the answer, what was read, and what the LLM got."""
    own = engine.sampled(FrameSampling.parse(sampling))
    calls: list[Any] = []
    recorded(own.model, "generate", calls)
    try:
        with watched(own) as rows:
            read = own.read(str(video))
            answer = own.answer(own.see(read), "Which?", SHORT, method)
    finally:
        del own.model.generate
    return calls[0][0], answer, read, rows


def frames_of(name: str, sampling: str) -> list[int]:
    """The frame numbers that Qwen's sampling takes: an even number, evenly spaced from the first to the last."""
    total, fps = CLIPS[name]
    rate = FrameSampling.parse(sampling)
    count = min(max(total / fps * rate.fps, rate.min_frames or 2), rate.max_frames, total)
    return np.linspace(0, total - 1, int(count // 2 * 2)).round().astype(int).tolist()


@pytest.mark.parametrize(
    ("name", "sampling", "frames"),
    [
        ("seconds", BY_RATE, 20),
        ("seconds", "fps:8,max=128", 80),  # above 2 per second
        ("seconds", "fps:0.5,max=64", 4),  # below 1
        ("seconds", "fps:0.1,max=64,min=8", 8),
        ("hour", BY_RATE, 64),
        ("fast", "fps:20,max=128", 80),
    ],
)
@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_frames_are_those_of_the_rate(kind, name, sampling, frames, engines, clips):
    own = engines[kind].sampled(FrameSampling.parse(sampling))
    read = own.read(str(clips[name]))
    fps = CLIPS[name][1]
    assert len(read.frames) == frames
    assert read.metadata["frames_indices"] == frames_of(name, sampling)
    np.testing.assert_allclose(read.shown_at, np.array(frames_of(name, sampling)) / fps, atol=1e-6)
    assert own.protocol.describe()["sampling"] == sampling


@pytest.mark.parametrize(
    ("name", "sampling"),
    [("seconds", BY_RATE), ("seconds", "fps:8,max=128"), ("seconds", "fps:0.5,max=64"), ("hour", BY_RATE)],
)
def test_qwen25_counts_time_as_the_video_does(name, sampling, engines, clips):
    """Seconds per step, and the temporal positions that follow; nothing is cut to 0, also at 8 frames per second."""
    engine = engines["qwen2_5_vl"]
    given, _, read, dense = asked(engine, clips[name], sampling, Dense())
    total, fps = CLIPS[name]
    per_step = 2 * (total / fps) / len(read.frames)
    np.testing.assert_allclose(np.array(given["second_per_grid_ts"], dtype=float), [per_step], rtol=1e-6)

    ids, grid = given["input_ids"], given["video_grid_thw"]
    theirs, _ = engine.model.model.get_rope_index(
        ids,
        mm_token_type_ids=given["mm_token_type_ids"],
        video_grid_thw=grid,
        second_per_grid_ts=torch.as_tensor(given["second_per_grid_ts"]),
        attention_mask=given["attention_mask"],
    )
    assert torch.equal(dense[0]["positions"][-3:], theirs)
    of_video = ids[0] == engine.model.config.video_token_id
    steps = int(grid[0, 0])
    time = theirs[0, 0][of_video].view(steps, -1)
    ticks = engine.model.config.vision_config.tokens_per_second
    expected = [int(step * np.float32(per_step) * ticks) for step in range(steps)]
    assert (time[:, 0] - time[0, 0]).tolist() == expected
    assert expected[-1] == int((steps - 1) * np.float32(per_step) * ticks) > 0

    # What is kept keeps its time.
    _, answer, _, short = asked(engine, clips[name], sampling, VidCom2(0.5))
    after = answer.records[0].frames_after
    kept = short[0]["positions"][-3:][0, 0]
    start = answer.records[0].start
    assert kept[start : start + sum(after)].tolist() == np.repeat(time[:, 0].numpy(), after).tolist()


@pytest.mark.parametrize("method", [Dense(), VidCom2(0.5), VidCom2(0.5, min_per_frame=2)], ids=str)
@pytest.mark.parametrize(("name", "sampling"), [("seconds", BY_RATE), ("hour", BY_RATE), ("fast", "fps:20,max=128")])
def test_qwen3s_stamps_are_the_times_of_the_frames(name, sampling, method, engines, clips):
    """In the prompt, and, after tokens were dropped, in the rows that the LLM gets, each before its own frame."""
    engine = engines["qwen3_vl"]
    given, answer, _, rows = asked(engine, clips[name], sampling, method)
    ids = given["input_ids"][0]
    fps = CLIPS[name][1]
    times = np.array(frames_of(name, sampling)) / fps
    expected = [f"{(a + b) / 2:.1f}" for a, b in times.reshape(-1, 2).tolist()]
    assert re.findall(r"<([\d.]+) seconds>", engine.processor.tokenizer.decode(ids)) == expected

    with torch.inference_mode():
        embedded = engine.model.get_input_embeddings()(ids)
    text = ids != engine.model.config.video_token_id
    got, (record,) = rows[0]["rows"][0], answer.records
    assert len(got) == int(text.sum()) + sum(record.frames_after)
    # Frame by frame: the text before it as it was, then as many rows as the record says.
    place, begin = 0, 0
    starts = [i for i in range(len(ids)) if not text[i] and (i == 0 or text[i - 1])]
    for first, before, after in zip(starts, record.frames_before, record.frames_after, strict=True):
        assert torch.equal(got[place : place + first - begin], embedded[begin:first])
        place, begin = place + first - begin + after, first + before
    assert torch.equal(got[place:], embedded[begin:])


@pytest.mark.parametrize("name", ["seconds", "hour"])
def test_an_early_span_of_an_hour_is_found_by_its_seconds(name, engines, clips):
    """Of an hour in 64 frames, a step has two frames 57 seconds apart; it is kept if either lies in the span."""
    span = "60s-120s:full" if name == "hour" else "4s-4.9s:full"
    low, high = (60, 120) if name == "hour" else (4, 4.9)
    engine = engines["qwen3_vl"].sampled(FrameSampling.parse(BY_RATE))
    engine.protocol = replace(engine.protocol, keep=Keep.parse(span))
    (record,) = engine.answer(engine.see(engine.read(str(clips[name]))), "Which?", SHORT, VidCom2(0.5)).records
    times = (np.array(frames_of(name, BY_RATE)) / CLIPS[name][1]).reshape(-1, 2)
    inside = ((times >= low) & (times <= high)).any(axis=1)
    assert inside.any()
    assert [k is not None for k in record.by_hand] == inside.tolist()


@pytest.mark.parametrize(("name", "frames"), [("seconds", 20), ("hour", 64)])
def test_llava_videos_instruction_names_the_times(name, frames, clips):
    protocol = replace(LLAVA_PROTOCOLS["llava_vid"], time_instruction=True).sampled(FrameSampling.parse(BY_RATE))
    video = read_video(clips[name], protocol.sampling)
    prompt = protocol.prompt("Which?", video.times, video.duration)
    total, fps = CLIPS[name]
    assert f"The video lasts for {total / fps:.2f} seconds, and {frames} frames" in prompt
    said = [float(second) for second in re.findall(r"(\d+\.\d\d)s", prompt)]
    np.testing.assert_allclose(said, np.array(video.indices) / fps, atol=0.0051)
    np.testing.assert_allclose(said, video.shown_at, atol=0.0051)
