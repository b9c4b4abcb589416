from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from eval.benchmarks.mlvu import MLVU_DEV
from eval.benchmarks.mvbench import MVBENCH
from eval.benchmarks.videomme import VIDEOMME
from eval.cli import parse
from eval.reports.compare import compare, prepare_compare, print_comparison
from eval.results.load import load_run
from eval.results.sample import STAGES
from eval.results.schema import RunSettings, ScoredSample, Summary
from eval.results.stats import mcnemar, paired_interval
from eval.results.summary import summarise, write_results

COUNT, STATE = "mvbench_action_count", "mvbench_state_change"
DENSE = {COUNT: [1, 1, 1, 0, 0, 1], STATE: [1, 0, 1]}
COMPRESSED = {COUNT: [1, 0, 0, 1, 0, 0], STATE: [1, 1, 1]}


def line(task: str, doc_id: int, score: float, **other: Any) -> ScoredSample:
    values = {
        "task": task,
        "category": MVBENCH.short_name(task),
        "doc_id": doc_id,
        "video": f"[{task}]_{doc_id}.mp4",
        "prompt": f"What is in {doc_id}?\u2028A, B or C",
        "answer": "B." if score else "C.",
        "parsed": "B" if score else "C",
        "target": "B",
        "score": float(score),
        "scores": {"current": float(score)},
        "error": None,
        "tokens_before": 100,
        "tokens_after": 25,
        "seconds": dict.fromkeys(STAGES, 0.5),
    }
    return ScoredSample(**(values | other))


def lines(scores: dict[str, list[int]], tokens: int = 25) -> list[ScoredSample]:
    return [line(t, i, score, tokens_after=tokens) for t, mine in scores.items() for i, score in enumerate(mine)]


def write(directory: Path, lines: list[ScoredSample], benchmark=MVBENCH, **settings: Any) -> Path:
    """A run's directory, by what writes them."""
    directory.mkdir()
    named = {"model": "m", "compressor": "vidcom2@0.25", "sampling": "uniform:8", "dtype": "d", "attention": "a"}
    told = RunSettings.from_json(named | {"compressor_settings": {}, "processes": 1, "limit": None} | settings)
    write_results(directory, summarise(benchmark, lines, told), lines)
    return directory


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    dense = write(tmp_path / "dense", lines(DENSE, 100), compressor="none", processes=2, limit=6)
    return dense, write(tmp_path / "vidcom2@0.25", lines(COMPRESSED))


def call(*arguments: object) -> int:
    """What the command line does."""
    return prepare_compare(parse(["compare", *map(str, arguments)]))()


def test_rows(runs):
    found = compare(*runs)
    count, state, overall = found.rows
    assert (count.name, count.samples, count.lost, count.won) == ("action_count", 6, 3, 1)
    assert (count.a, count.b, count.difference) == pytest.approx((100 * 4 / 6, 100 * 2 / 6, -100 * 2 / 6))
    assert count.p == 0.625  # 2 · (1 + 4) / 16
    assert (state.name, state.samples, state.lost, state.won, state.p) == ("state_change", 3, 0, 1, 1)
    assert (overall.name, overall.samples, overall.lost, overall.won) == ("overall", 9, 3, 2)
    for run, value in zip(runs, (overall.a, overall.b), strict=True):
        assert value == pytest.approx(json.loads((run / "results.json").read_text())["scores"]["macro"])
    a, b = ([x for mine in scores.values() for x in mine] for scores in (DENSE, COMPRESSED))
    categories = ["x"] * 6 + ["y"] * 3
    assert (overall.difference, overall.low, overall.high) == paired_interval(a, b, categories, "macro")
    assert (count.difference, count.low, count.high) == paired_interval(a[:6], b[:6], categories[:6], "micro")
    assert overall.p == mcnemar(a, b)
    assert (found.a.visual_tokens.retention, found.b.visual_tokens.retention) == (1, 0.25)
    assert (found.overall, found.a.accuracy, found.b.accuracy) == ("macro", overall.a, overall.b)
    assert found.warnings == []


