"""The tables and figures of the paper that are measured again: their published numbers, and what reproduces each.

Numbers: eval/paper/published.json, from "Video Compression Commander", https://arxiv.org/abs/2505.14454.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from ..run.sweep import canonical
from .flags import TITLES

PUBLISHED = Path(__file__).with_name("published.json")
"""Every number of the paper that a table here shows."""


@dataclass(frozen=True)
class Column:
    """name: as published. benchmark: ours. category: of its questions; None for the overall score."""

    name: str
    benchmark: str
    category: str | None = None


@dataclass(frozen=True)
class Row:
    """label: method and retention, or the ablation's setting. spec: the compressor that reproduces it, "none" of
    dense.

    retention: as published. published: by column, accuracy in percent, or percent of dense where the paper has only
    that. average: as published, in percent; None where there is none.
    """

    label: str
    spec: str
    retention: float
    published: Mapping[str, float]
    average: float | None = None


@dataclass(frozen=True)
class Part:
    """A table's rows about one model, dense first. protocol: the lmms-eval wrapper of its family."""

    model: str
    checkpoint: str
    protocol: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class PaperTable:
    """relative: published is the percentage of dense, not the accuracy."""

    name: str
    title: str
    columns: tuple[Column, ...]
    parts: tuple[Part, ...]
    relative: bool = False

    @property
    def benchmarks(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(column.benchmark for column in self.columns))

    @property
    def averaged(self) -> bool:
        """Does the paper give averages?"""
        return any(row.average is not None for part in self.parts for row in part.rows)


COLUMNS = {
    column.name: column
    for column in (
        Column("MVBench", "mvbench"),
        Column("LongVideoBench", "longvideobench"),
        Column("MLVU", "mlvu"),
        Column("VideoMME", "videomme"),
        Column("VideoMME-Short", "videomme", "short"),
        Column("VideoMME-Medium", "videomme", "medium"),
        Column("VideoMME-Long", "videomme", "long"),
        Column("EgoSchema", "egoschema"),
        Column("PerceptionTest", "perceptiontest"),
    )
}

ONEVISION = ("LLaVA-OneVision-7B", "lmms-lab/llava-onevision-qwen2-7b-ov", "llava_onevision")
LLAVA_VIDEO = ("LLaVA-Video-7B", "lmms-lab/LLaVA-Video-7B-Qwen2", "llava_vid")
QWEN2_VL = ("Qwen2-VL-7B", "Qwen/Qwen2-VL-7B-Instruct", "qwen2_vl")
"""What `Part` says of a model; each has an LLM of 28 layers."""

METHODS = {
    ("dense", 1.0): "none",
    ("dycoke", 0.3): "dycoke@0.3",
    ("random", 0.25): "random@0.25",
    ("fastv", 0.25): "fastv@0.25",
    ("fastv+fca", 0.25): "fastv+fca@0.25",
    # Its own first stage, layer 7 of 28, is too late for a mean of a quarter or less.
    ("pdrop", 0.25): "pdrop@0.25:layers=(2,7,14)",
    ("sparsevlm", 0.25): "sparsevlm@0.25",
    ("sparsevlm+fca", 0.25): "sparsevlm+fca@0.25",
    ("dycoke", 0.25): "dycoke@0.25",
    ("vidcom2", 0.25): "vidcom2@0.25",
    ("random", 0.15): "random@0.15",
    ("fastv", 0.15): "fastv@0.15",
    ("pdrop", 0.15): "pdrop@0.15:layers=(2,7,14)",
    ("sparsevlm", 0.15): "sparsevlm@0.15",
    ("vidcom2", 0.15): "vidcom2@0.15",
}
"""Tables 2 to 4, figures 4 and 5: (method, retention) as published."""

RANKING = {
    "+s_frame": "vidcom2@0.25:sign=1:frame_score=uniform:video_weight=0",
    "-s_frame": "vidcom2@0.25:frame_score=uniform:video_weight=0",
    "+s_video": "vidcom2@0.25:sign=1:frame_score=uniform:frame_weight=0",
    "-s_video": "vidcom2@0.25:frame_score=uniform:frame_weight=0",
}
ABLATIONS = {
    # Equal budgets for all frames: its -s_frame has the scores of table 6's "uniform", and its last row has others
    # than VidCom² in table 2.
    "5": {"dense": "none", **RANKING, "u_frame+u_video": "vidcom2@0.25:frame_score=uniform"},
    # Tokens ranked by u_frame alone: "uniform" is table 5's -s_frame, and "mean u_video" is not VidCom² of table 2.
    "6": {
        "dense": "none",
        "uniform": RANKING["-s_frame"],
        "max u_video": "vidcom2@0.25:frame_score=max:video_weight=0",
        "mean u_video": "vidcom2@0.25:video_weight=0",
    },
    "7": {
        "dense": "none",
        "window 4": "vidcom2@0.25:window=4",
        "window 8": "vidcom2@0.25:window=8",
        "window 16": "vidcom2@0.25:window=16",
        "window 32": "vidcom2@0.25",  # all frames that the model gets
    },
    # The first two have table 5's scores, so equal budgets; "u_frame+u_video" has those of VidCom² in table 2.
    "8": {
        "dense": "none",
        "u_frame": RANKING["-s_frame"],
        "u_video": RANKING["-s_video"],
        "u_frame+u_video": "vidcom2@0.25",
        "u_frame+2u_video": "vidcom2@0.25:video_weight=2",
        "2u_frame+u_video": "vidcom2@0.25:frame_weight=2",
    },
}
"""Tables 5 to 8, by setting as published. What they hold fixed is read off the rows that two of them share."""


