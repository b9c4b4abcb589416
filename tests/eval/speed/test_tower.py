from __future__ import annotations

import json
from pathlib import Path

import pytest

from eval.cli import parse
from eval.speed.tower import NOTES, prepare_tower
from llava.model.multimodal_encoder.builder import KNOWN_TOWERS
from tests.eval.speed.widths import TERMINAL, table_width

TINY = {
    "model_type": "siglip_vision_model",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 30,
    "patch_size": 7,
}


def prepare(*arguments: str):
    return prepare_tower(parse(["bench", "tower", "--device", "cpu", *arguments]))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_parts(dtype, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setitem(KNOWN_TOWERS, "tiny", TINY)
    file = tmp_path / "tower.json"
    flags = ("--tower", "tiny", "--frames", "3", "--repeats", "2", "--dtype", dtype, "--json", str(file))
    assert prepare(*flags)() == 0
    printed = capsys.readouterr().out
    assert "frame by frame" in printed
    assert table_width(printed, NOTES[0]) <= TERMINAL
    report = json.loads(file.read_text())
    assert (report["tower"], report["frames"], report["dtype"], report["device"]) == ("tiny", 3, dtype, "cpu")
    assert {part: list(lines) for part, lines in report["parts"].items()} == {
        "patches": ["convolution", "channels last", "matrix product"],
        "layer": ["all frames", "frame by frame"],
    }
    for lines in report["parts"].values():
        differences = [line["max"] for line in lines.values()]
        assert differences[0] == 0
        assert max(differences) < (1e-5 if dtype == "float32" else 0.1)  # the same, but for rounding
        assert all(len(line["milliseconds"]) == 2 for line in lines.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--tower", "resnet"), "--tower 'resnet' is unknown"),
        (("--frames", "0"), "--frames 0 must be at least 1"),
        (("--dtype", "int8"), "int8"),
        (("--repeats", "1"), "--repeats 1 must be at least 2"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        prepare(*arguments)
