"""The benchmarks that start vLLM run, on a tiny model, and their tables have what they say."""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest

from eval.cli import main
from eval.models.random_weights import PRESETS

pytestmark = [pytest.mark.skipif(find_spec("vllm") is None, reason="needs vLLM"), pytest.mark.slow]
MODEL = ("--random-weights", "tiny-tower-0.5b", "--sampling", "uniform:4", "--videos", "1", "--new-tokens", "2")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Two layers of 128 instead of 24 of 896."""
    sizes = {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4}
    preset = PRESETS["tiny-tower-0.5b"] | sizes | {"vocab_size": 512}
    monkeypatch.setitem(PRESETS, "tiny-tower-0.5b", preset)
    for name in ("COMPRESSOR", "R_RATIO"):
        monkeypatch.delenv(name, raising=False)


def test_pipeline(tmp_path):
    flags = (*MODEL, "--per-video", "1", "--batch-size", "9", "--repeats", "2", "--json", str(tmp_path / "json"))
    assert main(["bench", "pipeline", "--vllm", "--brief", "--device", "cpu", *flags]) == 0
    lines = json.loads((tmp_path / "json").read_text(encoding="utf-8"))["questions_per_video"]["1"]
    assert list(lines) == ["one by one", "batches of 9", "vLLM, dense", "vLLM"]
    assert lines["vLLM"]["differ"] == 0, "it has the same weights and keeps the same tokens"


def test_serving(tmp_path):
    flags = (*MODEL, "--concurrent", "1,3", "--repeats", "1", "--json", str(tmp_path / "json"))
    assert main(["bench", "serving", "--device", "cpu", *flags]) == 0
    found = json.loads((tmp_path / "json").read_text(encoding="utf-8"))["concurrent"]
    assert list(found) == ["1", "3"]
    for servers in found.values():
        assert list(servers) == ["dense", "vidcom2@0.25"]
        assert all(line["tokens_per_second"] > 0 for line in servers.values())
