from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import pytest
import torch
from rich.console import Console

from eval.cli import parse
from eval.speed.memory import peak_bytes
from eval.speed.operator import (
    COPY,
    GATHER,
    NOTES,
    PAPER,
    READ,
    RELEASED,
    SELECTIONS,
    SLOW,
    Result,
    measure,
    prepare_operator,
    print_results,
)
from eval.speed.random_features import features, parse_sizes
from tests.eval.speed.widths import TERMINAL, table_width

CPU = torch.device("cpu")


def prepare(*arguments: str):
    return prepare_operator(parse(["bench", "operator", "--device", "cpu", *arguments]))


def test_table_and_json(tmp_path: Path, capsys):
    file = tmp_path / "new" / "operator.json"
    assert prepare("--sizes", "5x12x32, 3x7x16", "--repeats", "3", "--json", str(file))() == 0
    printed = capsys.readouterr().out
    assert "5x12x32" in printed
    assert "…" not in printed
    report = json.loads(file.read_text())
    assert report["provenance"]["date"]
    assert torch.__version__.startswith(report["provenance"]["versions"]["torch"])
    assert (report["device"], report["dtype"], report["repeats"]) == ("cpu", "float32", 3)
    assert [size["size"] for size in report["sizes"]] == [[5, 12, 32], [3, 7, 16]]
    for size in report["sizes"]:
        assert list(size["milliseconds"]) == list(size["lines"]) == [READ, COPY, GATHER, *SELECTIONS]
        assert list(size["extra_bytes"]) == list(SELECTIONS)
        assert size["feature_bytes"] == 4 * torch.Size(size["size"]).numel()
        assert size["different"] == 0
        for times, line in zip(size["milliseconds"].values(), size["lines"].values(), strict=True):
            assert len(times) == 3
            assert line["median_ms"] == sorted(times)[1]
            assert sorted(times)[1] <= line["p90_ms"] <= max(times)
        assert size["lines"][READ]["reads"] == size["lines"][SLOW]["faster"] == 1
        assert size["lines"][PAPER]["faster"] == size["lines"][SLOW]["median_ms"] / size["lines"][PAPER]["median_ms"]


def test_the_table_fits_a_terminal(capsys):
    """With the largest numbers that the usual sizes give."""
    lines = [READ, COPY, GATHER, *SELECTIONS, "paper, compiled", "released, compiled"]
    extra = dict.fromkeys(lines[3:], 151 * 10**6)
    result = Result((128, 196, 3584), 10**8, {line: [2345.67, 2345.67] for line in lines}, extra, 6272, 6272)
    print_results(Console(width=TERMINAL), [result], "cuda:0, torch.bfloat16")
    printed = capsys.readouterr().out
    assert table_width(printed, NOTES[0]) <= TERMINAL
    assert "128x196x3584" in printed
    assert printed.count("2345.67 2345.67") == len(lines)
    assert printed.count("151.0 %") == len(extra)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype, tmp_path: Path):
    file = tmp_path / "half.json"
    assert prepare("--sizes", "4x9x16", "--dtype", dtype, "--repeats", "2", "--json", str(file))() == 0
    report = json.loads(file.read_text())
    assert report["dtype"] == dtype
    assert report["sizes"][0]["feature_bytes"] == 2 * 4 * 9 * 16


def test_compiled(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))  # traces; needs no C++ compiler
    file = tmp_path / "compiled.json"
    assert prepare("--sizes", "4x9x16", "--compile", "--repeats", "2", "--json", str(file))() == 0
    [size] = json.loads(file.read_text())["sizes"]
    assert list(size["lines"])[-3:] == [SLOW, "paper, compiled", "released, compiled"]
    assert list(size["extra_bytes"])[-2:] == ["paper, compiled", "released, compiled"]
    assert "…" not in capsys.readouterr().out


def test_different_tokens_are_counted(monkeypatch):
    monkeypatch.setitem(SELECTIONS, SLOW, lambda x: SELECTIONS[RELEASED](x)[3:])
    assert measure(features((4, 10, 8), torch.float32, CPU), 2, SELECTIONS).different == 3


def test_features_are_the_same_every_time_and_not_alike():
    x = features((3, 4, 5), torch.float32, CPU)
    assert torch.equal(x, features((3, 4, 5), torch.float32, CPU))
    assert len(x.unique()) == x.numel()


def test_peak_bytes_sees_what_an_operator_hides():
    x = torch.ones(1000, 100, dtype=torch.bfloat16)
    assert peak_bytes(lambda x: x, x) == 0
    few = 4096  # scalars
    assert 2 * x.nbytes <= peak_bytes(lambda x: (x + 1) + 1, x) < 2 * x.nbytes + few
    # The sum casts all of x first, and returns four bytes.
    assert x.numel() * 4 <= peak_bytes(lambda x: x.sum(dtype=torch.float32), x) < x.numel() * 4 + few


def test_peak_bytes_leaves_stderr_as_it_was(capfd):
    peak_bytes(torch.exp, torch.ones(3))
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"


@pytest.mark.parametrize("text", ["", "32x196", "0x4x4", "4x4x4x4", "4x4x4,", "4 x 4 x 4", "-1x4x4", "4x4x4.0"])
def test_bad_sizes(text):
    with pytest.raises(ValueError, match="not frames x tokens x channels, such as 32x196x3584"):
        parse_sizes(text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sizes", "1x2"), "--sizes: '1x2'"),
        (("--dtype", "int8"), "int8"),
        (("--repeats", "1"), "--repeats 1 must be at least 2"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        prepare(*arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_told():
    with pytest.raises(ValueError, match="--device cuda: torch finds no GPU"):
        prepare("--device", "cuda")


def test_a_directory_for_json_is_refused(tmp_path: Path):
    with pytest.raises(IsADirectoryError, match="name a file"):
        prepare("--json", str(tmp_path))
