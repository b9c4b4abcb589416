"""The commands `run` and `sweep`: from flags to checked configurations."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path

import torch

from llava.mm_utils import get_model_name_from_path
from vidcom2 import Compressor, Dense, compressor

from ..benchmarks import BENCHMARKS, select_tasks
from ..models import Protocol, protocol_for
from ..models.served import in_flight, served
from ..models.zero3 import CONFIG
from .config import RunConfig
from .distributed import World
from .evaluate import evaluate_runs, report_finished
from .flags import ENGINES, default_model, environment, status
from .sweep import Sweep, folder, split_specs


def prepare_run(arguments: argparse.Namespace) -> Callable[[], int]:
    """Check everything that can be checked before the model is loaded. Return a function that evaluates.

    Raises:
        ValueError, OSError, ImportError: The run cannot work as asked.
    """
    config = run_config(arguments, chosen_compressor(arguments.compressor, arguments.retention, environment()))
    config = replace(config, compressor=as_run(config, config.compressor))
    require_keeping(config.keep, [config.compressor])
    if arguments.output is None:
        config = replace(config, output=config.output / folder(config.compressor.spec))
    config.check()
    world = join(arguments, config)
    return lambda: status(report_finished(config, world) if config.done else evaluate_runs([config], world))


def prepare_sweep(arguments: argparse.Namespace) -> Callable[[], int]:
    """Check everything that can be checked before the model is loaded. Return a function that evaluates.

    Raises:
        ValueError, OSError, ImportError: One of the runs cannot work as asked.
    """
    config = run_config(arguments)
    chosen = [as_run(config, one) for one in split_specs(arguments.compressors)]
    require_keeping(config.keep, chosen)
    sweep = Sweep(config, list(dict.fromkeys(chosen)))
    sweep.check()
    world = join(arguments, config)
    return lambda: status(sweep.run(world))


def require_keeping(keep: str | None, compressors: Sequence[Compressor]) -> None:
    """Refuse --keep where no compressor drops anything. Beside others, a dense run keeps every second anyway.

    Raises:
        ValueError: None drops anything.
    """
    if keep is not None and not any(one.drops for one in compressors):
        raise ValueError(f"--keep {keep} has no effect on {compressors[0].spec}, which keeps every token: leave it out")


def join(arguments: argparse.Namespace, config: RunConfig) -> World:
    """Join the other processes of the run. Raises ValueError as `World.join`."""
    return World.join(arguments.num_gpus, config.device, config.zero3 is not None, config.tensor_parallel)


def as_run(config: RunConfig, asked: Compressor) -> Compressor:
    """Return a compressor as the engine runs it. vLLM has to know beforehand how many tokens stay.

    Raises:
        ValueError: The engine cannot run it.
    """
    return as_served(asked, config.protocol()) if config.engine == "vllm" else asked


def as_served(asked: Compressor, protocol: Protocol) -> Compressor:
    """Return a compressor as vLLM runs it on models of a protocol. Say so if it is another one.

    Raises:
        ValueError: vLLM cannot run it.
    """
    exact = served(asked, protocol)
    if exact != asked:
        print(f"note: for {asked.spec}, vLLM runs {exact.spec}, whose totals are known beforehand", file=sys.stderr)
    return exact


def chosen_compressor(spec: str | None, retention: float | None, env: Mapping[str, str]) -> Compressor:
    """Return the compressor that the flags ask for, or else the environment. A flag wins over its variable.

    Args:
        spec: --compressor. Its variable is COMPRESSOR.
        retention: --retention. Its variable is R_RATIO.
        env: The environment variables.

    Raises:
        ValueError: A spec is wrong, two retentions are given, or one for a model without a compressor.
    """
    text = spec or env.get("COMPRESSOR") or "vidcom2"
    named, tells = compressor(text), "@" in text or ":retention=" in text
    source, ratio = f"--retention {retention}", env.get("R_RATIO")
    if not named.drops and retention is not None:
        raise ValueError(f"{source} with compressor {text}, which compresses nothing: leave one of them out")
    if retention is None and ratio and named.drops and not (tells and spec):
        source = f"R_RATIO={ratio}"
        try:
            retention = float(ratio)
        except ValueError as error:
            raise ValueError(f"{source} is no number, such as 0.25") from error
    if retention is None:
        return named
    chosen = compressor(text, retention=retention)
    if tells and chosen != named:
        raise ValueError(f"compressor {text} and {source} tell two retentions: leave one of them out")
    return chosen


def run_config(arguments: argparse.Namespace, chosen: Compressor | None = None) -> RunConfig:
    """Turn flags into a configuration. Without --output, its output is the directory of all runs of the model.

    Every field of `RunConfig` is the flag of that name, but for those that depend on others.

    Args:
        arguments: The parsed flags of `flags.add_evaluation`.
        chosen: The compressor. None: dense.

    Raises:
        ValueError, OSError, ImportError: A flag has a wrong value, or the model has no protocol.
    """
    if arguments.tasks is None:
        raise ValueError(f"--tasks is missing: name a benchmark, such as --tasks {next(iter(BENCHMARKS))}")
    model = arguments.model or default_model()
    benchmark, _ = select_tasks(arguments.tasks)
    if arguments.engine not in ENGINES:  # argparse does not look at what ENGINE says
        raise ValueError(f"--engine (ENGINE) {arguments.engine!r} is unknown; there are {', '.join(ENGINES)}")
    if arguments.zero3_config is not None and arguments.engine != "deepspeed":
        raise ValueError(f"--zero3-config {arguments.zero3_config} is for --engine deepspeed")
    vllm = arguments.engine == "vllm"
    if arguments.tensor_parallel_size is not None and not vllm:
        raise ValueError(f"--tensor-parallel-size {arguments.tensor_parallel_size} is for --engine vllm")
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    flags = {field.name: vars(arguments)[field.name] for field in fields(RunConfig) if field.name in arguments}
    dependent = {
        "model": model,
        "compressor": chosen or Dense(),
        "output": arguments.output or Path("outputs") / benchmark.name / get_model_name_from_path(model),
        "dtype": arguments.dtype or ("float32" if device == "cpu" else protocol_for(model).default_dtype),
        "keep": ",".join(arguments.keep) if getattr(arguments, "keep", None) else None,
        "device": device,
        "workers": arguments.workers if arguments.workers is not None else 1 if device == "cpu" else 4,
        "tensor_parallel": (1 if (n := arguments.tensor_parallel_size) is None else n) if vllm else None,
        "batch_size": arguments.batch_size if arguments.batch_size is not None else in_flight(device) if vllm else 1,
        "zero3": (arguments.zero3_config or CONFIG) if arguments.engine == "deepspeed" else None,
    }
    return RunConfig(**{**flags, **dependent})
