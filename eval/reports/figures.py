"""Figures of finished runs, of published numbers, and of times."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from ..results.files import writing
from ..results.load import Run
from ..results.stats import accuracy, bootstrap_interval

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Colour-blind safe (Okabe and Ito, Color Universal Design, 2008), without black and the yellow that white swallows."""
MARKERS = "osD^vP*X<>ph"
LINES = ("-", ":")
"""Each colour comes twice, the second time with the other line. Dashes are the dense model's."""

Files = tuple[Path, Path, Path]
"""A figure's files: png, pdf and svg."""


@dataclass(frozen=True)
class Point:
    """A point of a curve.

    Attributes:
        retention: Actual share of the visual tokens that the LLM saw, in (0, 1].
        accuracy: In percent.
        low: Lower end of the accuracy's interval.
        high: Upper end of the accuracy's interval.

    Raises:
        ValueError: The retention is no share, or the accuracy is outside its interval.
    """

    retention: float
    accuracy: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.retention <= 1:
            raise ValueError(f"retention={self.retention} must be a share in (0, 1]: 0.25 for 25 %")
        rounding = 1e-9
        if not self.low - rounding <= self.accuracy <= self.high + rounding:
            raise ValueError(f"accuracy={self.accuracy} is not between low={self.low} and high={self.high}")


def point(run: Run) -> Point:
    """Return a run's actual retention and its overall accuracy with the 95 % bootstrap interval.

    Raises:
        ValueError: The run answered no question.
    """
    retention = run.summary.visual_tokens.retention
    if retention is None:
        raise ValueError(f"{run.directory}: no question was answered, so there is no retention to draw")
    low, high = bootstrap_interval(run.scores, run.categories, run.overall)
    return Point(retention, accuracy(run.scores, run.categories, run.overall), low, high)


def accuracy_retention(
    curves: Mapping[str, Sequence[Point]], dense: Point, path: Path, title: str, ylabel: str = "accuracy, %"
) -> Files:
    """Draw accuracy over actual retention, one line per method, with dense as a dashed line.

    The same input gives the same bytes.

    Args:
        curves: Points by method, in any order.
        dense: The uncompressed model. Its retention is not drawn.
        path: Path of the files, without ending.
        title: Title of the figure.
        ylabel: Label of the accuracies.

    Returns:
        The files, png, pdf and svg.

    Raises:
        ValueError: There are no methods or more than 12, or one has no points.
    """
    _check(curves)
    ordered = {method: sorted(points, key=lambda point: point.retention) for method, points in curves.items()}
    figure = _curves(ordered, dense, lambda point: 100 * point.retention)
    figure.axes[0].set(title=title, xlabel="visual tokens that the LLM saw, % of dense", ylabel=ylabel)
    return save(figure, path)


def dropped_frames(curves: Mapping[str, Sequence[Point]], dense: Point, path: Path, title: str) -> Files:
    """Draw accuracy over the share of tokens that was dropped, one line per choice of frames.

    Args:
        curves: Points by choice, in any order.
        dense: The uncompressed model, where all curves begin.
        path: Path of the files, without ending.
        title: Title of the figure.

    Returns:
        The files, png, pdf and svg.

    Raises:
        ValueError: As `accuracy_retention`.
    """
    _check(curves)
    ordered = {
        choice: [dense, *sorted(points, key=lambda point: -point.retention)] for choice, points in curves.items()
    }
    figure = _curves(ordered, dense, lambda point: 100 * (1 - point.retention))
    xlabel = "visual tokens dropped, whole frames at a time, %"
    figure.axes[0].set(title=title, xlabel=xlabel, ylabel="accuracy, %")
    return save(figure, path)


def _check(curves: Mapping[str, Sequence[Point]]) -> None:
    require_distinct(len(curves))
    if empty := [method for method, points in curves.items() if not points]:
        raise ValueError(f"{', '.join(empty)}: no points to draw")


