"""The page that compares all methods on the demo models, made from runs whose answers are known."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau

from eval.benchmarks.mvbench import MVBENCH
from eval.demo.training import methods as page_of
from eval.demo.training import order
from eval.demo.training.comparison import ADJUSTABLE, METHODS, RETENTIONS, Comparison, spec, specs, why_not
from eval.demo.world import TASKS
from eval.models.packaged import DEMO_MODELS
from eval.results.load import Run
from eval.results.sample import STAGES
from eval.results.schema import RunSettings, ScoredSample
from eval.results.stats import bootstrap_interval, paired_interval
from eval.results.summary import summarise
from eval.run.flags import FAILED_QUESTIONS
from eval.run.sweep import folder
from vidcom2 import compressor

QUESTIONS = 28
"""Per task."""
PUBLISHED = ("vidcom2", "sparsevlm", "fastv", "random", "pdrop", "dycoke")
"""Of LLaVA-OneVision at 25 %, best first."""
INSIDE = ("fastv", "pdrop", "sparsevlm")
"""Those that cannot reach 10 % in 8 layers."""
AGREES, REVERSED, SAME = list(TASKS)[:3]
"""Tasks in which our order is the published one, its reverse, and in which all methods are equal."""


def right(method: str, task: str) -> int:
    """How many of a task's questions a method answers."""
    place = PUBLISHED.index(method) if method in PUBLISHED else 3
    if task == SAME:
        return 13
    return 4 + 4 * place if task == REVERSED else QUESTIONS - 4 * place


def made_run(one: str) -> Run:
    """A run of a spec that answers the first questions of each task rightly."""
    method = "dense" if one == "none" else compressor(one).name
    samples = []
    for task in TASKS:
        count = QUESTIONS if method == "dense" else right(method, task)
        for i in range(QUESTIONS):
            score = float(i < count)
            kept = 1000.0 if method == "dense" else 1000 * compressor(one).retention + 3
            samples.append(
                ScoredSample(
                    task=f"mvbench_{task}",
                    category=task,
                    doc_id=i,
                    video=f"{i}.mp4",
                    prompt="?",
                    answer="B.",
                    parsed="B",
                    target="B" if score else "C",
                    score=score,
                    scores={"current": score},
                    frames=32,
                    tokens_before=1000,
                    tokens_after=kept,
                    seconds=dict.fromkeys(STAGES, 0.5),
                )
            )
    told = {"model": "m", "compressor": one, "dtype": "float32", "sampling": "uniform:32"}
    return Run(Path(folder(one)), summarise(MVBENCH, samples, RunSettings(told)), samples)


@pytest.fixture(scope="module")
def runs() -> dict[str, Run]:
    return {one: made_run(one) for one in specs() if why_not(compressor(one), 8) is None}


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory) -> str:
    """The page about two models, which have the same runs. Of its six figures, one is drawn."""
    docs, draw = tmp_path_factory.mktemp("docs"), page_of.accuracy_retention
    paths: list[Path] = []

    def record(curves, dense, path, title):
        paths.append(path)
        if len(paths) == 1:
            draw(curves, dense, path, title)
        for method, points in curves.items():
            assert len(points) == (3 if method.partition("+")[0] in INSIDE else 4), method

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page_of, "accuracy_retention", record)
        page_of.report([Comparison(name, 8, runs) for name in order.PUBLISHED], docs, resamples=50)
    text = (docs / "demo-methods.md").read_text(encoding="utf-8")
    shown = re.findall(r"\]\((figures/[^)]+)\.png\)", text)
    assert shown == [str(path.relative_to(docs)) for path in paths]
    assert len(set(shown)) == 6
    assert paths[0].with_suffix(".png").stat().st_size > 1000
    return text


def tables(text: str) -> dict[str, dict[str, dict[str, str]]]:
    """The cells of each section's last table, by section, line and column."""
    found = {}
    for title, body in re.findall(r"^### (.+)\n((?:(?!^##).*\n)*)", text, flags=re.MULTILINE):
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in body.splitlines() if line[:1] == "|"]
        last = max(i for i, row in enumerate(rows) if row[1] == "---") - 1
        header, _, *lines = rows[last:]
        found[title] = {name: dict(zip(header[1:], cells, strict=True)) for name, *cells in lines}
    return found


def part_of(page: str, model: str) -> str:
    (part,) = (part for part in page.split("\n## ")[1:] if part.startswith(f"{model}\n"))
    return part


def test_every_method_is_compared():
    before = {one for one in specs() if one != "none"}
    assert len(specs()) == 1 + len(before) == 1 + len(RETENTIONS) * 2 * (len(METHODS) + len(ADJUSTABLE))
    for method, settings in METHODS.items():
        assert (method in ADJUSTABLE) == (compressor(method).takes_fca()), method
        assert compressor(f"{method}{settings}").name == method.removesuffix(".time")


