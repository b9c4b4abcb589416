"""The tables and figures of the paper that can be measured again: their published numbers, and what reproduces each.

The numbers are in published.json. They are from "Video Compression Commander", https://arxiv.org/abs/2505.14454.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from vidcom2 import compressor

from .flags import TITLES

PUBLISHED = Path(__file__).with_name("published.json")
"""Every number of the paper that a table shows."""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: As published.
        benchmark: Our name of the benchmark.
        category: The category whose accuracy it shows. None for the overall accuracy.
    """

    name: str
    benchmark: str
    category: str | None = None


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        label: Method and retention, or the ablation's setting.
        spec: The compressor that reproduces it, "none" for dense.
        retention: As published.
        published: By column, the accuracy in percent, or the percentage of dense where the paper has only that.
        average: As published, in percent of dense. None where the paper gives none.
    """

    label: str
    spec: str
    retention: float
    published: Mapping[str, float]
    average: float | None = None


@dataclass(frozen=True)
class Part:
    """The rows of a table about one model.

    Attributes:
        model: As published.
        checkpoint: The hub name of the checkpoint.
        protocol: lmms-eval's wrapper of the model's family.
        rows: The rows, dense first.
    """

    model: str
    checkpoint: str
    protocol: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class PaperTable:
    """A table, or a figure, of the paper.

    Attributes:
        name: Its key in TITLES.
        title: Its title.
        columns: Its columns.
        parts: Its rows by model.
        relative: The paper gives percentages of dense, not accuracies.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    parts: tuple[Part, ...]
    relative: bool = False

    @property
    def benchmarks(self) -> tuple[str, ...]:
        """The benchmarks of the columns."""
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
"""Model, checkpoint and protocol of a `Part`. The LLM of each has 28 layers."""

METHODS = {
    ("dense", 1.0): "none",
    ("dycoke", 0.3): "dycoke@0.3",
    ("random", 0.25): "random@0.25",
    ("fastv", 0.25): "fastv@0.25",
    ("fastv+fca", 0.25): "fastv+fca@0.25",
    # PDrop's own first stage, layer 7 of 28, is too late for a mean of a quarter or less.
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
"""The compressors of tables 2 to 4 and of figures 4 and 5, by method and retention as published."""

RANKING = {
    "+s_frame": "vidcom2@0.25:sign=1:frame_score=uniform:video_weight=0",
    "-s_frame": "vidcom2@0.25:frame_score=uniform:video_weight=0",
    "+s_video": "vidcom2@0.25:sign=1:frame_score=uniform:frame_weight=0",
    "-s_video": "vidcom2@0.25:frame_score=uniform:frame_weight=0",
}
ABLATIONS = {
    # All frames have equal budgets: -s_frame has the scores of table 6's "uniform", and the last row has other scores
    # than VidCom² in table 2.
    "5": {"dense": "none", **RANKING, "u_frame+u_video": "vidcom2@0.25:frame_score=uniform"},
    # Tokens are ranked by u_frame alone: "uniform" is table 5's -s_frame, and "mean u_video" is not VidCom² of table 2.
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
        "window 32": "vidcom2@0.25",  # the model gets 32 frames
    },
    # The first two rows have table 5's scores, so they have equal budgets. "u_frame+u_video" has the scores of VidCom²
    # in table 2.
    "8": {
        "dense": "none",
        "u_frame": RANKING["-s_frame"],
        "u_video": RANKING["-s_video"],
        "u_frame+u_video": "vidcom2@0.25",
        "u_frame+2u_video": "vidcom2@0.25:video_weight=2",
        "2u_frame+u_video": "vidcom2@0.25:frame_weight=2",
    },
}
"""The compressors of tables 5 to 8, by setting as published.

The paper does not say what each table holds fixed. Rows that two tables share tell.
"""


def paper_table(name: str) -> PaperTable:
    """Return a table of the paper.

    Args:
        name: A key of TITLES.

    Raises:
        ValueError: The name is unknown.
    """
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
    return Row(label, compressor(METHODS[method, retention]).spec, retention, scores, average)


def _bars(chart: dict[str, Any]) -> dict[str, dict[str, float]]:
    return {method: bars for method, bars in chart.items() if method != "note"}


def _charted(bars: Mapping[str, Mapping[str, float]]) -> tuple[Row, ...]:
    """Return the rows of a bar chart. All methods are at 25 %, and dense is 100 by definition."""
    dense = dict.fromkeys(next(iter(bars.values())), 100.0)
    return (_row("dense", 1.0, dense), *(_row(method, 0.25, shares) for method, shares in bars.items()))


def _ablated(entries: list[dict[str, Any]], specs: Mapping[str, str]) -> tuple[Row, ...]:
    return tuple(
        Row(
            entry["setting"],
            compressor(specs[entry["setting"]]).spec,
            1.0 if entry["setting"] == "dense" else 0.25,
            entry["scores"],
            entry["average_pct"],
        )
        for entry in entries
    )


def average_pct(scores: Mapping[str, float], dense: Mapping[str, float]) -> float:
    """Compute the paper's average: the mean over the columns of 100 · score / dense score.

    Video-MME counts with all of its four columns.

    Args:
        scores: Accuracy by column.
        dense: Dense's accuracy by column.

    Returns:
        The average in percent of dense.

    Raises:
        ValueError: The two do not have the same columns, or dense is 0 in one.
    """
    if not scores or scores.keys() != dense.keys():
        raise ValueError(f"columns {', '.join(scores)} are not dense's, {', '.join(dense)}")
    if zero := [column for column, score in dense.items() if score == 0]:
        raise ValueError(f"dense scores 0 in {', '.join(zero)}: nothing is a percentage of that")
    return fmean(100 * scores[column] / dense[column] for column in dense)


def next_below(row: Row, rows: Sequence[Row]) -> Row | None:
    """Return the method that the paper ranks next below a row, among those at the same retention.

    Rows are ranked by `average_pct` of their published scores. Of equal ones, the earlier row ranks higher. Dense is
    left out.

    Args:
        row: One of the rows.
        rows: All rows of the part, dense first.

    Returns:
        The row next below. None for the last one and for dense.
    """
    dense, *others = rows
    ranked = sorted(
        (other for other in others if other.retention == row.retention),
        key=lambda other: -average_pct(other.published, dense.published),
    )
    below = ranked[ranked.index(row) + 1 :] if row in ranked else []
    return below[0] if below else None
