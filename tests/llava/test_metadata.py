"""transformers' processors take `Video.metadata`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoProcessor
from transformers.video_utils import VideoMetadata

from llava.video import FrameSampling, read_video
from tests.eval.qwen_tiny import make_qwen
from tests.numbered import CASES, VARIABLE


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return AutoProcessor.from_pretrained(make_qwen(tmp_path_factory.mktemp("model"), "qwen3_vl"))


@pytest.mark.parametrize("frames", [16, 7])
@pytest.mark.parametrize("name", ["variable.mp4", "h264.mp4"])
def test_qwen3_keeps_all_frames_and_says_when_they_are_shown(made, processor, name, frames):
    """Two frames are one step, at the middle of their times. The last of an odd number counts twice."""
    video = read_video(made(name), FrameSampling("uniform", max_frames=frames))
    chat = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "When?"}]}]
    prompt = processor.apply_chat_template(chat, tokenize=False)
    inputs = processor(
        text=[prompt],
        videos=[video.frames],
        video_metadata=[video.metadata],
        do_sample_frames=False,
        return_tensors="pt",
    )
    assert inputs["video_grid_thw"][0, 0] == (frames + 1) // 2

    ticks = VARIABLE if name == "variable.mp4" else range(0, 720, 10)
    seconds = [ticks[i] / 240 for i in video.indices]
    seconds += seconds[-1:] * (frames % 2)
    middles = [(a + b) / 2 for a, b in zip(seconds[::2], seconds[1::2], strict=True)]
    stamps = re.findall(r"<([\d.]+) seconds>", processor.decode(inputs.input_ids[0]))
    assert list(map(float, stamps)) == pytest.approx(middles, abs=0.0501)


def test_the_fields_are_those_of_transformers(tmp_path: Path):
    CASES["h264.mp4"].make(tmp_path / "video.mp4")
    video = read_video(tmp_path / "video.mp4", FrameSampling("uniform", max_frames=4))
    theirs = VideoMetadata(**video.metadata)
    assert theirs.frames_indices == video.indices == [0, 23, 47, 71]
    assert theirs.timestamps == pytest.approx([0, 23 / 24, 47 / 24, 71 / 24])
    assert (theirs.fps, theirs.total_num_frames, theirs.duration) == (24, 72, 3)
    assert theirs.video_backend == video.reader
    video.metadata["frames_indices"].append(71)  # Qwen3-VL's processor does this for an odd number of frames
    assert video.indices == [0, 23, 47, 71]
