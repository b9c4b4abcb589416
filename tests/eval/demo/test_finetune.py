"""`scripts/finetune.py` on the demo model: what it trains, what it saves, and that an evaluation takes it."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import load_file

from eval.cli import main
from eval.demo.minibench import write_mvbench
from eval.demo.training.analysis import BEGIN, END
from eval.demo.training.conversations import write_conversations
from eval.demo.training.finetuned import COMPRESSORS
from eval.demo.training.finetuned import main as finetuned
from eval.models.packaged import DEMO_MODEL

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "scripts" / "finetune.py"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine conversations."""
    return write_conversations(tmp_path_factory.mktemp("conversations"), 1)


@pytest.fixture
def finetune(data, tmp_path, monkeypatch):
    """Runs the script in this process; returns what it wrote beside the checkpoint."""

    def run(name: str, *flags: str) -> dict[str, Any]:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        common = ["--model", str(DEMO_MODEL), "--data", str(data), "--output", str(tmp_path / name)]
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *common, "--sampling", "uniform:8", *flags])
        before = torch.random.get_rng_state()
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        finally:
            torch.random.set_rng_state(before)
        return json.loads((tmp_path / name / "finetune.json").read_text(encoding="utf-8"))

    return run


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint / "model.safetensors")


def test_it_trains_all_but_the_tower_and_an_evaluation_takes_it(finetune, tmp_path, capsys):
    record = finetune("tuned", "--steps", "3", "--batch", "3", "--rate", "1e-3", "--checkpointing")
    assert len(record["losses"]) == 3
    assert record["compressor"] == "vidcom2@0.15"
    assert "9 conversations, 3 per step in 1 processes" in capsys.readouterr().out
    before, after = weights(DEMO_MODEL), weights(tmp_path / "tuned")
    assert before.keys() == after.keys()
    for name, weight in after.items():
        assert weight.dtype == before[name].dtype
        assert torch.equal(weight, before[name]) == ("vision_tower" in name), name

    write_mvbench(tmp_path / "data", 1)
    flags = ["--model", str(tmp_path / "tuned"), "--data", str(tmp_path / "data"), "--output", str(tmp_path / "run")]
    more = ["--tasks", "mvbench_moving_direction", "--device", "cpu", "--dtype", "float32", "--workers", "0"]
    assert main(["run", *flags, *more, "--compressor", "vidcom2@0.15"]) == 0
    (sample,) = (tmp_path / "run" / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(sample)["score"] == 1  # every model here has these all right


def test_without_a_rate_nothing_changes(finetune, tmp_path):
    """The checkpoint is the old one, and each compressor has the loss of its own."""
    losses = {
        spec: finetune(spec, "--compressor", spec, "--steps", "1", "--rate", "0")["losses"]
        for spec in ("none", "vidcom2@1.0", "random@0.15")
    }
    assert losses["none"] == losses["vidcom2@1.0"] != losses["random@0.15"]
    for name, weight in weights(tmp_path / "random@0.15").items():
        assert torch.equal(weight, weights(DEMO_MODEL)[name]), name


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--compressor", "fastv@0.5:k=1"], r"--compressor fastv@0\.5:k=1 shortens the layers"),
        (["--batch", "10"], "has 9 conversations, and a step takes 10: lower --batch"),
        (["--compressor", "none", "--rate", "1e30", "--steps", "2", "--batch", "2"], "step 1: the loss is nan"),
    ],
)
def test_what_cannot_be(finetune, flags, message):
    with pytest.raises(SystemExit, match=message):
        finetune("none", *flags)


@pytest.mark.slow
def test_two_processes_train_as_one(finetune, data, tmp_path):
    """Half of the batch in each: the same losses, and the same weights up to rounding."""
    flags = ["--steps", "4", "--rate", "1e-4"]
    alone = finetune("alone", *flags, "--batch", "4")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(SCRIPT)]
    command += ["--model", str(DEMO_MODEL), "--data", str(data), "--output", str(tmp_path / "both")]
    variables = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [*command, "--sampling", "uniform:8", *flags, "--batch", "2"], env={**os.environ, **variables}, check=True
    )
    both = json.loads((tmp_path / "both" / "finetune.json").read_text(encoding="utf-8"))
    assert (alone["processes"], both["processes"]) == (1, 2)
    assert both["losses"] == pytest.approx(alone["losses"], rel=1e-3, abs=1e-5)
    ours, theirs = weights(tmp_path / "alone"), weights(tmp_path / "both")
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name], rtol=2e-3, atol=2e-4)


@pytest.mark.slow
def test_the_measurement(tmp_path):
    """All of it, small: data, trainings, runs, and what it writes. What is finished is not done again."""
    docs = tmp_path / "docs"
    (docs / "benchmarks").mkdir(parents=True)
    (docs / "finetuning.md").write_text(f"# Page\n\n{BEGIN}old\n{END}", encoding="utf-8")
    flags = ["--output", str(tmp_path / "out"), "--docs", str(docs), "--train-per-task", "1", "--per-task", "1"]
    assert finetuned([*flags, "--steps", "2"]) == 0
    page = (docs / "finetuning.md").read_text(encoding="utf-8")
    content = json.loads((docs / "benchmarks" / "finetune-demo.json").read_text(encoding="utf-8"))
    assert "old" not in page
    for model in ("before", *COMPRESSORS):
        dense = content["accuracy"][model]["none"]
        assert f"{dense['accuracy']:.1f} [{dense['low']:.1f}, {dense['high']:.1f}]" in page
        assert dense["retention"] == 1 > content["accuracy"][model]["vidcom2@0.15"]["retention"]
    assert content["training"]["none"]["compressor"] == "none"
    assert len(content["training"]["vidcom2@0.15"]["losses"]) == 2
    weights_before = (tmp_path / "out" / "models" / "none" / "model.safetensors").stat().st_mtime_ns
    assert finetuned([*flags, "--steps", "2"]) == 0
    assert (tmp_path / "out" / "models" / "none" / "model.safetensors").stat().st_mtime_ns == weights_before
    assert (docs / "finetuning.md").read_text(encoding="utf-8") == page
