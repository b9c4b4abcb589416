"""vidcom2 web: load a model and serve the page until Ctrl-C."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from threading import Event
from typing import NoReturn

from llava.video import FrameSampling

from ..ask.session import open_session
from ..demo.world import UNITS
from ..models import Protocol, protocol_for
from ..models.packaged import DEMO_MODELS, model_title
from ..results.errors import UserError

if find_spec("gradio") is None:
    raise UserError("the page needs gradio: pip install -c requirements.txt -e .[web]")

import gradio as gr

from .examples import make_examples
from .guard import LOOPBACK
from .page import build
from .server import Place, serving
from .talk import Offer, Talk
from .uploads import Limits, Uploads


def prepare_web(arguments: argparse.Namespace) -> Callable[[], int]:
    """Check the flags and the models' configurations. Return a function that serves the page."""
    for flag in ("max_mb", "max_minutes", "queue", "max_new_tokens"):
        if not (number := getattr(arguments, flag)) > 0:
            raise ValueError(f"--{flag.replace('_', '-')} {number:g} must be more than 0")
    if not 1 <= arguments.port <= 65535:
        raise ValueError(f"--port {arguments.port} must be from 1 to 65535")
    models = models_of(arguments.model, arguments.sampling)
    place = Place(arguments.host, arguments.port, Limits(arguments.max_mb, arguments.max_minutes), arguments.queue)
    place.require_free()

    def serve() -> int:
        signal.signal(signal.SIGTERM, interrupted)  # so that uploads are deleted then, too
        talk = Talk(models, arguments.max_new_tokens)
        try:
            with serving(place, partial(page_of, talk, place.limits)) as address:
                print(f"the page is at {address} (Ctrl-C ends it)", flush=True)
                if place.host not in LOOPBACK:
                    print(f"note: --host {place.host} lets every machine in that reaches it", file=sys.stderr)
                Event().wait()
        except KeyboardInterrupt:
            print("ended; all uploads are deleted", file=sys.stderr)
        finally:
            talk.close()
        return 0

    return serve


def models_of(named: Sequence[str] | None, sampling: str | None = None) -> dict[str, Offer]:
    """Return the models that can be chosen, by title.

    Args:
        named: Checkpoint directories or hub names. None for the demo models.
        sampling: Which frames they see. None for those of their protocols; a demo model then sees all UNITS.

    Raises:
        ValueError: A model is named twice, or it has no protocol, or its protocol cannot have the sampling.
        OSError, ImportError: As `protocol_for`.
    """
    demos = [str(path) for path in DEMO_MODELS.values() if path.is_dir()]
    models: dict[str, Offer] = {}
    for name in named or demos:
        title = model_title(name)
        if title in models:
            raise ValueError(f"--model {name}: there is a model called {title} already; name it once")
        protocol: Protocol = protocol_for(name)
        if sampling is not None:
            protocol = protocol.sampled(FrameSampling.parse(sampling))
        elif name in demos:
            protocol = protocol.sampled(FrameSampling("uniform", max_frames=UNITS))
        models[title] = Offer(name, partial(open_session, name, protocol))
    return models


def page_of(talk: Talk, limits: Limits, uploads: Path, others: Path) -> gr.Blocks:
    """Make the page.

    Args:
        talk: Answers questions.
        limits: How large videos may be.
        uploads: The folder for uploads.
        others: A folder for examples. Gradio copies one that is chosen to the uploads.
    """
    return build(talk, make_examples(others), limits, Uploads(uploads, talk.forget))


def interrupted(*_: object) -> NoReturn:
    """End as after Ctrl-C."""
    raise KeyboardInterrupt
