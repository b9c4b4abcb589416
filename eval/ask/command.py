"""vidcom2 ask VIDEO [QUESTION]: from flags to a session, and its questions and answers in a terminal."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from llava.conversation import SeparatorStyle, conv_templates
from llava.mm_utils import get_model_name_from_path
from llava.model.builder import llava_family, resolve_attention, resolve_dtype
from llava.model.checkpoint import checkpoint_config
from llava.video import FrameSampling, VideoError, open_video
from vidcom2 import Compressor, Dense, Keep

from ..models import Protocol, protocol_for
from ..models.doubts import of_checkpoint, of_libraries
from ..models.llava import LlavaProtocol
from ..models.packaged import DEMO_MODEL, DEMO_MODELS, model_title
from ..models.served import require_vllm
from ..run.command import as_served, chosen_compressor, require_keeping
from ..run.flags import environment, require_at_least
from .flags import ENGINES
from .session import Session, open_session
from .terminal import Talk, hold

LLAMA_TEMPLATES = {"llama-2": "llava_llama_2", "llama-3": "llava_llama_3", "llama3": "llava_llama_3"}
"""Conversation templates of LLaVA checkpoints on Llama, by a part of their name. The others are on Vicuna."""


@dataclass(frozen=True)
class Setting:
    """What `ask` is to open.

    Attributes:
        model: Checkpoint directory or hub name.
        protocol: Frames and prompts.
        compressors: What each question is answered under.
        vllm: Whether vLLM answers.
        options: More arguments of `open_session`.
    """

    model: str
    protocol: Protocol
    compressors: tuple[Compressor, ...]
    vllm: bool
    options: dict[str, Any]

    def open(self) -> Session:
        """Load the model and try the compressors on it. Raises UserError."""
        session = open_session(
            self.model, self.protocol, vllm=self.compressors[0] if self.vllm else None, **self.options
        )
        for compressor in self.compressors:
            session.check(compressor)
        return session


def prepare_ask(arguments: argparse.Namespace) -> Callable[[], int]:
    """Check everything that can be checked before the model is loaded. Return a function that asks.

    Raises:
        ValueError, OSError, ImportError: A flag has a wrong value, or video or model cannot be used.
    """
    if arguments.engine not in ENGINES:  # argparse does not look at what ENGINE says
        raise ValueError(f"--engine (ENGINE) {arguments.engine!r} is unknown; there are {', '.join(ENGINES)}")
    if arguments.question is not None and not arguments.question.strip():
        raise ValueError('QUESTION "" is empty: write one, or leave it out to be asked for questions')
    require_at_least(1, arguments, "max_new_tokens")
    if not 0 <= arguments.temperature < math.inf:  # nan compares as False
        raise ValueError(f"--temperature {arguments.temperature:g} must be a number of at least 0")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch finds no GPU here; leave it out, or say --device cpu")
    if str(arguments.video) == ".":  # pathlib's name for ""
        raise ValueError("VIDEO is empty: write the path of a video file")
    setting = setting_of(arguments)
    try:
        with open_video(arguments.video):
            pass
    except VideoError as error:
        raise ValueError(str(error)) from error
    talk = Talk(
        str(arguments.video),
        setting.compressors,
        {"max_new_tokens": arguments.max_new_tokens, "temperature": arguments.temperature},
        arguments.show_prompt,
    )
    for doubt in doubts(setting):
        print(f"note: {doubt}", file=sys.stderr)
    return lambda: hold(setting.open, talk, arguments.question)


def doubts(setting: Setting) -> list[str]:
    """Return what to know of a model before one asks it, in a line each."""
    family = checkpoint_config(setting.model).get("model_type")
    changed = getattr(setting.protocol, "overwrite_config", {})
    known = of_libraries(family) + of_checkpoint(setting.model, setting.protocol.harness_name, changed)
    title = model_title(setting.model)
    if Path(setting.model).resolve() in {path.resolve() for path in DEMO_MODELS.values()}:
        known.append(
            f"the {title} has seen drawn shapes only, and answers multiple-choice questions in its benchmarks' form "
            "only, by a letter (docs/ask.md shows one): for other videos and questions name a --model"
        )
    return known


def setting_of(arguments: argparse.Namespace) -> Setting:
    """Turn flags into what is to be opened.

    Raises:
        ValueError, OSError, ImportError: As `prepare_ask`.
    """
    chosen = chosen_compressor(arguments.compressor, arguments.retention, environment())
    model = arguments.model or str(DEMO_MODEL)
    protocol = protocol_of(model, arguments)
    keep = ",".join(arguments.keep) if arguments.keep else None
    vllm = arguments.engine == "vllm"
    if arguments.compare and not chosen.drops:
        raise ValueError(f"--compare with compressor {chosen.spec}, which drops nothing: name another, or leave it out")
    require_keeping(keep, [chosen])
    if keep is not None:
        protocol = replace(protocol, keep=Keep.parse(keep))
        chosen.with_budgets(lambda frames, m: None)  # raises ValueError if it takes none
    resolve_attention(arguments.attn)
    if arguments.dtype is not None:
        resolve_dtype(arguments.dtype)
    bits = 4 if arguments.load_4bit else 8 if arguments.load_8bit else None
    if vllm:
        require_suited_to_vllm(arguments, keep, bits)
        chosen = as_served(chosen, protocol)
    return Setting(
        model,
        protocol,
        (Dense(), chosen) if arguments.compare else (chosen,),
        vllm,
        {"device": arguments.device, "dtype": arguments.dtype, "attn": arguments.attn, "bits": bits},
    )


def require_suited_to_vllm(arguments: argparse.Namespace, keep: str | None, bits: int | None) -> None:
    """Refuse what vLLM cannot have.

    Raises:
        ImportError: vLLM is not installed.
        ValueError: A flag has no effect in vLLM.
    """
    require_vllm()
    for flag, given in (
        ("--attn", arguments.attn),
        ("--keep", keep),
        ("--compare", arguments.compare),
        (f"--load-{bits}bit", bits),
        ("--device auto", arguments.device == "auto"),
    ):
        if given:
            raise ValueError(f"{flag} is not for --engine vllm: leave it out, or use --engine torch")


def protocol_of(model: str, arguments: argparse.Namespace) -> Protocol:
    """Return the frames and prompts that the flags ask for.

    Raises:
        ValueError, OSError, ImportError: A flag has a wrong value, or the model has no protocol.
    """
    protocol = protocol_for(model).read_by(arguments.decoder)
    if arguments.frames is not None and arguments.sampling is not None:
        raise ValueError(f"--frames {arguments.frames} and --sampling {arguments.sampling}: leave one of them out")
    if arguments.frames is not None:
        require_at_least(1, arguments, "frames")
        protocol = protocol.sampled(FrameSampling("uniform", max_frames=arguments.frames))
    elif arguments.sampling is not None:
        protocol = protocol.sampled(FrameSampling.parse(arguments.sampling))
    if isinstance(protocol, LlavaProtocol):
        return replace(protocol, conv_template=template_of(model, arguments.conv_mode, protocol.conv_template))
    if arguments.conv_mode is not None:
        raise ValueError(f"--conv-mode {arguments.conv_mode} is for LLaVA checkpoints; {model} has its own template")
    return protocol


def template_of(model: str, asked: str | None, usual: str) -> str:
    """Return the name of a LLaVA checkpoint's conversation template.

    Args:
        model: Checkpoint directory or hub name.
        asked: What --conv-mode says.
        usual: The template of checkpoints on Qwen.

    Raises:
        ValueError: There is no template of this name for questions.
    """
    if asked is not None:
        known = [name for name, made in conv_templates.items() if made.sep_style != SeparatorStyle.PLAIN]
        if asked not in known:
            raise ValueError(f"--conv-mode {asked} is no template for questions; there are {', '.join(known)}")
        return asked
    name = get_model_name_from_path(model)
    if llava_family(checkpoint_config(model), name) != "LlavaLlamaForCausalLM":
        return usual
    return next((made for part, made in LLAMA_TEMPLATES.items() if part in name.lower()), "vicuna_v1")
