"""vidcom2 frame-drop: figure 1 of https://arxiv.org/abs/2505.14454, measured again.

It asks what whole frames are worth, the unique ones and the redundant ones.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence

from rich.console import Console

from vidcom2 import Compressor, Dense, compressor

from ..models.packaged import model_title
from ..reports.figures import Point, dropped_frames, point
from ..results.files import write_whole
from ..results.load import Run, load_run
from ..results.stats import paired_interval
from ..results.tables import Rows, markdown_table, print_table
from ..results.terminal import say, stdout, table_width
from ..run.command import run_config
from ..run.config import RunConfig
from ..run.distributed import World
from ..run.flags import status
from ..run.sweep import Sweep
from .flags import RATIOS
from .tables import fingerprint

DROPS = {"redundant": "most redundant dropped", "unique": "most unique dropped", "even": "evenly spaced kept"}
"""In words, by the setting `drop` of `vidcom2.methods.frames.Frames`."""
NOTE = """Accuracy in percent with its 95 % bootstrap interval, without some of the frames: those that VidCom² calls
most redundant, those that it calls most unique, or, as a control, those between evenly spaced ones. Dropped: share of
the visual tokens that the LLM did not see. It differs from what was asked for where frames do not divide so, or
separators stay. Unique - redundant: what dropping the unique frames instead of the redundant ones changes, in
percentage points, with its paired 95 % interval. It is below 0 where unique frames are missed more.
"""
Settings = Mapping[tuple[str, float], Compressor]
"""By the frames that are dropped, a key of DROPS, and the share of them that was asked for."""
Runs = Mapping[tuple[str, float], Run]
"""By the frames that are dropped, a key of DROPS, and the share of them that was asked for."""


def prepare_frame_drop(arguments: argparse.Namespace) -> Callable[[], int]:
    """Check everything that can be checked before the model is loaded. Return a function that does the rest."""
    by_setting = specs(split_ratios(arguments.ratios), arguments.positions)
    sweep = dropping(run_config(arguments), by_setting)
    world = World.join(arguments.num_gpus, sweep.config.device, sweep.config.zero3 is not None)
    return lambda: finish(sweep, by_setting, world)


def dropping(config: RunConfig, by_setting: Settings) -> Sweep:
    """Return the sweep of dense and of all settings, checked."""
    sweep = Sweep(config, [Dense(), *by_setting.values()])
    sweep.check()
    return sweep


def finish(sweep: Sweep, by_setting: Settings, world: World) -> int:
    """Run the sweep. Rank 0 writes table and figure. Return the exit status."""
    failed = sweep.run(world)
    if world.rank == 0:
        every = {run.compressor: load_run(run.output) for run in sweep.runs}
        write(sweep, every[Dense()], {setting: every[chosen] for setting, chosen in by_setting.items()})
    return status(failed)


def split_ratios(text: str) -> list[float]:
    """Read the shares of --ratios, ascending.

    Raises:
        ValueError: One is no number above 0 and below 1.
    """
    try:
        ratios = sorted({float(part) for part in text.split(",")})
    except ValueError as error:
        raise ValueError(f"--ratios {text!r} must be numbers separated by commas, such as {RATIOS}") from error
    if wrong := [ratio for ratio in ratios if not 0 < ratio < 1]:
        raise ValueError(f"--ratios {text!r}: {wrong[0]} is no share of the frames above 0 and below 1")
    return ratios


def specs(ratios: Sequence[float], positions: str | None) -> Settings:
    """Return the compressors, by the frames that they drop, a key of DROPS, and the share of them."""
    place = f":positions={positions}" if positions else ""
    return {
        (drop, ratio): compressor(f"frames@{round(1 - ratio, 9)}:drop={drop}{place}")
        for drop in DROPS
        for ratio in ratios
    }


def write(sweep: Sweep, dense: Run, runs: Runs) -> None:
    """Write the table and the figure into the sweep's directory, and print the table."""
    output = sweep.config.output
    note = trial(dense.summary.run.limit)
    title = f"{dense.summary.title}, {model_title(sweep.config.model)}"
    how = "; ".join(f"{name}: {value}" for name, value in fingerprint(dense).items())
    text = f"# Whole frames dropped: {title}\n\n{note}{markdown(dense, runs)}\nHow it was measured: {how}.\n"
    write_whole(output / "frame-drop.md", text)
    figure = dropped_frames(curves(runs), point(dense), output / "frame-drop", note + title)
    console = stdout()
    print_result(console, title, dense, runs)
    for line in (f"How it was measured: {how}.", *(f"written: {f}" for f in (output / "frame-drop.md", *figure))):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def print_result(console: Console, title: str, dense: Run, runs: Runs) -> None:
    """Print the table and what it says."""
    for line in (trial(dense.summary.run.limit).strip(), f"Dense: {interval(dense)}."):
        if line:
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    print_table(console, rows(runs), f"Whole frames dropped: {title}", left=2, width=table_width(console))
    say(console, NOTE.replace("\n", " "))


def curves(runs: Runs) -> dict[str, list[Point]]:
    """Return the points of the figure, by the frames that are dropped."""
    return {name: [point(run) for (drop, _), run in runs.items() if drop == key] for key, name in DROPS.items()}


def trial(limit: int | None) -> str:
    """Say that a run of some of the questions is no result. limit: questions per task."""
    if limit is None:
        return ""
    return f"TRIAL: only {limit} questions per task; with one, intervals have no width.\n\n"


def markdown(dense: Run, runs: Runs) -> str:
    """Write accuracies with their 95 % intervals, and the difference that the choice of frames makes."""
    return f"Dense: {interval(dense)}.\n\n{markdown_table(rows(runs))}\n{NOTE}"


def rows(runs: Runs) -> Rows:
    """Return the table as text: the header, and a row for each share."""
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
    """Write a run's accuracy and its interval, in percent."""
    found = point(run)
    return f"{found.accuracy:.1f} [{found.low:.1f}, {found.high:.1f}]"