def paper_table(name: str) -> PaperTable:
    """By its key in TITLES; ValueError for another."""
    if name not in TITLES:
        raise ValueError(f"{name!r} is none of the tables {', '.join(TITLES)}")
    published = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    if name == "2":
        parts = tuple(Part(*model, _compared(published["table2"][model[0]])) for model in (ONEVISION, LLAVA_VIDEO))
    elif name == "3":
        every = [
            {**entry, "scores": {column: entry[column] for column in COLUMNS if column in entry}}
            for entry in published["table3"]
        ]
        parts = (Part(*ONEVISION, _compared(every)),)
    elif name == "figure4":
        columns_of = {"Overall": "VideoMME", **{part: f"VideoMME-{part}" for part in ("Short", "Medium", "Long")}}
        bars = {
            method: {columns_of[part]: share for part, share in shares.items()}
            for method, shares in _bars(published["figure4_qwen2vl"]).items()
        }
        parts = (Part(*QWEN2_VL, _charted(bars)),)
    elif name == "figure5":
        parts = (Part(*ONEVISION, _charted(_bars(published["figure5_fca"]))),)
    else:
        parts = (Part(*ONEVISION, _ablated(published[f"table{name}"], ABLATIONS[name])),)
    columns = tuple(COLUMNS[column] for column in parts[0].rows[0].published)
    return PaperTable(name, TITLES[name], columns, parts, relative=name.startswith("figure"))


def _compared(entries: list[dict[str, Any]]) -> tuple[Row, ...]:
    return tuple(
        _row(entry["method"], float(entry["retention"]), entry["scores"], entry.get("average_pct")) for entry in entries
    )


def _row(method: str, retention: float, scores: Mapping[str, float], average: float | None = None) -> Row:
    label = method if retention == 1 else f"{method} {100 * retention:.0f} %"
    return Row(label, canonical(METHODS[method, retention]), retention, scores, average)


def _bars(chart: dict[str, Any]) -> dict[str, dict[str, float]]:
    return {method: bars for method, bars in chart.items() if method != "note"}


def _charted(bars: Mapping[str, Mapping[str, float]]) -> tuple[Row, ...]:
    """Of a bar chart, all at 25 %; dense is 100 there by definition."""
    dense = dict.fromkeys(next(iter(bars.values())), 100.0)
    return (_row("dense", 1.0, dense), *(_row(method, 0.25, shares) for method, shares in bars.items()))


def _ablated(entries: list[dict[str, Any]], specs: Mapping[str, str]) -> tuple[Row, ...]:
    return tuple(
        Row(
            entry["setting"],
            canonical(specs[entry["setting"]]),
            1.0 if entry["setting"] == "dense" else 0.25,
            entry["scores"],
            entry["average_pct"],
        )
        for entry in entries
    )


def average_pct(scores: Mapping[str, float], dense: Mapping[str, float]) -> float:
    """The paper's average: the mean over the columns of 100 · score / dense score, Video-MME's four among them.

    ValueError where the two have not the same columns, or dense is 0 in one.
    """
    if not scores or scores.keys() != dense.keys():
        raise ValueError(f"columns {', '.join(scores)} are not dense's, {', '.join(dense)}")
    if zero := [column for column, score in dense.items() if score == 0]:
        raise ValueError(f"dense scores 0 in {', '.join(zero)}: nothing is a percentage of that")
    return fmean(100 * scores[column] / dense[column] for column in dense)


def next_below(row: Row, rows: Sequence[Row]) -> Row | None:
    """The method that the paper ranks next below `row`, of those at the same retention, dense left out.

    By the mean of the published scores in percent of dense, unrounded; of equal ones, the earlier row is better.
    """
    dense, *others = rows
    ranked = sorted(
        (other for other in others if other.retention == row.retention),
        key=lambda other: -average_pct(other.published, dense.published),
    )
    below = ranked[ranked.index(row) + 1 :] if row in ranked else []
    return below[0] if below else None
