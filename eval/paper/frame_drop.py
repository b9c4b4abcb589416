"""python -m eval frame-drop: what whole frames are worth, the unique ones and the redundant ones (figure 1 of
https://arxiv.org/abs/2505.14454)."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence

from rich.markdown import Markdown

from ..reports.figures import Point, dropped_frames, point
from ..results.files import markdown_table, write_whole
from ..results.load import Run, load_run
from ..results.stats import paired_interval
from ..results.terminal import stdout
from ..run.command import run_config
from ..run.distributed import Place
from ..run.flags import status
from ..run.sweep import Rows, Sweep, canonical
from .flags import RATIOS
from .tables import fingerprint

DROPS = {"redundant": "most redundant dropped", "unique": "most unique dropped", "even": "evenly spaced kept"}
"""In words, by the setting of `vidcom2.methods.frames.Frames`."""


def prepare_frame_drop(arguments: argparse.Namespace) -> Callable[[], int]:
    """Check everything that can be checked before the model is loaded; returns what does the rest."""
    by_setting = specs(split_ratios(arguments.ratios), arguments.positions)
    sweep = Sweep(run_config(arguments, "none"), ["none", *by_setting.values()])
    sweep.check()
    place = Place.find(arguments.num_gpus, sweep.config.device, sweep.config.zero3 is not None)

    def finish() -> int:
        failed = sweep.run(place)
        if place.rank > 0:
            return status(failed)
        every = {run.compressor: load_run(run.output) for run in sweep.runs}
        runs = {setting: every[spec] for setting, spec in by_setting.items()}
        output = sweep.config.output
        note = trial(every["none"].summary["run"]["limit"])
        title = f"{every['none'].summary['benchmark']}, {sweep.config.model}"
        text = f"# Whole frames dropped: {title}\n\n{note}{markdown(every['none'], runs)}"
        how = "; ".join(f"{name}: {value}" for name, value in fingerprint(every["none"]).items())
        text += f"\nHow it was measured: {how}.\n"
        write_whole(output / "frame-drop.md", text)
        figure = dropped_frames(curves(runs), point(every["none"]), output / "frame-drop", note + title)
        console = stdout()
        console.print(Markdown(text))
        for file in (output / "frame-drop.md", *figure):
            console.print(f"written: {file}", markup=False, highlight=False, soft_wrap=True)
        return status(failed)

    return finish


def split_ratios(text: str) -> list[float]:
    """Ascending; ValueError for what is no share above 0 and below 1."""
    try:
        ratios = sorted({float(part) for part in text.split(",")})
    except ValueError as error:
        raise ValueError(f"--ratios {text!r} must be numbers separated by commas, such as {RATIOS}") from error
    if wrong := [ratio for ratio in ratios if not 0 < ratio < 1]:
        raise ValueError(f"--ratios {text!r}: {wrong[0]} is no share of the frames above 0 and below 1")
    return ratios


def specs(ratios: Sequence[float], positions: str | None) -> dict[tuple[str, float], str]:
    """The compressor by which frames are dropped, a key of DROPS, and by how many, a ratio."""
    place = f":positions={positions}" if positions else ""
    return {
        (drop, ratio): canonical(f"frames@{round(1 - ratio, 9)}:drop={drop}{place}")
        for drop in DROPS
        for ratio in ratios
    }


Runs = Mapping[tuple[str, float], Run]
"""By which frames are dropped, and the share of them that was asked for."""


def curves(runs: Runs) -> dict[str, list[Point]]:
    return {name: [point(run) for (drop, _), run in runs.items() if drop == key] for key, name in DROPS.items()}


def trial(limit: int | None) -> str:
    if limit is None:
        return ""
    return f"TRIAL: only {limit} questions per task; with one, intervals have no width.\n\n"


def markdown(dense: Run, runs: Runs) -> str:
    """Accuracies with their 95 % intervals, and what the choice of frames makes of the same questions."""
    return f"Dense: {interval(dense)}.\n\n{markdown_table(rows(runs))}\n{NOTE}"


NOTE = """Accuracy in percent with its 95 % bootstrap interval, without so many of the frames: those that VidCom² calls
most redundant, those that it calls most unique, or, as a control, those between evenly spaced ones. Dropped: share of
the visual tokens that the LLM did not see; it is not what was asked for where frames do not divide so, or separators
stay. Unique - redundant: what dropping the one instead of the other changes, in percentage points, with its paired
95 % interval; below 0 where unique frames are missed more.
"""


def rows(runs: Runs) -> Rows:
    """The header, and a line for each ratio."""
    lines: Rows = [("asked for", "dropped", *DROPS.values(), "unique - redundant")]
    for ratio in sorted({ratio for _, ratio in runs}):
        redundant, unique = runs["redundant", ratio], runs["unique", ratio]
        difference, low, high = paired_interval(
            redundant.scores, unique.scores, redundant.categories, redundant.overall
        )
        lines.append(
            (
                f"{100 * ratio:g} %",
                f"{100 * (1 - point(redundant).retention):.1f} %",
                *(interval(runs[drop, ratio]) for drop in DROPS),
                f"{difference:+.1f} [{low:+.1f}, {high:+.1f}]",
            )
        )
    return lines


def interval(run: Run) -> str:
    found = point(run)
    return f"{found.accuracy:.1f} [{found.low:.1f}, {found.high:.1f}]"
