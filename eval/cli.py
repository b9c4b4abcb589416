"""python -m eval: the command line behind scripts/. Environment variables are read here and nowhere else."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from eval.benchmarks import select_tasks
from eval.launch import launch, processes
from eval.models import protocol_for
from eval.run import RunConfig
from llava.mm_utils import get_model_name_from_path
from vidcom2 import METHODS, compressor

DEFAULT_MODEL = "lmms-lab/llava-onevision-qwen2-7b-ov"
FAILED_QUESTIONS = 3
"""Exit status of a run that finished, but had questions whose video could not be read."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m eval", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    add_run(commands)
    arguments = parser.parse_args(argv)
    try:
        start = arguments.prepare(arguments)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return start()


def add_run(commands: argparse._SubParsersAction) -> None:
    env = os.environ
    run = commands.add_parser(
        "run",
        help="evaluate a model on a benchmark",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        epilog="Defaults come from MODEL, COMPRESSOR, R_RATIO, NUM_GPUS, OUTPUT, LIMIT, ATTN and DATA where set. "
        f"Exit status: 0 all questions answered, {FAILED_QUESTIONS} some videos unreadable (listed), 1 failed.",
    )
    run.add_argument("--tasks", required=True, help="a benchmark (mvbench), or some of its lmms-eval tasks")
    run.add_argument("--model", default=env.get("MODEL") or DEFAULT_MODEL, help="checkpoint directory or hub name")
    run.add_argument(
        "--compressor",
        default=env.get("COMPRESSOR") or "vidcom2",
        help=f"none, or one of {', '.join(METHODS)} with settings, such as vidcom2@0.25:rounding=exact",
    )
    run.add_argument("--retention", default=env.get("R_RATIO") or None, type=float, help="share of tokens to keep")
    run.add_argument("--num-gpus", default=env.get("NUM_GPUS") or None, type=int, help="processes; all GPUs if unset")
    run.add_argument("--output", default=env.get("OUTPUT") or None, type=Path, help="directory for the results")
    run.add_argument("--overwrite", action="store_true", help="replace results that are in --output already")
    run.add_argument("--limit", default=env.get("LIMIT") or None, type=int, help="questions per task")
    run.add_argument("--attn", default=env.get("ATTN") or None, help="eager, sdpa or flash_attention_2")
    run.add_argument("--data", default=env.get("DATA") or None, type=Path, help="local benchmark instead of the hub")
    run.add_argument("--sampling", default=None, help="frames, such as uniform:16 or fps:1.0:max64")
    run.add_argument("--dtype", default=None, help="float16, bfloat16 or float32; on GPUs as released, on CPU float32")
    run.add_argument("--device", default=None, help="cuda, cpu, or auto (one model over all GPUs)")
    run.add_argument("--demo", action="store_true", help="a tiny random model on a tiny benchmark, both made here")
    run.set_defaults(prepare=prepare_run)


def make_demo(benchmark: str, root: Path) -> tuple[str, Path]:
    """A tiny checkpoint and a small edition of the benchmark, made anew in `root`."""
    from eval.demo.benchmark import make_mvbench
    from eval.demo.checkpoint import make_checkpoint
    from eval.demo.minibench import WRITERS

    shutil.rmtree(root, ignore_errors=True)
    print("demo: the model's weights are random, so its accuracy is chance; only the pipeline is real", file=sys.stderr)
    data = make_mvbench(root / benchmark) if benchmark == "mvbench" else WRITERS[benchmark](root / benchmark, 2)
    return str(make_checkpoint(root, "onevision")), data


def prepare_run(arguments: argparse.Namespace) -> Callable[[], int]:
    """Check everything that can be checked before the model is loaded; returns what does the rest."""
    import torch

    benchmark, _ = select_tasks(arguments.tasks)
    if arguments.demo:
        arguments.model, arguments.data = make_demo(benchmark.name, Path("outputs/demo"))
        arguments.overwrite = True
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    settings = {} if arguments.retention is None else {"retention": arguments.retention}
    chosen = compressor(arguments.compressor, **settings)
    spec = chosen.spec if chosen else "none"
    name = get_model_name_from_path(arguments.model)
    config = RunConfig(
        model=arguments.model,
        tasks=arguments.tasks,
        compressor=spec,
        output=arguments.output or Path("outputs") / benchmark.name / name / spec.replace(":", "_"),
        data=arguments.data,
        limit=arguments.limit,
        sampling=arguments.sampling,
        attn=arguments.attn,
        dtype=arguments.dtype or ("float32" if device == "cpu" else protocol_for(arguments.model).default_dtype),
        device=device,
        overwrite=arguments.overwrite,
    )
    config.check()
    count = processes(arguments.num_gpus, device)
    return lambda: FAILED_QUESTIONS if launch(config, count) else 0
