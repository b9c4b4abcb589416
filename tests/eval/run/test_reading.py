"""Which decoder and which preprocessing an evaluation reads videos with."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from eval.models import protocol_for
from eval.models.llava import LLAVA_PROTOCOLS, LlavaEngine
from eval.models.qwen_protocol import QWEN_PROTOCOLS
from llava.video import FrameSampling, read_video
from tests.odd_videos import FINE
from vidcom2 import VidCom2


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("video") / "turned.mp4"
    FINE["turned_90.mp4"](path)
    return path


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_fast_preprocessing_and_another_decoder_change_nothing(dtype, onevision, video):
    protocol = protocol_for(str(onevision)).sampled(FrameSampling("uniform", max_frames=11))
    engines = [
        LlavaEngine(str(onevision), chosen, "cpu", dtype)
        for chosen in (protocol, protocol.read_by(preprocess="fast"), protocol.read_by("decord"))
    ]
    reads = [pickle.loads(pickle.dumps(engine.read))(str(video)) for engine in engines]
    assert [read.pixels.dtype for read in reads] == [getattr(torch, dtype), torch.uint8, getattr(torch, dtype)]
    seen = [engine.see(read) for engine, read in zip(engines, reads, strict=True)]
    answers = [
        engine.answer(one, "What is it?", {"max_new_tokens": 8}, VidCom2(0.5))
        for engine, one in zip(engines, seen, strict=True)
    ]
    for one, answer in zip(seen[1:], answers[1:], strict=True):
        assert torch.equal(one.encoded.features, seen[0].encoded.features)
        assert (answer.text, answer.prompt) == (answers[0].text, answers[0].prompt)
    assert all(answer.seconds[stage] > 0 for answer in answers for stage in ("decode", "preprocess", "vision"))
    assert len({engine.identity for engine in engines}) == 3


def test_results_say_how_videos_were_read():
    protocol = LLAVA_PROTOCOLS["llava_onevision"]
    described = [chosen.describe() for chosen in (protocol, protocol.read_by("pyav", "fast"))]
    assert [(one["decoder"], one["preprocess"]) for one in described] == [("exact", "exact"), ("pyav", "fast")]
    assert protocol.read_by() == protocol


def test_unknown_ways_of_reading():
    protocol = LLAVA_PROTOCOLS["llava_vid"]
    with pytest.raises(ValueError, match="decoder 'opencv' is unknown"):
        protocol.read_by("opencv")
    with pytest.raises(ValueError, match="--preprocess 'quick' is unknown"):
        protocol.read_by(preprocess="quick")
    with pytest.raises(ValueError, match="decoder 'opencv' is unknown"):
        QWEN_PROTOCOLS["qwen2_vl"].read_by("opencv")
    with pytest.raises(ValueError, match="--preprocess exact is not for qwen3_vl"):
        QWEN_PROTOCOLS["qwen3_vl"].read_by(preprocess="exact")


@pytest.mark.parametrize("preprocess", ["exact", "fast"])
def test_frames_that_repeat_are_prepared_once(preprocess, onevision, video):
    protocol = (
        protocol_for(str(onevision)).sampled(FrameSampling("uniform", max_frames=40)).read_by(preprocess=preprocess)
    )
    engine = LlavaEngine(str(onevision), protocol, "cpu", "float32")
    read = engine.read(str(video))
    whole = read_video(video, protocol.sampling)
    assert len(read.pixels) == len(set(whole.indices)) < 40
    seen = []
    engine.model.encode = seen.append
    engine.see(read)
    expected = engine.read.processor.preprocess(whole.frames, return_tensors="pt")["pixel_values"]
    assert expected.shape[0] == 40
    assert torch.equal(seen[0], expected)
