"""Where the order of the methods on MiniBench agrees with the order in the paper's table 2, and where it does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import kendalltau, rankdata, spearmanr

from ...paper.published import paper_table
from ...results.load import Run
from ...results.stats import resampled_accuracies
from ...results.tables import markdown_table
from ..world import TASKS
from .comparison import METHODS, POSITIONS, RETENTIONS, Comparison

PUBLISHED = {"llava-onevision": "LLaVA-OneVision-7B", "llava-video": "LLaVA-Video-7B"}
"""By demo model, the published model of its family."""
RESAMPLES = 1000
"""Bootstrap resamples of the questions for an interval."""
FEWEST = 3
"""Fewer methods than this have no order worth a number."""


@dataclass(frozen=True)
class Pair:
    """The methods that the paper and a demo model both have, at one retention and one kind of positions.

    Attributes:
        retention: The retention ratio.
        positions: A key of POSITIONS.
        published: By method, the paper's average in percent of dense, highest first.
        runs: Our runs of the same methods, in the same order.
    """

    retention: float
    positions: str
    published: dict[str, float]
    runs: tuple[Run, ...]

    @property
    def title(self) -> str:
        """What tells it from the other pairs."""
        return f"{100 * self.retention:.0f} %, {POSITIONS[self.positions]}"

    @property
    def measured(self) -> list[float]:
        """Our overall accuracies in percent."""
        return [run.summary.scores.overall for run in self.runs]

    def measured_in(self, task: str) -> list[float]:
        """Our accuracies in a task, in percent."""
        return [run.summary.scores.categories[task].accuracy for run in self.runs]


def published_averages(model: str) -> dict[float, dict[str, float]]:
    """Return the averages of table 2 in percent of dense, highest first, by retention and method.

    Args:
        model: A key of PUBLISHED.
    """
    (part,) = (part for part in paper_table("2").parts if part.model == PUBLISHED[model])
    found: dict[float, dict[str, float]] = {}
    for row in sorted(part.rows, key=lambda row: -(row.average or 0)):
        if row.average is not None:
            found.setdefault(row.retention, {})[row.spec.partition("@")[0]] = row.average
    return found


def pairs(comparison: Comparison) -> list[Pair]:
    """Return what can be compared with the paper: retentions at which it and we have at least FEWEST methods."""
    published, found = published_averages(comparison.model), []
    for retention in (r for r in RETENTIONS if r in published):
        for positions in POSITIONS:
            both = {
                method: run
                for method in published[retention]
                if method in METHODS and (run := comparison.run(method, retention, positions))
            }
            if len(both) >= FEWEST:
                averages = {method: published[retention][method] for method in both}
                found.append(Pair(retention, positions, averages, tuple(both.values())))
    return found


def kendall(published: Sequence[float], measured: Sequence[float]) -> float:
    """Return Kendall's tau-b: 1 for the same order, -1 for the reverse, NaN if one side is all equal."""
    return float(kendalltau(published, measured).statistic)


def spearman(published: Sequence[float], measured: Sequence[float]) -> float:
    """Return Spearman's rho, NaN if one side is all equal."""
    if min(measured) == max(measured) or min(published) == max(published):  # scipy would warn
        return float("nan")
    return float(spearmanr(published, measured).statistic)


def tau_cells(pair: Pair, resamples: int = RESAMPLES) -> dict[str | None, str]:
    """Return Kendall's tau, its 95 % interval and a verdict, by task, and under None for all tasks.

    The interval is over bootstrap resamples of our questions, which are the same for all methods. The published
    averages count as exact. A resample in which all methods are equal has no tau and does not count.
    """
    published, first = list(pair.published.values()), pair.runs[0]
    drawn = resampled_accuracies(
        [run.scores for run in pair.runs], first.categories, first.overall, resamples=resamples
    )
    cells = {}
    for task in (None, *TASKS):
        ours = pair.measured if task is None else pair.measured_in(task)
        taus = np.array([kendall(published, list(row)) for row in drawn[task]])
        cells[task] = tau_cell(kendall(published, ours), taus[~np.isnan(taus)])
    return cells


def tau_cell(tau: float, drawn: np.ndarray) -> str:
    """Write tau, its interval and what follows from it."""
    if np.isnan(tau) or not len(drawn):
        return "all equal"
    low, high = np.percentile(drawn, (2.5, 97.5))
    verdict = "agrees" if low > 0 else "reversed" if high < 0 else "open"
    return f"{tau:+.2f} [{low:+.2f}, {high:+.2f}] {verdict}"


INTRODUCTION = """### On which tasks the order of methods agrees with the published one

The published averages are those of {published} in table 2 of the paper (arXiv 2505.14454), in percent of dense, over
other benchmarks. Ours are the overall accuracies above, in percent of dense as well. Methods in both are compared; in
brackets is the method's place among them. Model, benchmarks, frames, and the layers at which methods inside the LLM
drop are not the paper's.
"""
COEFFICIENTS = """Rank correlations with the published order: 1 is the same order, -1 the reverse, 0 neither.
"""
VERDICTS = """Kendall's tau of each task's accuracies with the published overall order, its 95 % bootstrap interval over
our questions, and what follows: the order "agrees" where the whole interval is above 0, is "reversed" where it is below
0, and is "open" where the questions are too few to tell.
"""


def section(comparison: Comparison, resamples: int = RESAMPLES) -> str:
    """Write the section of the page about a demo model."""
    found = pairs(comparison)
    text = [INTRODUCTION.format(published=PUBLISHED[comparison.model])]
    if not found:
        return text[0] + "\nThere are too few methods in both.\n"
    dense = comparison.dense.summary.scores.overall
    for retention in dict.fromkeys(pair.retention for pair in found):
        text.append(beside_published([pair for pair in found if pair.retention == retention], dense))
    rows: list[tuple[str, ...]] = [("", "methods", "Spearman's rho", "Kendall's tau")]
    for pair in found:
        published = list(pair.published.values())
        rho, tau = spearman(published, pair.measured), kendall(published, pair.measured)
        rows.append((pair.title, str(len(published)), coefficient(rho), coefficient(tau)))
    text += [COEFFICIENTS, markdown_table(rows), VERDICTS]
    columns = {pair.title: tau_cells(pair, resamples) for pair in found}
    rows = [("", *columns), *((task, *(cells[task] for cells in columns.values())) for task in TASKS)]
    rows.append(("all tasks", *(cells[None] for cells in columns.values())))
    text.append(markdown_table(rows))
    return "\n".join(text)


def beside_published(at_one_retention: Sequence[Pair], dense: float) -> str:
    """Write the published averages beside ours in percent of dense, with places.

    Args:
        at_one_retention: The pairs of one retention, which have the same methods.
        dense: Dense's accuracy in percent.
    """
    first = at_one_retention[0]
    columns = {f"{100 * first.retention:.0f} %: published": list(first.published.values())}
    for pair in at_one_retention:
        columns[f"ours, {POSITIONS[pair.positions]}"] = [100 * ours / dense for ours in pair.measured]
    cells = []
    for values in columns.values():
        places = rankdata([-value for value in values], method="min")
        cells.append([f"{value:.1f} ({place:.0f})" for value, place in zip(values, places, strict=True)])
    return markdown_table([("", *columns), *zip(first.published, *cells, strict=True)])


def coefficient(value: float) -> str:
    """Write a rank correlation."""
    return "all equal" if np.isnan(value) else f"{value:+.2f}"
