from __future__ import annotations

import json
import statistics
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from rich.console import Console

from eval.cli import parse
from eval.speed.operator import prepare_operator
from eval.speed.operator_methods import BASE, NOTES, Field, grid_of, measure_methods, methods_of, print_methods
from tests.eval.speed.widths import TERMINAL, table_width
from vidcom2 import METHODS, compressor

CPU = torch.device("cpu")


def prepare(*arguments: str):
    return prepare_operator(parse(["bench", "operator", "--device", "cpu", *arguments]))


def test_all_are_the_methods_before_the_llm_with_their_presets():
    methods = methods_of("all")
    assert next(iter(methods)) == BASE
    before = {name: method for name, method in METHODS.items() if method.drops and method.stage == "before LLM"}
    presets = {f"{name}.{preset}" for name, method in before.items() for preset in method.presets}
    assert set(methods) == set(before) | presets
    assert methods["dycoke.released"] == compressor("dycoke.released")


def test_table_and_json(tmp_path: Path, capsys):
    file = tmp_path / "methods.json"
    chosen = "dycoke, vidcom2.released@0.5,dycoke.released"
    assert prepare("--methods", chosen, "--sizes", "32x9x16,4x12x8", "--repeats", "3", "--json", str(file))() == 0
    printed = capsys.readouterr().out
    assert "32x9x16" in printed
    assert "…" not in printed
    report = json.loads(file.read_text())
    assert (report["device"], report["dtype"], report["repeats"]) == ("cpu", "float32", 3)
    large, small = report["sizes"]
    assert (large["size"], small["size"]) == ([32, 9, 16], [4, 12, 8])
    assert list(large["lines"]) == ["vidcom2", "dycoke", "vidcom2.released@0.5"]
    assert large["kept"]["dycoke"] == 72
    assert "from 0.2812 to 1" in large["refused"]["dycoke.released"]
    assert "dycoke.released selects nothing at 32x9x16: dycoke.released cannot reach" in printed
    for size in report["sizes"]:
        for spec, line in size["lines"].items():
            times, doubled = size["milliseconds"][spec], size["doubled"][spec]
            assert len(times) == len(doubled) == 3
            assert line["median_ms"] == statistics.median(times)
            assert line["ratio"] == line["median_ms"] / size["lines"][BASE]["median_ms"]
            assert line["growth"] == statistics.median(doubled) / line["median_ms"]
            assert line["extra"] == size["extra_bytes"][spec] / size["feature_bytes"]
        assert size["lines"][BASE]["ratio"] == size["lines"][BASE]["ratio_of_best"] == 1


def test_what_is_measured_is_the_gathered_tokens():
    """Half of all tokens take at least half of the features' memory."""
    found = measure_methods((4, 9, 16), torch.float32, CPU, 2, methods_of("uniform@0.5"))
    assert found.kept["uniform@0.5"] == 18
    assert found.extra_bytes["uniform@0.5"] >= found.feature_bytes // 2
    assert found.feature_bytes == 4 * 9 * 16 * 4


def test_the_table_fits_a_terminal(capsys):
    specs = [BASE, "simplecluster.released"]
    times = {spec: [2345.67, 2345.67] for spec in specs}
    field = Field((128, 196, 3584), 10**8, times, times, dict.fromkeys(specs, 10**9), dict.fromkeys(specs, 25088), {})
    print_methods(Console(width=TERMINAL), [field], "cuda:0, torch.bfloat16")
    printed = capsys.readouterr().out
    assert table_width(printed, NOTES[0]) <= TERMINAL
    assert printed.count("2345.67 2345.67  1.00   1.00 10.00 25088") == 2


@pytest.mark.parametrize(("m", "grid"), [(196, (14, 14)), (169, (13, 13)), (12, (3, 4)), (7, (1, 7)), (1, (1, 1))])
def test_grids_are_as_square_as_they_can_be(m, grid):
    assert grid_of(m) == grid


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--methods", "none"), "none selects nothing before the LLM"),
        (("--methods", "fastv"), "fastv selects nothing before the LLM"),
        (("--methods", "all,norm"), "'all' is unknown"),
        (("--methods", "norm", "--compile"), "leave out --methods or --compile"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        prepare(*arguments)


def test_vllm_is_asked_for_where_it_is_not():
    if find_spec("vllm") is not None:
        pytest.skip("vLLM is there")
    with pytest.raises(ValueError, match=r"--vllm needs vLLM 0.32 or newer"):
        prepare("--vllm")
    with pytest.raises(ValueError, match="two tables"):
        prepare("--vllm", "--methods", "evs")
