"""Qwen-VL checkpoints: our engine against lmms-eval's own, unmodified wrappers, and whole runs of the command line."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from eval.benchmarks import select_tasks
from eval.benchmarks.mvbench import MVBENCH
from eval.cli import main
from eval.demo.encode import write_video
from eval.models import load_engine, protocol_for
from eval.models.qwen import QwenEngine
from eval.models.qwen_protocol import QWEN_PROTOCOLS, Reader
from eval.results.sample import STAGES
from eval.run.flags import FAILED_QUESTIONS
from eval.run.lmms import load_tasks
from llava.video import FrameSampling, VideoError
from tests.eval.qwen_tiny import make_qwen
from tests.eval.run.test_main_job import lines_of, results_of, run
from tests.llava.test_video import cut, noisy_frames
from tests.vidcom2.hf_tiny import tiny
from vidcom2 import Dense, VidCom2

KINDS = tuple(QWEN_PROTOCOLS)
LIKE_OTHERS = ("qwen2_vl", "qwen3_5_moe")
"""Read and answer as another kind does."""
FRAMES = {"qwen2_vl": 32, "qwen2_5_vl": 8, "qwen3_vl": 8, "qwen3_5": 8, "qwen3_5_moe": 8}
"""Frames per video, by kind. All but the first enlarge small frames; 32 of them would take five times as long."""
GREEDY = {"max_new_tokens": 16, "temperature": 0, "top_p": 1.0, "num_beams": 1, "do_sample": False, "until": ["\n\n"]}


@pytest.fixture(scope="session")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("qwen")
    made = {kind: make_qwen(root, kind) for kind in KINDS}
    # lmms-eval knows a mixture of experts by its name, and fills the dense model with random weights elsewhere.
    made["qwen3_5_moe"] = made["qwen3_5_moe"].rename(root / "Qwen3.5-A1B")
    return made


def recorded(owner: Any, name: str, into: list[Any]) -> None:
    """Have `owner.name` append (its keyword arguments, what it returns) to a list."""
    original = getattr(owner, name)

    def spy(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        into.append((kwargs, result))
        return result

    setattr(owner, name, spy)


def same(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """Are the tensors of two generate calls the same to the bit, and the token ids and lengths that steer it?"""
    tensors = [{k: v for k, v in call.items() if isinstance(v, torch.Tensor)} for call in (ours, theirs)]
    steering = ("max_new_tokens", "do_sample", "num_beams", "eos_token_id", "pad_token_id")
    return (
        tensors[0].keys() == tensors[1].keys()
        and all(torch.equal(tensors[0][k], tensors[1][k]) for k in tensors[0])
        and all(ours[k] == theirs[k] for k in steering)
    )


def wrapper_of(kind: str, settings: str) -> Any:
    """lmms-eval's own model. A Qwen3.5 thinks by default; ours does not."""
    from lmms_eval.models import get_model

    if kind.startswith("qwen3_5"):
        settings += ",enable_thinking=False"
    made = get_model(kind.removesuffix("_moe"))
    return made.create_from_arg_string(settings, {"batch_size": "1", "device": "cpu"})