def test_flips(runs):
    flips = [(f.task, f.doc_id, f.answer_a, f.answer_b, f.won) for f in compare(*runs).flips]
    assert flips == [
        (COUNT, 1, "B.", "C.", False),
        (COUNT, 2, "B.", "C.", False),
        (COUNT, 3, "C.", "B.", True),
        (COUNT, 5, "B.", "C.", False),
        (STATE, 1, "C.", "B.", True),
    ]


@pytest.mark.parametrize(("benchmark", "overall"), [(MLVU_DEV, "macro"), (VIDEOMME, "micro")])
def test_overall_is_the_benchmarks(tmp_path, benchmark, overall):
    runs = [write(tmp_path / str(i), lines(scores), benchmark) for i, scores in enumerate((DENSE, COMPRESSED))]
    found = compare(*runs)
    scores = json.loads((runs[1] / "results.json").read_text())["scores"]
    assert scores["macro"] != pytest.approx(scores["micro"])
    assert found.rows[-1].b == pytest.approx(scores[overall]) == pytest.approx(scores["overall"])


def test_order_does_not_matter(runs, tmp_path):
    other = write(tmp_path / "other", lines(COMPRESSED)[::-1])
    assert compare(runs[0], other).flips == compare(*runs).flips


def test_the_same_run_twice(runs):
    found = compare(runs[0], runs[0])
    assert found.flips == []
    assert {(r.difference, r.low, r.high, r.p) for r in found.rows} == {(0, 0, 0, 1)}


def changed(doc_id: int, **values: Any) -> list[ScoredSample]:
    return [replace(one, **(values if one.key == (COUNT, doc_id) else {})) for one in lines(COMPRESSED)]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lines(COMPRESSED)[:-1], f"{STATE} question 2 is only in .*dense"),
        ([*lines(COMPRESSED), line(STATE, 3, 1)], f"{STATE} question 3 is only in .*other"),
        (lines({COUNT: COMPRESSED[COUNT]}), f"{STATE} question 0 is only in .*dense"),
        (changed(4, target="A"), f"{COUNT} question 4 has the target 'B' in the one and 'A' in the other"),
        (changed(4, category="counting"), f"{COUNT} question 4 has the category 'action_count' in the one and 'co"),
        (
            changed(4, prompt="What is in 4?\u2028A, B or D"),
            r"question 4 has the prompt .*or C' in the one and .*or D' in the other, from character 22 on "
            r"\(the first of those that differ; digests of all prompts: [0-9a-f]{16} and [0-9a-f]{16}\)",
        ),
    ],
)
def test_other_questions_are_an_error(runs, tmp_path, other, message):
    with pytest.raises(ValueError, match=message + r".*Run both with the same --tasks") as caught:
        compare(runs[0], write(tmp_path / "other", other))
    assert len(str(caught.value)) < 600


def test_other_settings_are_a_warning(runs, tmp_path, capsys):
    versions = {"torch": "2.6", "decord": "0.6"}
    first = write(tmp_path / "first", lines(DENSE), versions=versions)
    other = write(
        tmp_path / "other",
        lines(COMPRESSED),
        compressor="random@0.5",
        compressor_settings={"seed": 0},
        sampling="uniform:16",
        decoder="decord",
        versions={**versions, "torch": "2.7"},
    )
    expected = [
        "sampling differs: 'uniform:8' in vidcom2@0.25, 'uniform:16' in random@0.5",
        "versions.torch differs: '2.6' in vidcom2@0.25, '2.7' in random@0.5",
        "decoder differs: None in vidcom2@0.25, 'decord' in random@0.5",
    ]
    assert compare(first, other).warnings == expected
    assert call(first, other) == 0
    printed = capsys.readouterr().out
    assert all(f"WARNING: {warning}\n" in printed for warning in expected)


