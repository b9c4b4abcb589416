"""ZeRO-3 inference in two processes on the CPU: answers as without, every process holding half of the model."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.multiprocessing.spawn import spawn

from eval.cli import main
from eval.demo.encode import write_video
from eval.models import load_engine, protocol_for
from eval.models.base import Engine
from eval.models.zero3 import CONFIG as ZERO3
from eval.models.zero3 import READ_DIRECTLY, load_sharded, read_config
from eval.run.flags import FAILED_QUESTIONS
from llava.video import FrameSampling
from tests.eval.qwen_tiny import make_qwen
from tests.eval.run.test_main_job import results_of
from tests.eval.run.test_sweep import same
from tests.llava.test_video import noisy_frames
from vidcom2 import compressor

SHIPPED = ZERO3
PROCESSES = 2
SPECS = ("none", "vidcom2@0.25", "fastv@0.6:k=1")
QUESTIONS = ("What moves?\nA. A dog\nB. A cat", "Why?")
GREEDY = {"max_new_tokens": 5, "temperature": 0, "do_sample": False, "num_beams": 1, "until": []}


@dataclass(frozen=True)
class Said:
    """logits: of every step, [steps, vocabulary]; tokens: what the video cost the LLM."""

    text: str
    tokens: list[float]
    logits: torch.Tensor


def says(engine: Engine, video: str) -> list[Said]:
    """Every question under every compressor, in turn, so that no two forwards in a row are alike."""
    steps: list[torch.Tensor] = []
    model: Any = engine.model  # type: ignore[attr-defined]
    hook = model.lm_head.register_forward_hook(lambda head, args, output: steps.append(output[0, -1].clone()))
    said = []
    seen = engine.see(engine.read(video))
    for question in QUESTIONS:
        for spec in SPECS:
            steps.clear()
            answer = engine.answer(seen, question, GREEDY, compressor(spec))
            tokens = [record.tokens_after for record in answer.records]
            said.append(Said(answer.text, tokens, torch.stack(steps)))
    hook.remove()
    return said


def loaded(model: Path, dtype: str, zero3: Path | None = None) -> Engine:
    return load_engine(
        str(model),
        protocol_for(str(model)).sampled(FrameSampling("uniform", max_frames=4)),
        "cpu",
        dtype,
        "sdpa",
        zero3,
    )


@dataclass(frozen=True)
class Case:
    model: Path
    dtype: str
    zero3: Path


def process(rank: int, cases: list[Case], video: str, root: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{root}/meet", rank=rank, world_size=PROCESSES)
    for number, case in enumerate(cases):
        engine = loaded(case.model, case.dtype, case.zero3)
        held = {
            name: (parameter.numel(), parameter.ds_numel, parameter.ds_tensor.numel())
            for name, parameter in engine.model.named_parameters()
        }
        torch.save((held, says(engine, video)), root / f"case{number}.rank{rank}")
    torch.distributed.barrier()


@pytest.mark.slow  # each process imports torch anew
@pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")
def test_two_processes_with_half_of_a_model_each_answer_as_one_does(onevision, llava_video, tmp_path, monkeypatch):
    video = str(tmp_path / "noise.mp4")
    write_video(Path(video), noisy_frames(16), fps=4)
    config = json.loads(SHIPPED.read_text())
    # As for real sizes: no parameter is small enough to be kept, and only a few fit into what is fetched ahead.
    config["zero_optimization"] |= {"stage3_param_persistence_threshold": 0, "stage3_prefetch_bucket_size": 5000}
    tight = tmp_path / "tight.json"
    tight.write_text(json.dumps(config))
    cases = [
        Case(onevision, "float32", tight),
        Case(llava_video, "bfloat16", SHIPPED),
        Case(make_qwen(tmp_path, "qwen2_vl"), "float32", tight),
    ]
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")  # also where there are GPUs
    spawn(process, (cases, video, tmp_path), PROCESSES)

    for number, case in enumerate(cases):
        whole = loaded(case.model, case.dtype)
        expected = says(whole, video)
        assert any(one.tokens != expected[0].tokens for one in expected)
        for rank in range(PROCESSES):
            held, said = torch.load(tmp_path / f"case{number}.rank{rank}", weights_only=False)
            directly = {name for name, _ in whole.model.named_parameters() if name.endswith(READ_DIRECTLY)}
            sizes = {name: parameter.numel() for name, parameter in whole.model.named_parameters()}
            assert held == {
                name: (0, size, math.ceil(size / PROCESSES)) for name, size in sizes.items() if name not in directly
            }
            assert [(one.text, one.tokens) for one in said] == [(one.text, one.tokens) for one in expected]
            for ours, theirs in zip(said, expected, strict=True):
                torch.testing.assert_close(ours.logits, theirs.logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "enabled"), [("float16", (True, False)), ("bfloat16", (False, True)), ("float32", (False, False))]
)
def test_the_shipped_configuration_gets_the_precision_asked_for(dtype, enabled):
    config = read_config(SHIPPED, dtype)
    assert (config["fp16"]["enabled"], config["bf16"]["enabled"]) == enabled
    # DeepSpeed's other linear layer rounds differently, and it would stay in torch.
    assert config["zero_optimization"]["memory_efficient_linear"] is False


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "zero.json is no JSON"),
        ("[]", "zero_optimization.stage must be 3"),
        ('{"zero_optimization": {"stage": 2}}', "zero_optimization.stage must be 3"),
        (
            '{"zero_optimization": {"stage": 3, "reduce_bucket_size": "auto"}, "train_batch_size": "auto"}',
            "train_batch_size, zero_optimization.reduce_bucket_size cannot be 'auto'",
        ),
        ('{"zero_optimization": {"stage": 3}, "bf16": {}, "optimizer": {}}', "take out bf16, optimizer"),
    ],
)
def test_configurations_that_are_not_for_inference_are_refused(text, message, tmp_path):
    file = tmp_path / "zero.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_config(file, "float16")


def test_what_cannot_be_sharded_is_said_before_anything_is_loaded(tmp_path, monkeypatch):
    def load() -> Engine:
        raise AssertionError("loaded")

    with pytest.raises(OSError, match=r"--zero3-config \S*absent.json cannot be read"):
        load_sharded(load, tmp_path / "absent.json", "cpu", "float32")
    with pytest.raises(ValueError, match="torch_dtype='int8'"):
        load_sharded(load, SHIPPED, "cpu", "int8")
    with pytest.raises(ValueError, match="device='auto'"):
        load_sharded(load, SHIPPED, "auto", "float32")
    monkeypatch.setattr("eval.models.zero3.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install deepspeed"):
        load_sharded(load, SHIPPED, "cpu", "float32")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_with_one_model_over_two_processes(workers, onevision, mvbench, tasks, tmp_path, monkeypatch):
    data = shutil.copytree(mvbench, tmp_path / "data")
    sorted((data / "video").rglob("*.mp4"))[1].write_bytes(b"not a video")
    flags = ["sweep", "--tasks", tasks, "--model", onevision, "--data", data, "--compressors", "none,vidcom2@0.25"]
    flags += ["--device", "cpu", "--workers", workers]
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    for name, more in {"whole": [], "sharded": ["--engine", "deepspeed", "--num-gpus", 2]}.items():
        assert main([*map(str, [*flags, *more, "--output", tmp_path / name])]) == FAILED_QUESTIONS
    for spec in ("none", "vidcom2@0.25"):
        assert results_of(tmp_path / "sharded" / spec)["run"]["engine"] == "deepspeed"
        assert same(tmp_path / "whole" / spec, tmp_path / "sharded" / spec)
