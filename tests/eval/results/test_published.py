"""A dense run beside the published dense scores of its checkpoint, and the digest of its prompts."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from eval.benchmarks import BENCHMARKS
from eval.benchmarks.published import DENSE_SCORES, MARGIN, hold_against, published_score
from eval.models import protocol_for
from eval.results.schema import Published, RunSettings, ScoredSample, Summary
from eval.results.summary import beside_published, notes, print_summary, prompts_digest, summarise

OV = "lmms-lab/llava-onevision-qwen2-7b-ov"
COLUMNS = {"MVBench": "mvbench", "LongVideoBench": "longvideobench", "MLVU": "mlvu", "VideoMME": "videomme"}
CHECKPOINTS = {
    "LLaVA-OneVision-7B": "llava-onevision-qwen2-7b-ov",
    "LLaVA-Video-7B": "LLaVA-Video-7B-Qwen2",
    "Qwen3-VL-8B": "Qwen3-VL-8B-Instruct",
}


def summary(right: int, benchmark: str = "videomme", **changes: Any) -> Summary:
    """A run of 1000 questions."""
    told = {"model": OV, "compressor": "none", "sampling": "uniform:32", "dtype": "float16", "attention": "sdpa"}
    lines = [
        ScoredSample(benchmark, "short", number, "a.mp4", f"prompt {number}", "A", "A", "A", float(number < right))
        for number in range(1000)
    ]
    lines = [replace(line, seconds=dict.fromkeys(_STAGES, 0.1)) for line in lines]
    settings = RunSettings(
        {**told, **{name: value for name, value in changes.items() if name not in ("limit", "generation")}},
        generation=changes.get("generation", {task: {} for task in BENCHMARKS[benchmark].tasks}),
        limit=changes.get("limit"),
    )
    return summarise(BENCHMARKS[benchmark], lines, settings)


_STAGES = ("decode", "preprocess", "vision", "compress", "prefill", "generate")


def test_the_papers_dense_numbers_are_among_the_published_ones():
    paper = json.loads((Path(__file__).parents[3] / "eval/paper/published.json").read_text(encoding="utf-8"))
    rows = {**paper["table2"], "Qwen3-VL-8B": paper["qwen3vl"]["rows"]}
    for model, methods in rows.items():
        (dense,) = (row for row in methods if row["method"] == "dense")
        for column, benchmark in COLUMNS.items():
            (known,) = (s for s in DENSE_SCORES if (s.model, s.benchmark) == (CHECKPOINTS[model], benchmark))
            assert known.low <= dense["scores"][column] <= known.high


def test_frames_are_those_of_our_protocols(onevision, llava_video):
    """So a run without --sampling is compared."""
    assert published_score(OV, str(protocol_for(str(onevision)).describe()["sampling"]), "mvbench") is not None
    sampling = str(protocol_for(str(llava_video)).describe()["sampling"])
    assert published_score("lmms-lab/LLaVA-Video-7B-Qwen2", sampling, "mvbench") is not None


@pytest.mark.parametrize(
    "model",
    [
        OV,
        "/data/LLaVA-OneVision-Qwen2-7B-OV",
        "/cache/hub/models--lmms-lab--llava-onevision-qwen2-7b-ov/snapshots/0123abcd",
    ],
)
def test_checkpoints_are_known_by_their_names(model):
    known = published_score(model, "uniform:32", "videomme")
    assert known is not None
    assert (known.low, known.high) == (58.4, 58.6)


@pytest.mark.parametrize(
    ("model", "sampling", "benchmark"),
    [
        ("/data/my-own-7b", "uniform:32", "videomme"),
        (f"{OV}-tuned", "uniform:32", "videomme"),
        (OV, "uniform:16", "videomme"),
        (OV, "uniform:32", "lvbench"),
    ],
)
def test_others_are_not(model, sampling, benchmark):
    assert published_score(model, sampling, benchmark) is None


@pytest.mark.parametrize(
    ("right", "off", "loud"),
    [(585, 0, False), (600, 1.4, False), (602, 1.6, True), (570, -1.4, False), (568, -1.6, True)],
)
def test_a_dense_run_beside_the_published_scores(right, off, loud):
    run = summary(right)
    source = "arXiv 2505.14454, and papers of 2026 that ran the model again"
    assert run.published == Published(58.4, 58.6, source, pytest.approx(off))
    (note,) = (line for line in notes(run) if "published" in line)
    assert note.startswith("WARNING: this dense run's") == loud
    assert ("a wrong template or pooling looks like that" in note) == loud
    assert f"{right / 10:.1f}" in note
    assert "58.4 to 58.6" in note
    beside = beside_published(run)
    assert beside is not None
    assert beside[1] == loud
    assert Summary.from_json(json.loads(json.dumps(run.to_json()))) == run


def test_anothers_score_is_named():
    """One public report had another checkpoint's scores on every benchmark."""
    (note,) = (line for line in notes(summary(639)) if "published" in line)
    assert "63.9 is 5.3 points above the published 58.4 to 58.6 of llava-onevision-qwen2-7b-ov" in note
    assert "it is nearer to LLaVA-Video-7B-Qwen2's 64.3 or Qwen3-VL-8B-Instruct's 64.5" in note


@pytest.mark.parametrize(
    "changes",
    [
        {"compressor": "vidcom2@0.25"},
        {"limit": 1000},
        {"edition": "MiniBench"},
        {"generation": {}},
        {"model": "/data/other"},
        {"sampling": "uniform:8"},
    ],
)
def test_what_is_no_dense_run_of_all_questions_is_not_compared(changes):
    run = summary(300, **changes)
    assert run.published is None
    assert beside_published(run) is None
    assert not any("published" in line for line in notes(run))


def test_the_warning_is_loud():
    console = Console(width=400, force_terminal=True, record=True)
    print_summary(console, summary(300))
    text = console.export_text(styles=True)
    (line,) = (line for line in text.splitlines() if "WARNING" in line)
    assert re.match(r"\x1b\[1;31mWARNING: this dense run's 30.0 is 28.4 points below", line)


def test_the_margin():
    (known,) = (s for s in DENSE_SCORES if (s.model, s.benchmark) == ("llava-onevision-qwen2-7b-ov", "mlvu"))
    assert MARGIN == 1.5
    assert [hold_against(known, score)[1] for score in (61.4, 61.6, 64.0, 66.1, 66.3)] == [
        True,
        False,
        False,
        False,
        True,
    ]


# ---- prompts


def lines(*prompts: str | None) -> list[ScoredSample]:
    return [ScoredSample("t", "c", i, "a.mp4", prompt, "A", "A", "A", 1.0) for i, prompt in enumerate(prompts)]


def test_the_digest_of_prompts():
    same = prompts_digest(lines("one", "two"))
    assert re.fullmatch("[0-9a-f]{16}", same)
    assert prompts_digest(lines("one", "two")[::-1]) == same
    assert prompts_digest(lines("one", "two", None)) == same  # a failed question has no prompt
    assert (
        len({same, prompts_digest(lines("one", "two ")), prompts_digest(lines("two", "one")), prompts_digest([])}) == 4
    )
    assert summary(500).prompts == summary(400).prompts
