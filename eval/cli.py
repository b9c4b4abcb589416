"""The command line, `python -m eval` in a checkout and `vidcom2` where it is installed.

A command is two functions: one declares its flags, the other does its work. Each is imported when the command is named,
so that --help and errors in flags do not wait for torch.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NamedTuple

from .results.errors import UserError
from .results.files import NO_ROOM, Unwritable
from .results.terminal import INTERRUPTED, PROGRAM


class Command(NamedTuple):
    """A command.

    Attributes:
        flags: The function that declares its flags, as module:function within this package. It sets `start` to the
            function that checks the flags and returns a function that does the work.
        summary: What it does, in a line.
        heavy: Does its work need torch? Loading it takes seconds.
    """

    flags: str
    summary: str
    heavy: bool = True


COMMANDS = {
    "run": Command("run.flags:add_run", "evaluate a model on a benchmark"),
    "sweep": Command("run.flags:add_sweep", "evaluate a model under many compressors in one pass"),
    "compare": Command("reports.flags:add_compare", "is the difference of two runs more than chance?", heavy=False),
    "report": Command("reports.flags:add_report", "write finished runs into one HTML file"),
    "doctor": Command("doctor.flags:add_doctor", "check a local benchmark's questions and videos"),
    "see": Command("reports.flags:add_see", "draw which tokens of a video a method keeps"),
    "ask": Command("ask.flags:add_ask", "ask a model about a video, dense or compressed"),
    "analyse": Command("reports.flags:add_analyse", "measure what methods keep of videos, without a question"),
    "web": Command("web.flags:add_web", "a page where people ask videos, and see what was kept"),
    "bench": Command("speed.flags:add_bench", "measure the speed and memory of one part"),
    "efficiency": Command(
        "speed.efficiency.flags:add_efficiency", "time and memory of every step from video to answer"
    ),
    "table": Command("paper.flags:add_table", "measure a table or figure of the paper again"),
    "frame-drop": Command("paper.flags:add_frame_drop", "drop the most unique or the most redundant frames (figure 1)"),
}
ALIASES = {"visualize": "see"}
"""Earlier names of commands."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status.

    Args:
        argv: The arguments. None for those of this process.
    """
    print_anything(sys.stdout)
    argv = sys.argv[1:] if argv is None else argv
    arguments = parse(argv)
    try:
        start = function(arguments.start)
        try:
            require_values(argv)
            work = start(arguments)
        except (ValueError, OSError, ImportError) as error:
            return failed(error)
        return work()
    except UserError as error:
        return failed(error)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        return failed(Unwritable(error.filename or "a temporary file or a cache", error))
    except KeyboardInterrupt:
        print("interrupted; an evaluation keeps its answers, and goes on when it is started again", file=sys.stderr)
        return INTERRUPTED


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse a command line. Only the flags of the command that it names are declared."""
    named = argv[0] if argv else ""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Evaluate video token compression for VideoLLMs (VidCom², arXiv 2505.14454).",
        epilog=f"{PROGRAM} COMMAND --help explains a command.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")
    for name, command in COMMANDS.items():
        own = commands.add_parser(
            name,
            aliases=[alias for alias, of in ALIASES.items() if of == name],
            help=command.summary,
            description=f"{command.summary[0].upper()}{command.summary[1:]}{'' if command.summary[-1] == '?' else '.'}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if ALIASES.get(named, named) == name:
            function(command.flags)(own)
    arguments = parser.parse_args(argv)
    heavy = COMMANDS[ALIASES.get(arguments.command, arguments.command)].heavy or arguments.start.startswith("demo.")
    if heavy and "torch" not in sys.modules:
        print("loading ...", file=sys.stderr, flush=True)
    return arguments


def require_values(argv: Sequence[str]) -> None:
    """Check that no flag is empty, as a shell writes a variable that is not set: its default would be a surprise.

    Raises:
        ValueError: One is.
    """
    for word, after in zip(argv, (*argv[1:], None), strict=True):
        flag, equals, value = word.partition("=")
        if flag.startswith("--") and (value if equals else after) == "":
            raise ValueError(f'{flag} "" is empty: give it a value, or leave it out')


def function(name: str) -> Callable[..., Any]:
    """Import a function by "module:function" within this package."""
    module, _, attribute = name.partition(":")
    return getattr(import_module(f".{module}", __package__), attribute)


def print_anything(stream: Any) -> None:
    """Make a stream write characters that its encoding lacks as escapes, for terminals that are not UTF-8."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")


def failed(error: Exception) -> int:
    """Print an error and return the exit status for it."""
    print(f"error: {error}", file=sys.stderr)
    return 1