def test_cells(page, runs):
    found = tables(part_of(page, "llava-onevision"))
    for title, positions in (
        ("Kept tokens at their original positions", "original"),
        (page_of.TITLES["repack"], "repack"),
    ):
        rows = found[title]
        assert len(rows) == len(METHODS) + len(ADJUSTABLE)
        for name, cells in rows.items():
            method, _, fca = name.partition("+")
            assert list(cells) == [f"{100 * r:.0f} %" for r in RETENTIONS]
            for r, cell in zip(RETENTIONS, cells.values(), strict=True):
                if method in INSIDE and r == 0.1:
                    assert cell == "cannot"
                    continue
                run = runs[spec(method, r, positions, bool(fca))]
                mean = 100 * np.mean([right(method, task) / QUESTIONS for task in TASKS])
                low, high = bootstrap_interval(run.scores, run.categories, "macro")
                assert cell == f"{mean:.1f} [{low:.1f}, {high:.1f}] at {100 * r + 0.3:.1f} %"


def test_what_cannot_be_is_said_with_its_reason(page):
    part = part_of(page, "llava-onevision")
    for method in INSIDE:
        with pytest.raises(ValueError, match="cannot reach retention") as error:
            compressor(f"{method}@0.1{METHODS[method]}").check(8)
        assert part.count(f"- {error.value}.\n") == 2  # once below each table
    assert part.count("cannot reach") == 6
    assert "`fastv:k=1`: the default settings reach 50 % in this LLM of 8 layers" in part
    assert "`pdrop:layers=(1,2,4)`: the default settings reach 50 % in this LLM of 8 layers" in part


def test_a_deeper_model_can(runs):
    deeper = dict.fromkeys(specs(), runs["none"])
    assert not Comparison("llava-onevision", 64, deeper).cannot
    missing = {one: run for one, run in runs.items() if one != spec("norm", 0.1, "original")}
    with pytest.raises(ValueError, match=r"lacks the runs of norm@0\.1:positions=original: run the sweep"):
        Comparison("llava-onevision", 8, missing)


def test_differences_and_tasks(page):
    found = tables(part_of(page, "llava-onevision"))
    changes = next(rows for title, rows in found.items() if "+fca" in title)
    assert list(changes) == list(ADJUSTABLE)
    assert changes["norm"] == dict.fromkeys(changes["norm"], "+0.0 [+0.0, +0.0]")
    assert changes["fastv"]["10 %"] == "cannot"
    for words in ("original positions", "numbered anew"):
        rows = found[f"Per task, at 25 %, {words}"]
        assert list(rows) == list(TASKS)
        for task, cells in rows.items():
            assert cells["questions"] == str(QUESTIONS)
            assert cells["dense"] == "100"
            for method in METHODS:
                assert cells[method] == f"{100 * right(method, task) / QUESTIONS:.0f}"


def test_own_method(page, runs):
    rows = tables(part_of(page, "llava-onevision"))["`fresh`, our own method, against the others"]
    assert list(rows) == list(TASKS)  # the last table
    for task, cells in rows.items():
        expected = 100 * (right("fresh", task) - right("vidcom2", task)) / QUESTIONS
        assert list(cells) == ["original positions", "numbered anew"]
        for text in cells.values():
            assert text.strip("*").startswith(f"{expected:+.1f} [")
            assert text.startswith("**") == (float(text.strip("*").split("[")[1].split(",")[0]) > 0)
    part = part_of(page, "llava-onevision")
    own, norm = (runs[spec(method, 0.1, "original")] for method in ("fresh", "norm"))
    low, high = paired_interval(norm.scores, own.scores, own.categories, "macro")[1:]
    assert f"[{low:+.1f}, {high:+.1f}]" in re.search(r"### `fresh`.*?\n\| norm \|(.*)", part, flags=re.DOTALL).group(1)


def test_order(page):
    part = part_of(page, "llava-onevision")
    assert "those of LLaVA-OneVision-7B" in part
    cells = next(rows for title, rows in tables(part).items() if "the order of methods agrees" in title)
    columns = ["25 %, original positions", "25 %, numbered anew", "15 %, original positions", "15 %, numbered anew"]
    assert list(cells) == [*TASKS, "all tasks"]
    for column in columns:
        assert cells[AGREES][column].startswith("+1.00 [") == column.startswith("25")
        assert cells[AGREES][column].endswith("] agrees")
        assert cells[REVERSED][column].endswith("] reversed")
        assert cells["all tasks"][column].endswith("] agrees")
    # At 15 %, the paper has FastV below PDrop, and we above.
    assert cells[AGREES]["15 %, original positions"].startswith("+0.67 [")
    assert cells[SAME]["25 %, original positions"] == "all equal"
    assert "| 25 %, original positions | 6 | +1.00 | +1.00 |" in part
    assert "| 15 %, numbered anew | 4 | +0.80 | +0.67 |" in part
    ours = 100 * np.mean([right("vidcom2", task) / QUESTIONS for task in TASKS])
    assert f"| vidcom2 | 99.6 (1) | {ours:.1f} (1) | {ours:.1f} (1) |" in part
    assert re.search(r"^\| dycoke \| 87\.0 \(6\) \|", part, flags=re.MULTILINE)