def test_a_failed_question_is_a_warning_and_not_another_question(runs, tmp_path):
    gone = changed(0, score=0.0, answer=None, parsed=None, prompt=None, error="0.mp4: gone")
    found = compare(runs[0], write(tmp_path / "other", gone))
    assert found.warnings == [
        "1 of the questions of vidcom2@0.25 failed (listed in its results.json) and count as wrong"
    ]
    assert found.b.failed == 1
    assert (found.flips[0].doc_id, found.flips[0].answer_b, found.flips[0].won) == (0, None, False)
    console = Console(record=True, width=200)
    print_comparison(console, found, flips=True)
    assert f"lost {COUNT} 0: target B, dense 'B.', vidcom2@0.25 no answer, [{COUNT}]_0.mp4" in console.export_text()


def test_runs_without_any_answer(tmp_path):
    failed = [line(COUNT, 0, 0, answer=None, parsed=None, prompt=None, error="gone", tokens_before=0, tokens_after=0)]
    console = Console(record=True, width=200)
    print_comparison(console, compare(*(write(tmp_path / name, failed) for name in "ab")))
    assert console.export_text().count("no question was answered") == 2


def test_command_line(runs, tmp_path, capsys):
    file = tmp_path / "new" / "numbers.json"
    assert call(*runs, "--json", file) == 0
    printed = capsys.readouterr().out
    numbers = json.loads(file.read_text())
    assert numbers["rows"][-1]["name"] == "overall"
    for row in numbers["rows"]:
        (shown,) = (text.split() for text in printed.splitlines() if text.startswith(row["name"] + " "))
        percent = [f"{row['a']:.1f}", f"{row['b']:.1f}", *(f"{row[k]:+.1f}" for k in ("difference", "low", "high"))]
        assert shown == [row["name"], *percent, str(row["lost"]), str(row["won"]), f"{row['p']:.3f}"]
    for text in (
        "dense: visual tokens per sample 100.0 -> 100.0 (100.00 % kept",
        "vidcom2@0.25: visual tokens per sample 100.0 -> 25.0 (25.00 % kept",
    ):
        assert text in printed
    assert len(numbers["flips"]) == 5
    assert f"{COUNT} 1" not in printed

    assert call(*runs, "--flips") == 0
    printed = capsys.readouterr().out
    assert f"lost {COUNT} 1: target B, dense 'B.', vidcom2@0.25 'C.', [{COUNT}]_1.mp4\n" in printed
    assert sum(text.startswith((f"lost {COUNT}", f"won {COUNT}", f"won {STATE}")) for text in printed.splitlines()) == 5
    with pytest.raises(IsADirectoryError, match=r"--json .* is a directory"):
        call(*runs, "--json", tmp_path)


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        (({"compressor": "none"}, {}), ("dense", "vidcom2@0.25")),
        (({}, {}), ("x", "y")),
        (({"model": "m"}, {"model": "other"}), ("x", "y")),
    ],
)
def test_runs_are_called_by_compressor_or_directory(settings, names, tmp_path):
    """Never A and B: those are answers, too."""
    runs = [write(tmp_path / name, lines(DENSE), **own) for name, own in zip("xy", settings, strict=True)]
    found = compare(*runs)
    assert (found.a.name, found.b.name) == names
    console = Console(record=True, width=200)
    print_comparison(console, found)
    text = console.export_text()
    (header,) = (line.split() for line in text.splitlines() if line.startswith("category"))
    assert header == ["category", *names, "change", "95", "%", "lost", "won", "p"]
    assert f"change: {names[1]} minus {names[0]};" in " ".join(text.split())