def _curves(curves: Mapping[str, Sequence[Point]], dense: Point, x: Callable[[Point], float]) -> Figure:
    """Draw a line through each curve's points, with their intervals, dense as a dashed line, and a legend.

    x: computes a point's horizontal position.
    """
    figure = Figure(figsize=(8, 4.5), dpi=200, layout="constrained")
    axes = figure.add_subplot()
    axes.axhspan(dense.low, dense.high, color="black", alpha=0.08, linewidth=0)
    axes.axhline(dense.accuracy, color="black", linestyle="--", linewidth=1.2, label="dense")
    for i, (method, points) in enumerate(curves.items()):
        _line(axes, i, method, [(x(p), p.accuracy, p.low, p.high) for p in points])
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def _line(axes: Axes, i: int, label: str, points: Sequence[tuple[float, float, float, float]], size: float = 6) -> None:
    """Draw line number i through points (x, y, low, high), with the intervals, and a grid."""
    axes.errorbar(
        [x for x, *_ in points],
        [y for _, y, *_ in points],
        # Without spread, low can be above y by a rounding error, and matplotlib refuses negative lengths.
        yerr=[[max(0.0, y - low) for _, y, low, _ in points], [max(0.0, high - y) for _, y, _, high in points]],
        color=COLOURS[i % len(COLOURS)],
        marker=MARKERS[i],
        linestyle=LINES[i // len(COLOURS)],
        markersize=size,
        linewidth=1.5,
        elinewidth=0.8,
        capsize=2.5,
        label=label,
    )
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def measure_panels(
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float, float, float]]]],
    dense: Mapping[str, float],
    path: Path,
    title: str,
) -> Files:
    """Draw measures of kept tokens over retention, a panel for each measure, and in it a line for each method.

    Args:
        panels: By measure, points (retention in percent, mean, low, high) by method, in any order.
        dense: By measure, what it is for all tokens; a dashed line. A measure that is not here has none.
        path: Path of the files, without ending.
        title: Title of the figure.

    Returns:
        The files, png, pdf and svg.

    Raises:
        ValueError: There are no methods or more than 12.
    """
    methods = list(dict.fromkeys(method for lines in panels.values() for method in lines))
    require_distinct(len(methods))
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.3 * columns, 2.9 * rows + 0.8), dpi=200, layout="constrained")
    every = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, (measure, lines) in zip(every, panels.items(), strict=False):
        if measure in dense:
            axes.axhline(dense[measure], color="black", linestyle="--", linewidth=1.2, label="dense")
        for method, points in lines.items():
            _line(axes, methods.index(method), method, sorted(points), size=4)
        axes.set_title(measure, fontsize=9)
        axes.set_xlabel("tokens kept, %", fontsize=8)
    for axes in every[len(panels) :]:
        axes.axis("off")
    figure.suptitle(title)
    drawn = {label: handle for axes in every for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(drawn.values(), drawn.keys(), loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    return save(figure, path)


def require_distinct(methods: int) -> None:
    """Raise ValueError if a figure cannot tell so many methods apart."""
    if not 0 < methods <= len(MARKERS):
        raise ValueError(f"{methods} methods in a figure that can tell 1 to {len(MARKERS)} apart")


@dataclass(frozen=True)
class Share:
    """An accuracy in percent of dense.

    Attributes:
        published: As published.
        measured: As measured, and the lower and upper end of its interval. None where it is not measured.
    """

    published: float
    measured: tuple[float, float, float] | None = None


def beside_published(columns: Sequence[str], methods: Mapping[str, Sequence[Share]], path: Path, title: str) -> Files:
    """Draw published numbers as hollow markers, and to their right measured ones as filled markers with intervals.

    The same input gives the same bytes.

    Args:
        columns: Names of the columns.
        methods: By method, a share for each column.
        path: Path of the files, without ending.
        title: Title of the figure.

    Returns:
        The files, png, pdf and svg.

    Raises:
        ValueError: There are no methods or more than colours, or one does not have a share for each column.
    """
    if not 0 < len(methods) <= len(COLOURS):
        raise ValueError(f"{len(methods)} methods in a figure that has colours for 1 to {len(COLOURS)}")
    if wrong := [method for method, shares in methods.items() if len(shares) != len(columns)]:
        raise ValueError(f"{', '.join(wrong)}: not one share for each of {', '.join(columns)}")
    figure = Figure(figsize=(8, 5.5), dpi=200, layout="constrained")
    axes = figure.add_subplot()
    axes.axhline(100, color="black", linestyle="--", linewidth=1.2, label="dense")
    step = 0.8 / (2 * len(methods))
    for i, (method, shares) in enumerate(methods.items()):
        left = [column - 0.4 + step * (2 * i + 0.5) for column in range(len(columns))]
        style: dict[str, Any] = {"color": COLOURS[i], "marker": MARKERS[i], "linestyle": "none", "markersize": 7}
        label = f"{method}, published"
        axes.plot(left, [share.published for share in shares], markerfacecolor="none", label=label, **style)
        measured = [(x + step, *share.measured) for x, share in zip(left, shares, strict=True) if share.measured]
        if measured:
            right, middle, low, high = np.array(measured).T
            spread = np.maximum(0, [middle - low, high - middle])  # a rounding error, see _curves
            axes.errorbar(right, middle, spread, elinewidth=0.8, capsize=2.5, label=f"{method}, measured", **style)
    axes.set_xticks(range(len(columns)), [column.replace("-", "-\n") for column in columns])
    axes.set_xlim(-0.5, len(columns) - 0.5)
    for column in range(1, len(columns)):
        axes.axvline(column - 0.5, color="grey", linewidth=0.6)
    axes.set(title=title, ylabel="% of dense")
    axes.grid(axis="y", alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return save(figure, path)


def latency_breakdown(bars: Mapping[str, Mapping[str, float]], path: Path, title: str) -> Files:
    """Draw a bar for each setting, stacked from the seconds of its steps.

    Args:
        bars: By setting, seconds by step, in the order of time. All settings have the same steps.
        path: Path of the files, without ending.
        title: Title of the figure.

    Returns:
        The files, png, pdf and svg.

    Raises:
        ValueError: There are no bars, settings have different steps, or there are more steps than colours.
    """
    shades = (*COLOURS, "#999999")
    steps = list(next(iter(bars.values()), ()))
    if not 0 < len(steps) <= len(shades):
        raise ValueError(f"{len(steps)} steps in a figure that can tell 1 to {len(shades)} apart")
    if other := [setting for setting, bar in bars.items() if list(bar) != steps]:
        raise ValueError(f"{', '.join(other)}: not the steps {', '.join(steps)}")
    figure = Figure(figsize=(8, 1.2 + 0.3 * len(bars)), dpi=200, layout="constrained")
    axes = figure.add_subplot()
    left = np.zeros(len(bars))
    for step, shade in zip(steps, shades, strict=False):
        widths = np.array([bar[step] for bar in bars.values()])
        axes.barh(range(len(bars)), widths, left=left, color=shade, label=step, height=0.7)
        left += widths
    axes.set_yticks(range(len(bars)), list(bars), fontsize=8)
    axes.invert_yaxis()
    axes.set(title=title, xlabel="seconds per sample")
    axes.grid(axis="x", alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False)
    return save(figure, path)


def growth_curves(
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], path: Path, title: str, xlabel: str
) -> Files:
    """Draw how amounts grow, a panel for each, with both axes logarithmic.

    A dashed line in each panel is linear growth from the first point.

    Args:
        panels: By the amount's name and unit, points (x, y) by setting.
        path: Path of the files, without ending.
        title: Title of the figure.
        xlabel: Label of x.

    Returns:
        The files, png, pdf and svg.

    Raises:
        ValueError: There are no settings, or more than markers.
    """
    settings = list(dict.fromkeys(setting for curves in panels.values() for setting in curves))
    if not 0 < len(settings) <= len(MARKERS):
        raise ValueError(f"{len(settings)} settings in a figure that can tell 1 to {len(MARKERS)} apart")
    figure = Figure(figsize=(3.6 * len(panels), 3.8), dpi=200, layout="constrained")
    for axes, (amount, curves) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels.items(), strict=True):
        for setting, points in curves.items():
            i = settings.index(setting)
            axes.loglog(
                *zip(*points, strict=True),
                color=COLOURS[i % len(COLOURS)],
                marker=MARKERS[i],
                linestyle=LINES[i // len(COLOURS)],
                linewidth=1.5,
                label=setting,
            )
        (x, y), *_, (last, _) = next(iter(curves.values()))
        axes.loglog([x, last], [y, y * last / x], color="grey", linestyle="--", linewidth=1, label="linear")
        ticks = sorted({x for points in curves.values() for x, _ in points})
        axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_minor_locator(NullLocator())
        amounts = [y for points in curves.values() for _, y in points]
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(amounts) < 1000 * min(amounts) else (1,)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        axes.set(title=amount, xlabel=xlabel)
        axes.title.set_fontsize(9)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    drawn = {handle.get_label(): handle for axes in figure.axes for handle in axes.get_lines()}
    figure.legend(handles=list(drawn.values()), loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return save(figure, path)


TEXT_AS_TEXT: Any = {"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "vidcom2"}
"""matplotlib's settings for papers: PDF files hold TrueType fonts, and SVG files text. Journals refuse Type 3 fonts."""


def save(figure: Figure, path: Path) -> Files:
    """Save a figure. The same figure gives the same bytes.

    Args:
        figure: The figure.
        path: Path of the files, without ending.

    Returns:
        The files, png, pdf and svg.
    """
    undated = {"png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}
    files = [path.with_name(f"{path.name}.{ending}") for ending in undated]
    path.parent.mkdir(parents=True, exist_ok=True)
    with rc_context(TEXT_AS_TEXT):
        for file, metadata in zip(files, undated.values(), strict=True):
            with writing(file):
                figure.savefig(file, metadata=metadata)
    return files[0], files[1], files[2]
