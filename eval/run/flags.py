"""What the subcommands that evaluate have in common: flags, what they mean, exit status.

Environment variables are read here and in eval/cli.py, and nowhere else.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from llava.mm_utils import get_model_name_from_path

from ..benchmarks import select_tasks
from ..models import protocol_for
from ..models.zero3 import CONFIG
from .config import RunConfig

FAILED_QUESTIONS = 3
"""Exit status of a run that finished, but has questions that failed, mostly because a video could not be read."""

ENGINES = ("torch", "deepspeed")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """How to evaluate; not what, on what, and where to."""
    env = os.environ
    parser.add_argument(
        "--num-gpus", default=env.get("NUM_GPUS") or None, type=int, help="processes; all GPUs if unset"
    )
    parser.add_argument("--limit", default=env.get("LIMIT") or None, type=int, help="questions per task")
    parser.add_argument("--attn", default=env.get("ATTN") or None, help="eager, sdpa or flash_attention_2")
    parser.add_argument("--sampling", help="frames, such as uniform:16 or fps:1.0:max64")
    parser.add_argument("--dtype", help="float16, bfloat16 or float32; on GPUs as released, on CPU float32")
    parser.add_argument("--device", choices=("cuda", "cpu", "auto"), help="auto: one model over all GPUs")
    parser.add_argument(
        "--parser",
        default=env.get("PARSER") or "current",
        help="whose reading of raw answers counts: current, or legacy for lmms-eval 0.5.0's, the paper's",
    )
    parser.add_argument("--workers", type=int, help="processes per GPU that read videos ahead; 4, on CPU 0: none")
    parser.add_argument(
        "--batch-size", default=1, type=int, help="questions answered together; their last bits may differ from alone"
    )
    parser.add_argument(
        "--decoder",
        default=env.get("DECODER") or None,
        help="exact: the frames that a player shows; decord, torchcodec, pyav: what these give; exact if unset",
    )
    parser.add_argument(
        "--preprocess", help="exact: PIL, where videos are read; fast: the same pixels on the model's device, for GPUs"
    )
    parser.add_argument(
        "--engine",
        default=env.get("ENGINE") or "torch",
        help="torch, or deepspeed: one model over all devices, by ZeRO-3",
    )
    parser.add_argument("--zero3-config", type=Path, help="for --engine deepspeed; eval/models/zero3.json if unset")
    parser.add_argument("--retry-failed", action="store_true", help="of finished results, ask what failed again")
    parser.add_argument("--timeout", default=300.0, type=float, help="seconds for one video, with workers")
    parser.add_argument(
        "--stuck-after",
        default=3600.0,
        type=float,
        help="seconds after which a process that answers, one of several or on a GPU, and says nothing is replaced",
    )


def run_config(arguments: argparse.Namespace, spec: str) -> RunConfig:
    """Without --output, the directory for all of the model's runs on the benchmark."""
    import torch

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


def status(failed: int) -> int:
    return FAILED_QUESTIONS if failed else 0
