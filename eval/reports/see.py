"""vidcom2 see VIDEO: draw how unique a video's frames are, and which tokens a method keeps."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from llava.video import FrameSampling, VideoError, open_video
from vidcom2 import Compressor, Dense, Keep, compressor, method_names

from ..models import protocol_for
from ..models.base import Unanswerable
from ..models.packaged import DEMO_MODEL
from ..results.files import prepare_directory
from ..results.terminal import say
from ..run.flags import require_at_least
from .animation import animate
from .look import opened, watch
from .sheets import Style, draw_look

DRAWABLE = ", ".join(name for name in method_names() if name != Dense.name)
"""The methods that drop tokens."""


def prepare_see(arguments: argparse.Namespace) -> Callable[[], int]:
    """Check everything that can be checked before the model is loaded. Return a function that answers and draws."""
    style = Style.parse(arguments.theme, arguments.width)
    require_at_least(1, arguments, "frames")
    method = drawable(arguments.compressor)
    model = arguments.model or str(DEMO_MODEL)
    protocol = protocol_for(model).sampled(FrameSampling("uniform", max_frames=arguments.frames))
    if arguments.keep:
        protocol = replace(protocol, keep=Keep.parse(",".join(arguments.keep)))
        method.with_budgets(lambda frames, m: None)  # raises ValueError if it takes none
    try:
        with open_video(arguments.video):
            pass
    except VideoError as error:
        raise ValueError(str(error)) from error
    output = arguments.output or Path("outputs/visualize") / arguments.video.stem
    prepare_directory("--output", output)

    def draw() -> int:
        engine = opened(model, protocol, [method])
        try:
            look = watch(engine, str(arguments.video), arguments.question, method)
        except (VideoError, Unanswerable, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        moving = [
            animate(look, output / f"kept.{kind}", style.theme) for kind in dict.fromkeys(arguments.animate or ())
        ]
        for file in [*draw_look(look, output, style), *moving]:
            print(file)
        for text in filter(None, (" · ".join(look.facts), look.eyes.warning)):
            say(Console(stderr=True), text)
        return 0

    return draw


def drawable(spec: str) -> Compressor:
    """Return the compressor of a spec.

    Raises:
        ValueError: It drops nothing, or it does not say which tokens it drops.
    """
    method = compressor(spec)
    if not method.drops:
        raise ValueError(f"--compressor {spec} drops no token; draw one of {DRAWABLE}")
    if not method.tells_places:
        raise ValueError(
            f"{method.spec} gives its tokens positions that are not their own, so they cannot be drawn; draw "
            f"one of {DRAWABLE}, this one as {method.name} without .released"
        )
    return method