def test_directories_of_one_name_are_told_apart_by_their_parents(tmp_path):
    runs = []
    for model in ("first", "second"):
        (tmp_path / model).mkdir()
        runs.append(write(tmp_path / model / "vidcom2@0.25", lines(DENSE)))
    found = compare(*runs)
    assert (found.a.name, found.b.name) == ("first/vidcom2@0.25", "second/vidcom2@0.25")


def test_the_json_has_the_names_beside_what_it_had(runs, tmp_path):
    call(*runs, "--json", tmp_path / "numbers.json")
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert [numbers[side]["name"] for side in "ab"] == ["dense", "vidcom2@0.25"]
    assert {"directory", "compressor", "accuracy", "visual_tokens", "failed"} < set(numbers["a"])
    assert {"a", "b", "difference"} < set(numbers["rows"][0])


def test_names_that_are_too_wide_become_numbers(tmp_path):
    specs = ("none", "vidcom2@0.25:rounding=exact:positions=original")
    runs = [
        write(tmp_path / str(i), [line("mvbench_counterfactual_inference", 0, 1)], compressor=spec)
        for i, spec in enumerate(specs)
    ]
    for width, second in ((200, specs[1]), (80, "[2]")):
        console = Console(record=True, width=width)
        print_comparison(console, compare(*runs))
        text = console.export_text()
        (header,) = (one for one in text.splitlines() if one.startswith("category"))
        assert header.split()[1] == "dense"
        assert second in header or width == 200
        assert f"{'[2] ' if width == 80 else ''}{specs[1]}: visual tokens" in text
        assert sum("counterfactual" in one for one in text.splitlines()) == 1, "one table"


def test_long_names_are_not_cut_in_a_narrow_terminal(tmp_path):
    runs = [
        write(tmp_path / name, [line("mvbench_counterfactual_inference", i, score) for i in range(50)])
        for name, score in (("a", 1), ("b", 0))
    ]
    console = Console(record=True, width=80)
    print_comparison(console, compare(*runs))
    text = console.export_text()
    shown = next(text.split() for text in text.splitlines() if text.startswith("counterfactual_inference "))
    assert shown[1:] == ["100.0", "0.0", "-100.0", "-100.0", "-100.0", "50", "0", "<.001"]


def test_load_run(runs):
    run = load_run(runs[1])
    assert run.samples == lines(COMPRESSED)
    assert run.summary == Summary.from_json(json.loads((runs[1] / "results.json").read_text()))
    assert run.summary.to_json() == json.loads((runs[1] / "results.json").read_text())
    assert run.scores == [1, 0, 0, 1, 0, 0, 1, 1, 1]
    assert run.categories == ["action_count"] * 6 + ["state_change"] * 3
    assert run.overall == "macro"


def test_unfinished_and_damaged_runs(runs, tmp_path):
    def fails(error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            compare(runs[0], runs[1])

    with pytest.raises(FileNotFoundError, match="nowhere is no directory"):
        compare(tmp_path / "nowhere", runs[1])
    results, samples = (runs[1] / name for name in ("results.json", "samples.jsonl"))
    whole = results.read_text(), samples.read_text()
    samples.write_text(whole[1].split("\n", 1)[1])
    fails(ValueError, "has 8 questions, results.json beside it 9")
    samples.write_text(whole[1][:-9])
    fails(ValueError, "samples.jsonl is damaged")
    results.write_text(whole[0].replace('"mvbench"', '"other"'))
    fails(ValueError, "benchmark 'other', which is none of mvbench")
    for damaged in ("[]", whole[0][:-9], "\udcff"):
        results.write_text(damaged, errors="surrogateescape")
        fails(ValueError, r"results.json is damaged \(.*\): run again with --overwrite")
    samples.unlink()
    fails(FileNotFoundError, "no samples.jsonl")
    results.unlink()
    fails(FileNotFoundError, "holds no results.json: give the --output of a finished run")
    (runs[1] / "answers.rank0.jsonl").touch()
    fails(FileNotFoundError, "its run is unfinished, start it again")
