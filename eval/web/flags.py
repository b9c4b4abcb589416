"""Flags of the command `web`. Imports no heavy library."""

from __future__ import annotations

import argparse


def add_web(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `web`."""
    what = parser.add_argument_group("what is asked")
    what.add_argument(
        "--model",
        action="append",
        metavar="MODEL",
        help="checkpoint directory or hub name; give it again for a choice of models (default: the small models that "
        "come along)",
    )
    what.add_argument(
        "--sampling",
        help="which frames of a video are used, such as uniform:16 or fps:1,max=64 (default: as lmms-eval's wrapper "
        "for the model)",
    )
    what.add_argument(
        "--max-new-tokens",
        type=int,
        metavar="N",
        default=256,
        help="the longest answer, in tokens (default: %(default)s)",
    )
    where = parser.add_argument_group("where the page is")
    where.add_argument(
        "--host",
        default="127.0.0.1",
        help="the address to listen on; 0.0.0.0 lets other machines in, without a password (default: %(default)s, this "
        "machine alone)",
    )
    where.add_argument("--port", type=int, default=7860, help="the port (default: %(default)s)")
    guests = parser.add_argument_group("what guests may do")
    guests.add_argument(
        "--max-mb", type=float, metavar="MB", default=200.0, help="the largest upload, in megabytes (default: 200)"
    )
    guests.add_argument(
        "--max-minutes", type=float, metavar="MIN", default=30.0, help="the longest video, in minutes (default: 30)"
    )
    guests.add_argument(
        "--queue",
        type=int,
        metavar="N",
        default=20,
        help="questions that may wait; one is answered at a time (default: %(default)s)",
    )
    parser.set_defaults(start="web.command:prepare_web")
    parser.epilog = """\
Uploads are deleted when their page is closed, an hour after they came, and when
the server ends. Ctrl-C ends it. docs/web.md says more.

examples:
  %(prog)s
  %(prog)s --model lmms-lab/llava-onevision-qwen2-7b-ov --port 8080"""
