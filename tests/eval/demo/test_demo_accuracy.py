"""The regression test of accuracy: the demo model on MiniBench, through the ordinary pipeline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eval.benchmarks.mvbench import MVBENCH
from eval.demo.minibench import HELD_OUT, write_mvbench
from eval.demo.run import PER_TASK, config
from eval.demo.world import TASKS
from eval.models.packaged import DEMO_MODEL
from eval.run.distributed import World
from eval.run.sweep import Sweep
from vidcom2 import compressor

QUARTER = "vidcom2@0.25:rounding=exact:positions=original"
RANDOM = "random@0.25:positions=original"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    root = tmp_path_factory.mktemp("demo")
    data = write_mvbench(root / "data", PER_TASK, seed=HELD_OUT)
    sweep = Sweep(config(MVBENCH, data, root), [compressor(spec) for spec in ("none", QUARTER, RANDOM)])
    sweep.check()
    assert sweep.run(World()) == 0
    return {run.compressor.spec: json.loads((run.output / "results.json").read_text()) for run in sweep.runs}


def test_dense(results):
    dense = results["none"]
    assert dense["samples"] == 40 * len(TASKS) >= 320
    assert dense["scores"]["overall"] >= 85
    for task, score in dense["scores"]["categories"].items():
        assert score["accuracy"] >= 60, task
        assert score["unparsed"] == 0


def test_compressed(results):
    """Far better than dropping at random at the same budget, and not far from dense."""
    dense, quarter, random = (results[compressor(spec).spec] for spec in ("none", QUARTER, RANDOM))
    assert quarter["visual_tokens"]["after"] == random["visual_tokens"]["after"] == dense["samples"] * (64 + 1)
    assert quarter["scores"]["overall"] >= random["scores"]["overall"] + 10
    assert quarter["scores"]["overall"] >= 0.75 * dense["scores"]["overall"]


def test_the_model_is_small(tmp_path):
    files = [file for file in Path(DEMO_MODEL).rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 10 * 2**20
    assert {file.name for file in files} >= {"config.json", "model.safetensors", "tokenizer.json"}
