"""Flags of the command `efficiency`. Imports no heavy library."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...run.flags import DEFAULT_MODEL, spec_help
from ..flags import DTYPE, DTYPES, add_device, add_model


def add_efficiency(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `efficiency`."""
    what = parser.add_argument_group("what is measured")
    add_model(what, DEFAULT_MODEL, DEFAULT_MODEL)
    compressors = what.add_mutually_exclusive_group()
    compressors.add_argument(
        "--compressors",
        metavar="SPEC,...",
        default="none,vidcom2@0.25",
        help="take turns; none (dense) is what the others are compared with (default: %(default)s)",
    )
    compressors.add_argument(
        "--table4", action="store_true", help="all settings of the paper's table 4, and the table itself"
    )
    add_question(parser.add_argument_group("on what"))
    add_how(parser.add_argument_group("how"))
    to = parser.add_argument_group("where to")
    to.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        default=Path("outputs/efficiency"),
        help="directory for all files (default: %(default)s)",
    )
    to.add_argument(
        "--json", metavar="FILE", type=Path, help="where efficiency.json goes instead (default: into --output)"
    )
    to.add_argument(
        "--render", metavar="JSON", type=Path, help="measure nothing; write all files anew from this efficiency.json"
    )
    parser.set_defaults(start="speed.efficiency.command:prepare_efficiency")
    parser.epilog = f"""\
Writes efficiency.json (every time of every round), efficiency.md and
breakdown.png; for several numbers of frames growth.png; with --table4 also
table4.md, .tex and .csv. Figures are written as PDF, too.

{spec_help()}
example:
  %(prog)s --random-weights tiny --frames 16,32,64"""


def add_question(on: argparse._ArgumentGroup) -> None:
    """Declare the video and the question."""
    on.add_argument("--video", metavar="FILE", type=Path, help="video file (default: one is made)")
    on.add_argument(
        "--frames", metavar="T,...", default="32", help="numbers of frames, such as 16,32,64 (default: %(default)s)"
    )
    on.add_argument("--question", default="What happens in this video?", help="what is asked (default: %(default)r)")
    on.add_argument(
        "--new-tokens",
        metavar="N",
        type=int,
        help="tokens of each answer (default: 16; with --table4 2, a letter and the end)",
    )


def add_how(how: argparse._ArgumentGroup) -> None:
    """Declare attention, precision, device and rounds."""
    how.add_argument(
        "--attn",
        metavar="ATTENTION,...",
        help="attention of the LLM; several are measured each. Compressors with attention=eager get eager (default: "
        "the best installed)",
    )
    how.add_argument("--dtype", metavar=DTYPES, help=DTYPE)
    add_device(how)
    how.add_argument(
        "--rounds", metavar="N", default=10, type=int, help="measurements of each setting (default: %(default)s)"
    )
    how.add_argument(
        "--warmup",
        metavar="N",
        default=2,
        type=int,
        help="rounds before that do not count (default: %(default)s)",
    )
    how.add_argument(
        "--seed",
        default=0,
        type=int,
        help="for the order in each round, random weights and the made video (default: %(default)s)",
    )