def test_each_model_has_the_rows_of_its_family(page):
    other = part_of(page, "llava-video")
    assert "those of LLaVA-Video-7B" in other
    assert re.search(r"^\| vidcom2 \| 93\.6 \(1\) \|", other, flags=re.MULTILINE)
    assert "| 25 %, original positions | 4 | +1.00 | +1.00 |" in other
    assert "| 15 %, original positions | 3 | +1.00 | +1.00 |" in other


def test_published_averages():
    averages = order.published_averages("llava-onevision")
    assert tuple(averages[0.25]) == PUBLISHED
    assert averages[0.15] == {"vidcom2": 95.1, "sparsevlm": 91.2, "pdrop": 87.4, "fastv": 85.0}
    assert set(DEMO_MODELS) <= set(order.PUBLISHED)


@pytest.mark.parametrize("seed", range(5))
def test_rank_correlations_count_pairs(seed):
    """Tau and rho of their definitions, with ties."""
    rng = np.random.default_rng(seed)
    published, ours = list(rng.permutation(6).astype(float)), list(rng.integers(0, 4, 6).astype(float))
    pairs = itertools.combinations(zip(published, ours, strict=True), 2)
    signs = [(np.sign(a - b), np.sign(c - d)) for (a, c), (b, d) in pairs]
    expected = sum(p * o for p, o in signs) / (sum(p * p for p, _ in signs) * sum(o * o for _, o in signs)) ** 0.5
    assert order.kendall(published, ours) == pytest.approx(expected)
    ranks = [
        [np.mean([sum(v < x for v in values), sum(v <= x for v in values) - 1]) for x in values]
        for values in (published, ours)
    ]
    assert order.spearman(published, ours) == pytest.approx(np.corrcoef(ranks)[0, 1])
    assert np.isnan(order.spearman(published, [1.0] * 6))
    assert np.isnan(order.kendall(published, [1.0] * 6))


def test_the_interval_is_over_questions(runs):
    """Its resamples are those of a slow bootstrap: half of all resampled taus are above the middle of many."""
    (pair, *_) = order.pairs(Comparison("llava-onevision", 8, runs))
    cell = order.tau_cells(pair, resamples=400)[AGREES]
    low, high = map(float, re.search(r"\[(.+), (.+)\]", cell).groups())
    rng, taus = np.random.default_rng(1), []
    answers = np.array([[s.score for s in run.samples if s.category == AGREES] for run in pair.runs])
    for _ in range(400):
        drawn = answers[:, rng.integers(0, QUESTIONS, QUESTIONS)].mean(axis=1)
        taus.append(kendalltau(list(pair.published.values()), drawn).statistic)
    slow_low, slow_high = np.percentile(taus, (2.5, 97.5))
    assert low == pytest.approx(slow_low, abs=0.1)
    assert high == pytest.approx(slow_high, abs=0.1)


@pytest.mark.parametrize(
    ("drawn", "cell"),
    [
        ([0.2, 0.4], "+0.30 [+0.20, +0.40] agrees"),
        ([-0.4, -0.2], "+0.30 [-0.40, -0.20] reversed"),
        ([-0.2, 0.4], "+0.30 [-0.19, +0.38] open"),
        ([], "all equal"),
    ],
)
def test_verdicts(drawn, cell):
    found = order.tau_cell(0.3, np.array(drawn))
    assert found.rpartition(" ")[2] == cell.rpartition(" ")[2]
    assert found[:5] == cell[:5]


def test_main(monkeypatch, tmp_path):
    """--model sweeps one model; the page has every model whose sweep is finished."""
    ours = DEMO_MODELS["llava-onevision"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_bytes((ours / "config.json").read_bytes())
    swept: list[str] = []
    reported: list[list[str]] = []

    def run(sweep, world):
        swept.append(sweep.config.model)
        assert len(world.device_groups) == 3
        for one in sweep.runs:
            one.output.mkdir(parents=True)
            (one.output / "results.json").touch()
        return 0

    monkeypatch.setattr(page_of, "DEMO_MODELS", {"llava-onevision": ours, "llava-video": other})
    monkeypatch.setattr(page_of, "write_mvbench", lambda data, per_task: data)
    monkeypatch.setattr(page_of.Sweep, "check", lambda sweep: None)
    monkeypatch.setattr(page_of.Sweep, "run", run)
    monkeypatch.setattr(page_of, "load_run", lambda directory: directory)
    monkeypatch.setattr(page_of, "report", lambda comparisons, docs: reported.append([c.model for c in comparisons]))
    flags = ["--output", str(tmp_path / "out"), "--processes", "3"]
    assert page_of.main([*flags, "--model", "llava-video"]) == 0
    assert page_of.main([*flags, "--model", "llava-onevision"]) == 0
    assert swept == [str(other), str(ours)]
    assert reported == [["llava-video"], ["llava-onevision", "llava-video"]]
    with pytest.raises(SystemExit):
        page_of.main([*flags, "--model", "llava-9b"])
    monkeypatch.setattr(page_of.Sweep, "run", lambda sweep, world: 2)
    assert page_of.main([*flags, "--model", "llava-video"]) == FAILED_QUESTIONS
    assert len(reported) == 2, "no page about failed questions"
