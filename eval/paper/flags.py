"""Flags of the commands `table` and `frame-drop`. Imports no heavy library."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..run.flags import DEMO, OUTCOME, add_demo, add_evaluation, add_how, add_questions

TITLES = {
    "2": "Table 2: all methods",
    "3": "Table 3: EgoSchema and Perception Test",
    "5": "Table 5: how tokens are ranked",
    "6": "Table 6: how frames are ranked",
    "7": "Table 7: frames per window",
    "8": "Table 8: weights of the two scores",
    "figure4": "Figure 4: Qwen2-VL on Video-MME, percent of dense",
    "figure5": "Figure 5: VidCom²'s frame budgets for other methods, percent of dense",
}
"""The tables and figures that can be measured again."""
RATIOS = "0.25,0.5,0.75"


def add_table(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `table`."""
    what = parser.add_argument_group("what is measured")
    what.add_argument(
        "table", choices=TITLES, metavar="TABLE", help=f"number of a table, or name of a figure: {', '.join(TITLES)}"
    )
    what.add_argument(
        "--model",
        action="append",
        help="a checkpoint of a family that the table has; may be given once for each family (default: the paper's "
        "checkpoints)",
    )
    what.add_argument("--only", metavar="BENCHMARK,...", help="benchmarks to run now (default: all of the table's)")
    what.add_argument("--render-only", action="store_true", help="run nothing; write the table of what is finished")
    on = parser.add_argument_group("on what")
    on.add_argument(
        "--data-root",
        metavar="DIR",
        type=Path,
        help="holds a local copy of each benchmark in DIR/BENCHMARK (default: downloaded from the hub)",
    )
    add_questions(on)
    add_how(parser.add_argument_group("how"))
    to = parser.add_argument_group("where to")
    to.add_argument(
        "--runs",
        metavar="DIR",
        type=Path,
        default=Path("outputs"),
        help="holds the runs, in DIR/BENCHMARK/MODEL/COMPRESSOR (default: %(default)s)",
    )
    to.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        default=Path("outputs/tables"),
        help="directory for the table (default: %(default)s)",
    )
    to.add_argument("--retry-failed", action="store_true", help="ask the failed questions of finished runs again")
    parser.set_defaults(start="paper.command:prepare_table")
    titles = "\n".join(f"  {name:8} {title.partition(': ')[2]}" for name, title in TITLES.items())
    parser.epilog = f"""\
Tables and figures:
{titles}
Table 4 is measured by the command efficiency, figure 1 by frame-drop.

Writes Markdown, LaTeX and CSV, with the published numbers beside. Finished runs
stay.

example:
  %(prog)s 2 --only mvbench --data-root /data

{OUTCOME}"""


def add_frame_drop(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `frame-drop`."""
    what = add_evaluation(parser, "outputs/BENCHMARK/MODEL")
    what.add_argument(
        "--ratios", metavar="R,...", default=RATIOS, help="shares of the frames to drop (default: %(default)s)"
    )
    what.add_argument(
        "--positions",
        choices=("original", "repack"),
        help="positions of the kept tokens: as in the whole video, or numbered anew (default: as released for the "
        "model family)",
    )
    add_demo(what, "frame-drop", "drop frames from what a small model that comes along sees")
    parser.set_defaults(start="paper.figure1:prepare_frame_drop", default_of=parser.get_default)
    parser.epilog = f"""\
Writes frame-drop.md and a figure into --output.

examples:
  %(prog)s --tasks videomme --ratios 0.25,0.5
  %(prog)s --demo

{DEMO}

{OUTCOME}"""