@pytest.mark.parametrize(
    "compressor", [pytest.param(Dense(), marks=pytest.mark.slow), VidCom2(0.25)], ids=["dense", "compressed"]
)
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow if kind in LIKE_OTHERS else ()) for kind in KINDS]
)
def test_wrapper_and_engine_answer_alike(kind, compressor, qwen, mvbench, tasks):
    from lmms_eval.api.task import ConfigurableMessagesTask
    from lmms_eval.evaluator import simple_evaluate

    checkpoint = str(qwen[kind])
    wrapper = wrapper_of(kind, f"pretrained={checkpoint},device_map=cpu,max_num_frames={FRAMES[kind]}")
    assert wrapper.model.dtype == torch.bfloat16
    if compressor.drops:
        compressor.attach(wrapper.model)
    benchmark, names = select_tasks(tasks)
    objects = load_tasks(benchmark, names, mvbench, protocol_for(checkpoint).harness_name)
    if not wrapper.is_simple:
        for task in objects.values():
            task.__class__ = ConfigurableMessagesTask  # a subclass with other requests and the same fields
    calls: list[Any] = []
    prompts: list[Any] = []
    recorded(wrapper.model, "generate", calls)
    recorded(wrapper.processor, "apply_chat_template", prompts)
    results = simple_evaluate(model=wrapper, tasks=list(objects.values()), limit=2, bootstrap_iters=0, log_samples=True)
    texts = [prompt if isinstance(prompt, str) else prompt[0] for _, prompt in prompts]

    protocol = protocol_for(checkpoint)
    by_time = protocol.rate is not None
    sampling = f"fps:2,max={FRAMES[kind]},min=4" if by_time else f"uniform:{FRAMES[kind]}"
    protocol = protocol.sampled(FrameSampling.parse(sampling))
    engine = load_engine(checkpoint, protocol, "cpu", "bfloat16")
    ours: list[Any] = []
    recorded(engine.model, "generate", ours)
    answers = []
    for task in names:
        for sample in results["samples"][task]:
            doc = json.loads((mvbench / "json" / f"{benchmark.short_name(task)}.json").read_text())[sample["doc_id"]]
            video = str(benchmark.local_video(task, mvbench, doc))
            question, generation = sample["arguments"][0], objects[task].config.generation_kwargs
            answer = engine.answer(engine.see(engine.read(video)), question, generation, compressor)
            assert answer.text == sample["filtered_resps"][0]
            answers.append(answer)
            match = next(i for i, (call, _) in enumerate(calls) if same(ours[-1][0], call))
            assert texts[match] == answer.prompt
            assert answer.prompt.endswith("<think>\n\n</think>\n\n") == kind.startswith("qwen3_5")
            assert torch.equal(ours[-1][1], calls[match][1])
            # T frame pairs of M tokens, by the grid the model got.
            t, h, w = ours[-1][0]["video_grid_thw"][0].tolist()
            (record,) = answer.records
            assert record.frames_before == (h * w // 4,) * t
            assert t == -(-answer.frames // 2)
            share = record.tokens_after / record.tokens_before
            # Budgets are rounded up, so that small frames keep a little more.
            assert share == 1 if not compressor.drops else 0.25 <= share <= 0.25 + t / record.tokens_before
    assert len(calls) == len(ours) == len(answers) == 6
    assert len({answer.text for answer in answers}) > 2


@pytest.mark.parametrize("kind", KINDS)
def test_protocols_are_the_wrappers(kind, qwen):
    """What a tiny video cannot show: the limits that only large and long videos meet."""
    protocol = protocol_for(str(qwen[kind]))
    wrapper = wrapper_of(kind, f"pretrained={qwen[kind]},device_map=cpu")
    assert (protocol.harness_name, protocol.simple) == (kind.removesuffix("_moe"), wrapper.is_simple)
    assert protocol.total_pixels == getattr(wrapper, "total_pixels", None)
    assert protocol.frames == wrapper.max_num_frames
    assert (protocol.min_pixels, protocol.max_pixels) == (wrapper.min_pixels, wrapper.max_pixels)


@pytest.mark.parametrize("kind", KINDS)
def test_longer_videos_and_fewer_frames(kind, qwen, tmp_path):
    """As many frames as asked for, evenly over the whole video; stop texts end the simple protocol's answers only."""
    write_video(tmp_path / "long.mp4", noisy_frames(960), 24)
    protocol = protocol_for(str(qwen[kind]))
    engine = QwenEngine(str(qwen[kind]), protocol.sampled(FrameSampling("uniform", max_frames=6)), "cpu", "float32")
    calls: list[Any] = []
    recorded(engine.model, "generate", calls)
    seen = engine.see(engine.read(str(tmp_path / "long.mp4")))
    answer = engine.answer(seen, "Which?", GREEDY, Dense())
    assert (answer.frames, answer.duration) == (6, 40.0)
    assert calls[0][0]["video_grid_thw"][0, 0] == 3
    letter = answer.text.strip()[0]
    cut_short = engine.answer(seen, "Which?", {**GREEDY, "until": letter}, Dense()).text
    assert cut_short == (answer.text.split(letter)[0].strip() if protocol.simple else answer.text)


def test_command_line(qwen, mvbench, tasks, tmp_path):
    flags = ("--tasks", tasks, "--model", qwen["qwen2_vl"], "--data", mvbench)
    settings = {
        "none": ("--compressor", "none"),
        "quarter": ("--compressor", "vidcom2", "--retention", 0.25),
        "four": ("--compressor", "none", "--sampling", "uniform:4"),
    }
    lines = {}
    for name, more in settings.items():
        assert run(*flags, *more, "--output", tmp_path / name) == 0
        lines[name] = lines_of(tmp_path / name)
    for dense, quarter, four in zip(*lines.values(), strict=True):
        assert dense["frames"] == quarter["frames"] == int(dense["duration_s"] * 2) // 2 * 2  # two per second
        assert four["frames"] == 4 <= dense["frames"]
        assert dense["tokens_before"] == dense["tokens_after"] == quarter["tokens_before"]
        pairs = dense["frames"] // 2
        assert dense["tokens_before"] % pairs == 0
        assert four["tokens_before"] * pairs == dense["tokens_before"] * 2
        assert 0.25 <= quarter["tokens_after"] / quarter["tokens_before"] <= 0.25 + pairs / quarter["tokens_before"]
        assert quarter["prompt"] == dense["prompt"]
        assert dense["prompt"].startswith("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n")
        assert all(line["seconds"][stage] > 0 for line in (dense, quarter) for stage in STAGES)
    assert any(dense["frames"] > 4 for dense in lines["none"])
    assert any(a["answer"] != b["answer"] for a, b in zip(lines["none"], lines["quarter"], strict=True))

    results = results_of(tmp_path / "quarter")
    assert results["run"]["protocol"] == "qwen2_vl"
    assert results["run"]["decoder"] == "exact"
    assert results["run"]["compressor"] == "vidcom2@0.25"
    assert results["run"]["dtype"] == "float32"
    assert results["run"]["sampling"] == "2 per second, at most 32"
    assert results_of(tmp_path / "four")["run"]["sampling"] == "2 per second, at most 4"
    assert results["provenance"]["versions"]["qwen-vl-utils"]
    assert results["visual_tokens"]["after"] == sum(line["tokens_after"] for line in lines["quarter"])
    assert {line["positions"] for line in lines["quarter"]} == {"original"}
    assert results["failures"] == []


def test_unreadable_videos_are_listed_and_not_answered(qwen, mvbench, tmp_path, monkeypatch):
    data, task = tmp_path / "data", "mvbench_action_count"
    shutil.copytree(mvbench, data)
    questions = json.loads((data / "json" / "action_count.json").read_text())
    missing, corrupt, whole = (MVBENCH.local_video(task, data, doc) for doc in questions)
    missing.unlink()
    corrupt.write_bytes(b"not a video" * 100)
    asked: list[str] = []
    read = Reader.__call__
    monkeypatch.setattr(Reader, "__call__", lambda *args: asked.append(args[1]) or read(*args))
    monkeypatch.setattr("eval.models.canary.require_for", lambda *_: None)  # which generates, too
    generated: list[Any] = []
    generate = hf.Qwen2_5_VLForConditionalGeneration.generate
    monkeypatch.setattr(
        hf.Qwen2_5_VLForConditionalGeneration, "generate", lambda *a, **k: generated.append(k) or generate(*a, **k)
    )
    output = tmp_path / "out"
    flags = ("--tasks", task, "--model", qwen["qwen2_5_vl"], "--data", data, "--output", output)
    assert run(*flags, "--sampling", "uniform:8") == FAILED_QUESTIONS
    assert sorted(asked) == sorted(map(str, (missing, corrupt, whole)))
    assert len(generated) == 1
    results = results_of(output)
    assert [(f["doc_id"], f["video"]) for f in results["failures"]] == [(0, str(missing)), (1, str(corrupt))]
    assert all(f["video"] in f["error"] for f in results["failures"])
    assert [line["answer"] is None for line in lines_of(output)] == [True, True, False]
    assert [line["frames"] for line in lines_of(output)] == [0, 0, 8]
    assert results["run"]["sampling"] == "uniform:8"


@pytest.mark.parametrize("kind", KINDS)
def test_videos_that_fail_only_while_decoding(kind, qwen, tmp_path, monkeypatch):
    engine = QwenEngine(str(qwen[kind]), protocol_for(str(qwen[kind])), "cpu", "float32")
    whole, half = (tmp_path / f"{name}.mp4" for name in ("whole", "half"))
    write_video(whole, noisy_frames(72), 24, {"movflags": "faststart"})
    half.write_bytes(cut(whole, 50))
    with pytest.raises(VideoError, match=r"half\.mp4: "):
        engine.read(str(half))


@pytest.mark.parametrize("sampling", ["fps:1,max=63", "fps:2,max=64,min=7", "uniform:7"])
@pytest.mark.parametrize("kind", KINDS)
def test_samplings_these_models_do_not_have_are_refused(sampling, kind, qwen, mvbench, tmp_path, capsys):
    flags = ("--tasks", "mvbench_action_count", "--model", qwen[kind], "--data", mvbench, "--output", tmp_path)
    assert run(*flags, "--sampling", sampling) == 1
    assert (
        f"error: --sampling {sampling} is not for {kind.removesuffix('_moe')}, which takes frames in pairs: write even"
        in capsys.readouterr().err
    )


def test_other_models_are_refused(tmp_path, capsys):
    """transformers' own layout of LLaVA-OneVision is not that of the released evaluations."""
    checkpoint = tmp_path / "llava-onevision-qwen2-0.5b-ov-hf"
    tiny("llava_onevision").config.save_pretrained(checkpoint)
    assert run("--tasks", "mvbench", "--model", checkpoint, "--output", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert "is a 'llava_onevision' model; evaluated are LLaVA checkpoints in LLaVA-NeXT's layout and qwen2_vl" in error
    assert not (tmp_path / "out").exists()


def test_a_missing_reader_is_named_before_anything_is_loaded(qwen, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "qwen_vl_utils", None)
    assert main(["run", "--tasks", "mvbench", "--model", str(qwen["qwen3_vl"]), "--output", str(tmp_path)]) == 1
    assert "pip install qwen-vl-utils" in capsys.readouterr().err


def test_identity_tells_settings_apart(qwen):
    protocol = protocol_for(str(qwen["qwen2_vl"]))
    fewer = protocol.sampled(FrameSampling("uniform", max_frames=8))
    settings = [(protocol, "float32"), (fewer, "float32"), (protocol, "bfloat16")]
    engines = [QwenEngine(str(qwen["qwen2_vl"]), p, "cpu", dtype) for p, dtype in settings]
    assert len({engine.identity for engine in engines}) == 3
