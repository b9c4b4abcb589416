"""One pass over a benchmark's videos for many compressors, and their results side by side."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from vidcom2 import compressor

from ..results.files import write_whole
from ..results.load import read_results
from ..results.side_by_side import markdown, print_side_by_side, side_by_side
from ..results.terminal import stdout
from .config import RunConfig
from .distributed import Place
from .evaluate import run as run_together


def split_specs(text: str) -> list[str]:
    """Compressor specs separated by commas: "dense,pdrop@0.15:layers=(2,7,14)" is two.

    ValueError for one that is given twice, in whatever spelling, or for none at all.
    """
    specs = [canonical(spec) for spec in re.split(r",(?![^(]*\))", text) if spec.strip()]
    if twice := [spec for i, spec in enumerate(specs) if spec in specs[:i]]:
        raise ValueError(f"--compressors {text!r} has {', '.join(twice)} twice")
    if not specs:
        raise ValueError(f"--compressors {text!r} names no compressor; write dense,vidcom2@0.25")
    return specs


def canonical(spec: str, **settings: Any) -> str:
    """How results name it."""
    return compressor(spec, **settings).spec


def folder(spec: str) -> str:
    """The name of a setting's output directory."""
    return spec.replace(":", "_")


class Sweep:
    """`config` under each of the compressors `specs`, in directories below `config.output`, and a table in it.

    What is finished there already stays, unless config.overwrite.
    """

    def __init__(self, config: RunConfig, specs: Sequence[str]):
        self.config = config
        self.runs = [replace(config, compressor=spec, output=config.output / folder(spec)) for spec in specs]
        self.missing = [run for run in self.runs if not run.done]

    def check(self) -> None:
        """Raise what `RunConfig.check` raises."""
        for run in self.runs:
            run.check()
            if run not in self.missing:
                print(f"{run.output} is finished already", file=sys.stderr)

    def run(self, place: Place) -> int:
        """Answer what is missing, rank 0 prints and writes the table.

        Returns the number of failed questions, those of finished settings included; in other ranks without them.
        """
        failed = run_together(self.missing, place, quiet=True) if self.missing else 0
        if place.rank > 0:
            return failed
        results = {run.compressor: read_results(run.output) for run in self.runs}
        rows = side_by_side(results)
        title = f"{next(iter(results.values())).benchmark}, {self.config.model}"
        write_whole(self.config.output / "table.md", markdown(title, rows))
        console = stdout()
        print_side_by_side(console, title, rows)
        for spec, result in results.items():
            for failure in result.failures:
                console.print(
                    f"FAILED {spec} {failure.task} question {failure.doc_id}: {failure.error}",
                    style="red",
                    markup=False,
                    highlight=False,
                )
        console.print(f"results in {self.config.output}", highlight=False)
        return sum(len(result.failures) for result in results.values())
