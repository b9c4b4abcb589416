"""A sweep: one pass over a benchmark's videos for many compressors, and their results side by side."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import replace

from vidcom2 import Compressor, compressor

from ..models.packaged import model_title
from ..results.files import write_whole
from ..results.load import load_run
from ..results.side_by_side import called, markdown, overview, print_side_by_side, side_by_side
from ..results.summary import beside_published
from ..results.terminal import near, stdout
from .config import RunConfig
from .distributed import World
from .evaluate import evaluate_runs


def split_specs(text: str) -> list[Compressor]:
    """Parse specs of compressors that are separated by commas.

    A comma inside parentheses belongs to its spec: "dense,pdrop@0.15:layers=(2,7,14)" is two specs.

    Raises:
        ValueError: A compressor is named twice, in whatever spelling, or there is none, or a spec is wrong.
    """
    chosen = [compressor(spec) for spec in spec_texts(text)]
    if twice := [one.spec for i, one in enumerate(chosen) if one in chosen[:i]]:
        raise ValueError(f"--compressors {text!r} has {', '.join(twice)} twice")
    if not chosen:
        raise ValueError(f"--compressors {text!r} names no compressor; write dense,vidcom2@0.25")
    return chosen


def spec_texts(text: str) -> list[str]:
    """Return the specs in a text, one by one. They are separated by commas outside parentheses."""
    return [spec.strip() for spec in re.split(r",(?![^(]*\))", text) if spec.strip()]


def folder(spec: str) -> str:
    """Return the name of a compressor's output directory."""
    return spec.replace(":", "_")


class Sweep:
    """Runs of one model on one benchmark under several compressors.

    Each has a directory below `config.output`, in which a table of all is written. Finished runs are kept, unless
    `config.overwrite` is set.

    Args:
        config: The configuration that the runs share; its compressor is not used.
        compressors: What to evaluate.
    """

    def __init__(self, config: RunConfig, compressors: Sequence[Compressor]):
        self.config = config
        self.runs = [replace(config, compressor=one, output=config.output / folder(one.spec)) for one in compressors]
        self.missing = [run for run in self.runs if not run.done]

    def check(self) -> None:
        """Check every run, see `RunConfig.check`."""
        for run in self.runs:
            run.check()
            if run not in self.missing:
                print(f"{run.output} is finished already", file=sys.stderr)

    def evaluate(self, world: World) -> int:
        """Evaluate what is missing. Return the number of its failed questions."""
        return evaluate_runs(self.missing, world, quiet=True) if self.missing else 0

    def run(self, world: World) -> int:
        """Evaluate what is missing. Rank 0 prints and writes the table.

        Returns:
            The number of failed questions. In rank 0, it includes those of runs that were finished before.
        """
        failed = self.evaluate(world)
        if world.rank > 0:
            return failed
        runs = {run.compressor.spec: load_run(run.output) for run in self.runs}
        results = {spec: run.summary for spec, run in runs.items()}
        title = f"{next(iter(results.values())).title}, {model_title(self.config.model)}"
        tables = overview({called(spec): run for spec, run in runs.items()}), side_by_side(results)
        write_whole(self.config.output / "table.md", markdown(title, *tables))
        console = stdout()
        print_side_by_side(console, title, runs)
        for beside in filter(None, map(beside_published, results.values())):
            text, off = beside
            style = "bold red" if off else None
            console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
        for spec, result in results.items():
            for failure in result.failures:
                console.print(
                    f"FAILED {spec} {failure.task} question {failure.doc_id}: {failure.error}",
                    style="red",
                    markup=False,
                    highlight=False,
                )
        console.print(f"results in {near(self.config.output)}", markup=False, highlight=False, soft_wrap=True)
        return sum(len(result.failures) for result in results.values())
