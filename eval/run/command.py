"""The commands `run` and `sweep`: from flags to checked configurations."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from llava.mm_utils import get_model_name_from_path

from ..benchmarks import select_tasks
from ..models import protocol_for
from ..models.zero3 import CONFIG
from .config import RunConfig
from .distributed import Place
from .evaluate import run, stay
from .flags import ENGINES, environment, status
from .sweep import Sweep, canonical, folder, split_specs


def prepare_run(arguments: argparse.Namespace) -> Callable[[], int]:
    """Check everything that can be checked before the model is loaded. Return a function that evaluates.

    Raises:
        ValueError, OSError, ImportError: The run cannot work as asked.
    """
    config = run_config(arguments, chosen_spec(arguments.compressor, arguments.retention, environment()))
    if arguments.output is None:
        config = replace(config, output=config.output / folder(config.compressor))
    config.check()
    place = Place.find(arguments.num_gpus, config.device, config.zero3 is not None)
    return lambda: status(stay(config, place) if config.done else run([config], place))


def prepare_sweep(arguments: argparse.Namespace) -> Callable[[], int]:
    """Check everything that can be checked before the model is loaded. Return a function that evaluates.

    Raises:
        ValueError, OSError, ImportError: One of the runs cannot work as asked.
    """
    sweep = Sweep(run_config(arguments, "none"), split_specs(arguments.compressors))
    sweep.check()
    place = Place.find(arguments.num_gpus, sweep.config.device, sweep.config.zero3 is not None)
    return lambda: status(sweep.run(place))


def chosen_spec(spec: str | None, retention: float | None, env: Mapping[str, str]) -> str:
    """Return the spec that the flags ask for, or else the environment. A flag wins over its variable.

    Args:
        spec: --compressor. Its variable is COMPRESSOR.
        retention: --retention. Its variable is R_RATIO.
        env: The environment variables.

    Raises:
        ValueError: Two retentions are given, or one for a model without a compressor.
    """
    named = spec or env.get("COMPRESSOR") or "vidcom2"
    dense, tells = canonical(named) == "none", "@" in named or ":retention=" in named
    source, ratio = f"--retention {retention}", env.get("R_RATIO")
    if dense and retention is not None:
        raise ValueError(f"{source} with compressor {named}, which compresses nothing: leave one of them out")
    if retention is None and ratio and not dense and not (tells and spec):
        source = f"R_RATIO={ratio}"
        try:
            retention = float(ratio)
        except ValueError as error:
            raise ValueError(f"{source} is no number, such as 0.25") from error
    if retention is None:
        return canonical(named)
    chosen = canonical(named, retention=retention)
    if tells and chosen != canonical(named):
        raise ValueError(f"compressor {named} and {source} tell two retentions: leave one of them out")
    return chosen


def run_config(arguments: argparse.Namespace, spec: str) -> RunConfig:
    """Turn flags into a configuration. Without --output, its output is the directory of all runs of the model.

    Raises:
        ValueError, OSError, ImportError: A flag has a value that cannot be, or the model has no protocol.
    """
    benchmark, _ = select_tasks(arguments.tasks)
    if arguments.engine not in ENGINES:  # argparse does not look at what ENGINE says
        raise ValueError(f"--engine (ENGINE) {arguments.engine!r} is unknown; there are {', '.join(ENGINES)}")
    if arguments.zero3_config is not None and arguments.engine != "deepspeed":
        raise ValueError(f"--zero3-config {arguments.zero3_config} is for --engine deepspeed")
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return RunConfig(
        model=arguments.model,
        tasks=arguments.tasks,
        compressor=spec,
        output=arguments.output or Path("outputs") / benchmark.name / get_model_name_from_path(arguments.model),
        data=arguments.data,
        limit=arguments.limit,
        sampling=arguments.sampling,
        attn=arguments.attn,
        dtype=arguments.dtype or ("float32" if device == "cpu" else protocol_for(arguments.model).default_dtype),
        device=device,
        overwrite=arguments.overwrite,
        retry_failed=arguments.retry_failed,
        parser=arguments.parser,
        workers=arguments.workers if arguments.workers is not None else 0 if device == "cpu" else 4,
        timeout=arguments.timeout,
        stuck_after=arguments.stuck_after,
        decoder=arguments.decoder,
        batch_size=arguments.batch_size,
        preprocess=arguments.preprocess,
        zero3=(arguments.zero3_config or CONFIG) if arguments.engine == "deepspeed" else None,
    )
