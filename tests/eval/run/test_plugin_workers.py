"""A method of another package, found by its entry point, answers in the CLI's worker processes."""

from __future__ import annotations

import json

from eval.cli import main
from tests.vidcom2.test_plugins import METHOD, forgotten, install

__all__ = ["forgotten", "install"]  # fixtures


def test_a_method_of_another_package_reaches_the_workers(install, onevision, mvbench, tmp_path):
    install("longest_tokens", METHOD.format(name="longest"), "longest")
    output = tmp_path / "run"
    flags = ("--tasks", "mvbench_action_count", "--model", onevision, "--data", mvbench, "--output", output)
    more = ("--compressor", "longest@0.5:power=3", "--limit", 1, "--device", "cpu", "--num-gpus", 2)
    assert main(["run", *map(str, (*flags, *more, "--sampling", "uniform:2"))]) == 0
    results = json.loads((output / "results.json").read_text())
    assert results["run"]["compressor"] == "longest@0.5:power=3"
    assert results["run"]["processes"] == 2
    tokens = results["visual_tokens"]
    assert tokens["after_per_sample"] < 0.6 * tokens["before_per_sample"]
