"""ENGINE=vllm: the same questions, answers, tokens and failures as of the torch engine."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from eval.cli import main
from eval.demo.minibench import write_mvbench
from eval.demo.world import TASKS
from eval.models import protocol_for
from eval.models.base import PromptTooLong
from eval.models.packaged import DEMO_MODEL, DEMO_MODELS
from eval.models.served import VllmEngine, served
from eval.results.sample import Answer
from llava.video import FrameSampling
from tests.vllm import delta, tiny
from tests.vllm.asked import QWEN
from vidcom2 import compressor

TASKS_OF_DEMO = ",".join(f"mvbench_{task}" for task in TASKS)
SPECS = {"torch": "vidcom2@0.25:rounding=exact", "vllm": "vidcom2@0.25"}
"""By engine, what keeps the same tokens."""
needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="needs vLLM")


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("COMPRESSOR", "R_RATIO", "ENGINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MiniBench with an unreadable video."""
    made = write_mvbench(tmp_path_factory.mktemp("mini"), 2)
    next(iter(sorted(made.rglob("*.mp4")))).write_bytes(b"no video")
    return made


def run(*flags: object) -> int:
    return main([str(flag) for flag in flags])


def results(directory: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """results.json, and the samples without what two engines may differ in."""
    samples = [json.loads(line) for line in (directory / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    for sample in samples:
        sample.pop("seconds")
    return json.loads((directory / "results.json").read_text(encoding="utf-8")), samples


@needs_vllm
@pytest.mark.parametrize("model", DEMO_MODELS.values())
def test_same_results(model, data, tmp_path):
    if not model.is_dir():
        pytest.skip("there is one demo model")
    common = ("run", "--tasks", TASKS_OF_DEMO, "--data", data, "--model", model, "--device", "cpu")
    for engine, spec in SPECS.items():
        flags = (*common, "--compressor", spec, "--engine", engine, "--output", tmp_path / engine)
        assert run(*flags) == 3, "one video is unreadable"
    (ours, expected), (theirs, samples) = results(tmp_path / "torch"), results(tmp_path / "vllm")
    assert samples == expected
    assert theirs["scores"] == ours["scores"]
    assert theirs["failures"] == ours["failures"] != []
    assert theirs["visual_tokens"] == ours["visual_tokens"]
    assert theirs["run"]["engine"] == "vllm"
    assert theirs["run"]["compressor"] == SPECS["torch"]


@needs_vllm
@pytest.mark.slow
@pytest.mark.parametrize("kind", [*QWEN[:3], "qwen3_5"])
def test_same_results_of_qwen(kind, data, tmp_path):
    """Times, limits of pixels and the checkpoint's own generation settings are the same, too."""
    if kind == "qwen3_5":
        delta.install()
    model = getattr(tiny, kind)(tmp_path / "model")
    common = ("run", "--tasks", TASKS_OF_DEMO, "--data", data, "--model", model, "--device", "cpu")
    common += ("--sampling", "uniform:8", "--dtype", "float32")
    for engine, spec in SPECS.items():
        assert run(*common, "--compressor", spec, "--engine", engine, "--output", tmp_path / engine) == 3
    (_, expected), (_, samples) = results(tmp_path / "torch"), results(tmp_path / "vllm")
    assert samples == expected
    assert len({sample["answer"] for sample in samples}) > 2


@needs_vllm
@pytest.mark.slow
@pytest.mark.parametrize("model", DEMO_MODELS.values())
def test_same_accuracy(model, tmp_path):
    """On the 360 questions of docs/demo.md, within one question."""
    made = write_mvbench(tmp_path / "data", 40)
    common = ("run", "--tasks", TASKS_OF_DEMO, "--data", made, "--model", model, "--device", "cpu")
    right = {}
    for engine, spec in SPECS.items():
        assert run(*common, "--compressor", spec, "--engine", engine, "--output", tmp_path / engine) == 0
        found, samples = results(tmp_path / engine)
        assert len(samples) == 360
        right[engine] = 3.6 * found["scores"]["overall"]
    assert abs(right["torch"] - right["vllm"]) <= 1.001


@needs_vllm
@pytest.mark.slow
@pytest.mark.parametrize(("frames", "words"), [(32, 6000), (1000, 1)], ids=["text", "video"])
def test_a_prompt_that_is_too_long(frames, words, data):
    """It costs its own question only."""
    protocol = protocol_for(str(DEMO_MODEL)).sampled(FrameSampling("uniform", max_frames=frames))
    spec = served(compressor("vidcom2@0.25"), protocol)
    engine = VllmEngine(str(DEMO_MODEL), protocol, "cpu", "float32", spec)
    short = engine.sampled(FrameSampling("uniform", max_frames=4))
    video = str(sorted(data.rglob("*.mp4"))[-1])
    long = engine.see(engine.read(video))
    asked = [(short.see(short.read(video)), "What?"), (long, "word " * words), (short.see(short.read(video)), "Who?")]
    answers = engine.answer_all(asked, {"max_new_tokens": 4}, spec)
    engine.close()
    assert [type(one) for one in answers] == [Answer, PromptTooLong, Answer]


@needs_vllm
def test_questions_begin_while_videos_are_read(data):
    """vLLM answers the questions that it has by work(). answer_all() takes these answers, and they are the same."""
    protocol = protocol_for(str(DEMO_MODEL)).sampled(FrameSampling("uniform", max_frames=4))
    spec = served(compressor("vidcom2@0.25"), protocol)
    engine = VllmEngine(str(DEMO_MODEL), protocol, "cpu", "float32", spec)
    video = str(sorted(data.rglob("*.mp4"))[-1])
    seen, settings = engine.see(engine.read(video)), {"max_new_tokens": 4}
    assert not engine.work()
    engine.begin(seen, "What?", settings, spec)
    while engine.work():
        pass
    assert not engine.llm.llm_engine.has_unfinished_requests()
    asked = [(seen, "Who?"), (seen, "What?"), (seen, "What?")]
    early = engine.answer_all(asked, settings, spec)
    late = engine.answer_all([(engine.see(engine.read(video)), text) for _, text in asked], settings, spec)
    engine.close()
    assert [one.text for one in early] == [one.text for one in late]
    assert early[1].text == early[2].text


@needs_vllm
@pytest.mark.slow
def test_sweep(data, tmp_path):
    """Each compressor has an engine of its own."""
    flags = ("--tasks", TASKS_OF_DEMO, "--data", data, "--model", DEMO_MODEL, "--device", "cpu", "--engine", "vllm")
    assert run("sweep", *flags, "--compressors", "none,random@0.25", "--output", tmp_path) == 3
    tokens = [results(tmp_path / spec)[0]["visual_tokens"]["after_per_sample"] for spec in ("none", "random@0.25")]
    assert tokens == [32 * 36 + 1, 32 * 9 + 1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--engine", "vllm", "--attn", "eager"), "--attn eager has no effect on --engine vllm"),
        (("--engine", "vllm", "--preprocess", "fast"), "--preprocess fast has no effect on --engine vllm"),
        (("--engine", "vllm", "--tensor-parallel-size", 0), "--tensor-parallel-size 0 must be at least 1"),
        (("--engine", "vllm", "--tensor-parallel-size", 2, "--device", "cpu"), "--tensor-parallel-size 2 is for GPUs"),
        (("--engine", "vllm", "--compressor", "fastv@0.25"), "drops tokens between the layers of the LLM"),
        (("--tensor-parallel-size", 2), "--tensor-parallel-size 2 is for --engine vllm"),
    ],
)
def test_flags_without_an_effect_are_refused(flags, message, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("eval.models.served.find_spec", lambda name: name)
    common = ("run", "--tasks", TASKS_OF_DEMO, "--data", data, "--model", DEMO_MODEL, "--output", tmp_path / "out")
    assert run(*common, *flags) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_vllm(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("eval.models.served.find_spec", lambda name: None)
    flags = ("--tasks", TASKS_OF_DEMO, "--data", data, "--model", DEMO_MODEL, "--engine", "vllm")
    assert run("run", *flags, "--output", tmp_path / "out") == 1
    assert "--engine vllm needs vLLM" in capsys.readouterr().err
