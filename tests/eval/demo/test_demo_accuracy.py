"""The regression test of accuracy: the demo model on MiniBench, through the ordinary pipeline, at default settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eval.benchmarks.mvbench import MVBENCH
from eval.demo.minibench import HELD_OUT, write_mvbench
from eval.demo.run import SETTINGS, config
from eval.demo.world import TASKS
from eval.models.packaged import DEMO_MODELS
from eval.run.distributed import World
from eval.run.sweep import Sweep

PER_TASK = 20
"""Half of the demo's questions."""
MEASURED = {"none": 95.6, "vidcom2@0.25": 91.1, "vidcom2@0.15": 88.9, "random@0.25": 68.3}
"""Accuracies in percent on these questions, measured on the machine that trained the model."""
MARGIN = 3.0
"""Five of the 180 questions. Another CPU or torch rounds differently, which changes answers that were close."""
TOKENS = 32 * 36
"""T·M of a video. A newline follows."""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    root = tmp_path_factory.mktemp("demo")
    data = write_mvbench(root / "data", PER_TASK, seed=HELD_OUT)
    sweep = Sweep(config(MVBENCH, data, root), SETTINGS)
    sweep.check()
    assert sweep.run(World()) == 0
    return {run.compressor.spec: json.loads((run.output / "results.json").read_text()) for run in sweep.runs}


@pytest.mark.parametrize("spec", MEASURED)
def test_accuracy(results, spec):
    assert results[spec]["samples"] == PER_TASK * len(TASKS) == 180
    assert results[spec]["scores"]["overall"] == pytest.approx(MEASURED[spec], abs=MARGIN)
    assert all(score["unparsed"] == 0 for score in results[spec]["scores"]["categories"].values())


def test_dense_can_do_every_task(results):
    for task, score in results["none"]["scores"]["categories"].items():
        assert score["accuracy"] >= 65, task


def test_it_looks_like_the_paper(results):
    """A quarter of the tokens costs little, and chance pays dearly for the same quarter."""
    overall = {spec: result["scores"]["overall"] for spec, result in results.items()}
    assert overall["vidcom2@0.25"] >= 0.93 * overall["none"]
    assert overall["vidcom2@0.15"] >= 0.9 * overall["none"]
    assert overall["vidcom2@0.25"] >= overall["random@0.25"] + 15
    tokens = {spec: result["visual_tokens"]["after_per_sample"] - 1 for spec, result in results.items()}
    assert tokens["random@0.25"] == TOKENS / 4
    assert TOKENS / 4 <= tokens["vidcom2@0.25"] < TOKENS / 4 + 32, "VidCom² rounds every frame's budget up"


def test_the_models_are_small():
    """12 MB in the repository, for both."""
    files = [file for model in DEMO_MODELS.values() for file in Path(model).rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 12e6
    for model in DEMO_MODELS.values():
        assert {file.name for file in model.iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json"}
