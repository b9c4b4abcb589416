"""Flags of the command `ask`. Imports no heavy library."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..run.flags import add_keep, add_precision, add_reading, environment, spec_help

ENGINES = ("torch", "vllm")
MAX_NEW_TOKENS = 512
"""The longest answer, if the caller does not say it."""


def add_ask(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `ask`."""
    what = parser.add_argument_group("what is asked")
    what.add_argument("video", type=Path, metavar="VIDEO", help="video file")
    what.add_argument(
        "question",
        nargs="?",
        metavar="QUESTION",
        help="the question; without one, questions are read line by line, and each sees the earlier ones with their "
        "answers; an empty line or Ctrl-D ends that",
    )
    what.add_argument("--compare", action="store_true", help="answer dense and compressed, and print what each costs")
    add_model(parser.add_argument_group("which model, and how it is asked"))
    to = parser.add_argument_group("what is compressed")
    to.add_argument(
        "--compressor",
        metavar="SPEC",
        help="how the video's tokens are compressed (env: COMPRESSOR; default: vidcom2)",
    )
    to.add_argument(
        "--retention",
        metavar="R",
        type=float,
        help="share of the visual tokens to keep, if the spec does not say it (env: R_RATIO; default: the method's "
        "own, 0.25)",
    )
    add_keep(to)
    on = parser.add_argument_group("which frames")
    on.add_argument(
        "--frames", metavar="T", type=int, help="take T frames, the same as --sampling uniform:T (default: --sampling)"
    )
    add_reading(on)
    add_how(parser.add_argument_group("how"))
    take_question_anywhere(parser)
    parser.set_defaults(start="ask.command:prepare_ask")
    parser.epilog = f"""\
The answer goes to standard output, as it is made; with --engine vllm, it comes
as a whole. A line on standard error follows: visual tokens before and after,
and seconds from the encoded video to the first token and to the last.
--compare has each setting answer once before it is measured, two tokens long.
Exit status: 0 if all questions were answered, else another one.

{spec_help()}
examples:
  %(prog)s video.mp4 "What happens in this video?"
  %(prog)s video.mp4 "What is on the table?" --compare \\
      --model lmms-lab/llava-onevision-qwen2-7b-ov --retention 0.15
  %(prog)s video.mp4 --model Qwen/Qwen2.5-VL-7B-Instruct"""


def take_question_anywhere(parser: argparse.ArgumentParser) -> None:
    """Let flags stand between video and question, too: argparse of Python 3.12 and earlier misses a question there."""
    parse = parser.parse_known_args

    def parsed(args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        found, rest = parse(args, namespace)
        if found.question is None and rest and not rest[0].startswith("-"):
            found.question = rest.pop(0)
        return found, rest

    parser.parse_known_args = parsed  # type: ignore[method-assign]


def add_model(group: argparse._ArgumentGroup) -> None:
    """Declare the model, its prompt, and how an answer is decoded."""
    group.add_argument(
        "--model",
        default=environment().get("MODEL"),
        help="checkpoint directory or hub name (env: MODEL; default: the small model that comes along)",
    )
    group.add_argument(
        "--conv-mode",
        metavar="NAME",
        help="conversation template of a LLaVA checkpoint, such as vicuna_v1 (default: by the checkpoint)",
    )
    group.add_argument(
        "--temperature",
        metavar="T",
        type=float,
        default=0.0,
        help="above 0, tokens are drawn at random (default: %(default)g)",
    )
    group.add_argument(
        "--max-new-tokens",
        metavar="N",
        type=int,
        default=MAX_NEW_TOKENS,
        help="the longest answer, in tokens (default: %(default)s)",
    )
    group.add_argument("--show-prompt", action="store_true", help="print each prompt after its answer")


def add_how(how: argparse._ArgumentGroup) -> None:
    """Declare device, precision and engine."""
    add_precision(how)
    bits = how.add_mutually_exclusive_group()
    bits.add_argument(
        "--load-4bit", action="store_true", help="hold the LLM's weights in 4 bits, by bitsandbytes (NF4)"
    )
    bits.add_argument("--load-8bit", action="store_true", help="hold them in 8 bits, by bitsandbytes")
    how.add_argument(
        "--engine",
        metavar=f"{{{','.join(ENGINES)}}}",
        default=environment().get("ENGINE", "torch"),
        help="vllm answers with vLLM, under one compressor (env: ENGINE; default: %(default)s)",
    )
