"""What `run --demo` and `sweep --demo` print below their tables: what the numbers are, and what to run next."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ..models import protocol_for
from ..models.packaged import demo_model
from ..paper.published import paper_table
from ..results.terminal import LINE, PROGRAM, near, say
from .run import SETTINGS, Demo

CHANCE = {"egoschema": "20", "perceptiontest": "33"}
"""Percent right by guessing, of editions whose questions do not have four options."""
PAPER = ("vidcom2@0.25", "vidcom2@0.15")
"""The compressors whose published figures are printed."""


def print_about(console: Console, demo: Demo, specs: Sequence[str]) -> None:
    """Say what the model is, what chance and the paper's figure are, and what to run next.

    Args:
        console: Where to print.
        demo: The demo that was run.
        specs: The specs that were evaluated, dense first.
    """
    console.print()
    say(console, what_it_is(demo))
    say(console, the_papers(demo))
    console.print("\nnext:")
    for command in next_commands(demo, specs):
        console.print(in_lines(command), markup=False, highlight=False, soft_wrap=True)


def what_it_is(demo: Demo) -> str:
    """Say what the model is, and what guessing gives."""
    _, checkpoint = demo_model(demo.model)
    size = sum(file.stat().st_size for file in checkpoint.rglob("*") if file.is_file())
    return (
        f"The model is a small one ({size / 1e6:.0f} MB) of {demo.model}'s architecture that we trained on MiniBench's "
        f"generated world; chance is {CHANCE.get(demo.benchmark.name, '25')} %."
    )


def the_papers(demo: Demo) -> str:
    """Quote what the paper says of a real model of the same family, or of LLaVA-OneVision."""
    _, checkpoint = demo_model(demo.model)
    table = paper_table("2")
    family = protocol_for(str(checkpoint)).harness_name
    part = next((part for part in table.parts if part.protocol == family), table.parts[0])
    average = {row.retention: row.average for row in part.rows if row.spec in PAPER}
    kept = " and ".join(f"{share} % at {100 * retention:.0f} %" for retention, share in average.items())
    return (
        f"The paper's figures, not measured here: with VidCom², {part.model} keeps {kept} of the tokens, percent of "
        "its dense accuracy (arXiv 2505.14454, table 2)."
    )


def next_commands(demo: Demo, specs: Sequence[str]) -> list[str]:
    """Return the command lines to go on with."""
    shown = [one.spec for one in SETTINGS]
    a, b = ("vidcom2@0.25", "random@0.25") if list(specs) == shown else (specs[0], specs[-1])
    more = "vidcom2@0.1,uniform@0.25"
    return [
        f"{program()} compare {demo.flags} {shlex.quote(a)} {shlex.quote(b)}",
        f"{program()} sweep {demo.flags} --compressors {more}",
        f"{program()} report {shlex.quote(near(demo.output))}/*/",
        f"{program()} run --tasks {demo.benchmark.name}  # a 7 B model",
    ]


def in_lines(command: str, width: int = LINE) -> str:
    """Indent a command line, and break it at spaces so that a shell reads it as one.

    Args:
        command: The command line. A comment at its end is left out where there is no room.
        width: The most characters of a line. A longer word stays whole.
    """
    if len(f"  {command}") <= width:
        return f"  {command}"
    first, *words = re.findall(r"(?:'[^']*'|\S)+", command.partition("  # ")[0])
    lines = [f"  {first}"]
    for word in words:
        if len(f"{lines[-1]} {word} \\") > width:
            lines.append(f"     {word}")
        else:
            lines[-1] += f" {word}"
    return " \\\n".join(lines)


def program() -> str:
    """Return PROGRAM, with the path of this Python if the shell's own is another one."""
    found, wanted = PROGRAM.partition(" ")[0], Path(sys.executable).parent
    there = shutil.which(found)
    if there is not None and Path(there).parent == wanted:
        return PROGRAM
    return shlex.quote(near(wanted / found)) + PROGRAM.removeprefix(found)
