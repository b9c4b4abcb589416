"""--demo for `sweep`, `frame-drop` and `compare`: they work as always, on the demo's model and questions."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from vidcom2 import compressor

from ..paper.figure1 import dropping, finish, specs, split_ratios
from ..reports.compare import prepare_compare
from ..run.distributed import World
from ..run.flags import status
from ..run.sweep import Sweep, folder, split_specs
from .run import OUTPUT, demonstrated, made


def prepare_demo_sweep(arguments: argparse.Namespace) -> Callable[[], int]:
    """Check the flags of `sweep --demo`. Return a function that makes the questions and evaluates the compressors.

    Raises:
        ValueError: A flag or variable chooses what the demo chooses itself, or a spec is wrong.
        FileExistsError: The output directory is not a demo's.
    """
    demo, chosen = demonstrated(arguments, "compressors"), split_specs(arguments.compressors)

    def work() -> int:
        sweep = Sweep(made(demo), chosen)
        sweep.check()
        return status(sweep.run(World()))

    return work


def prepare_demo_frame_drop(arguments: argparse.Namespace) -> Callable[[], int]:
    """Check the flags of `frame-drop --demo`. Return a function that makes the questions and does the rest.

    Raises:
        ValueError: A flag or variable chooses what the demo chooses itself, or a ratio is wrong.
        FileExistsError: The output directory is not a demo's.
    """
    demo = demonstrated(arguments, "ratios", "positions")
    by_setting = specs(split_ratios(arguments.ratios), arguments.positions)
    return lambda: finish(dropping(made(demo), by_setting), by_setting, World())


def prepare_demo_compare(arguments: argparse.Namespace) -> Callable[[], int]:
    """Find the runs of two specs in the demo's output directory, and compare them as `compare` does.

    Raises:
        ValueError: A spec is wrong.
        FileNotFoundError: The demo has no finished run of it.
    """
    for name in ("a", "b"):
        spec = compressor(str(getattr(arguments, name))).spec
        place: Path = OUTPUT / "mvbench" / folder(spec)
        if not (place / "results.json").exists():
            raise FileNotFoundError(
                f"{place} has no finished run: make it with sweep --tasks mvbench --demo --compressors {spec}"
            )
        setattr(arguments, name, place)
    return prepare_compare(arguments)
