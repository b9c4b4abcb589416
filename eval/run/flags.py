"""Flags of the commands that evaluate, and the environment variables that stand in for them.

Only this file reads settings of an evaluation from the environment. It imports no heavy library, so that --help answers
at once.
"""

from __future__ import annotations

import argparse
import os
from importlib.metadata import entry_points
from pathlib import Path

from ..benchmarks import BENCHMARKS

FAILED_QUESTIONS = 3
"""Exit status of a run that finished with failed questions, mostly because a video could not be read."""

DEFAULT_MODEL = "lmms-lab/llava-onevision-qwen2-7b-ov"
ENGINES = ("torch", "deepspeed", "vllm")
DECODERS = ("exact", "decord", "torchcodec", "pyav")
METHODS = (
    *("aot", "dycoke", "evs", "fastv", "fastvid", "flashvid", "flashvid-inside", "frames"),
    *("fresh", "gleanvid", "grid", "holitom", "none", "norm", "pdrop", "pool"),
    *("random", "simplecluster", "sparsevlm", "unicomp", "uniform", "vcast", "vidcom2", "visionzip"),
)
"""`vidcom2.METHODS`, which cannot be imported without torch. A test compares them."""
VARIABLES = (
    *("MODEL", "COMPRESSOR", "R_RATIO", "NUM_GPUS", "OUTPUT", "LIMIT", "ATTN", "DATA", "DECODER", "PARSER", "ENGINE"),
)
"""Environment variables that a flag falls back to."""


def environment() -> dict[str, str]:
    """Return the variables of VARIABLES that are set and not empty."""
    return {name: os.environ[name] for name in VARIABLES if os.environ.get(name)}


def default_model() -> str:
    """Return the model that is evaluated without --model."""
    return environment().get("MODEL", DEFAULT_MODEL)


def spec_help() -> str:
    """Explain specs of compressors, with the methods that are installed."""
    others = {entry.name for entry in entry_points(group="vidcom2.methods")} - set(METHODS)
    return f"""\
a SPEC is none (dense), or METHOD[+fca][.PRESET][@RETENTION][:SETTING=VALUE]...
  METHOD       {listed(METHODS)}
  installed    {listed(sorted(others)) if others else "no methods of other packages"}
  +fca         gives METHOD the frame budgets of VidCom²
  .PRESET      another form of METHOD, such as vidcom2.released
  @RETENTION   share of the visual tokens to keep, such as @0.25
  examples     vidcom2@0.25:rounding=exact  vidcom2.released@0.15  fastv+fca@0.5
  docs/methods.md has every method with its presets and settings
"""


def listed(names: tuple[str, ...] | list[str], indent: int = 15, width: int = 78) -> str:
    """Join names with commas, wrapped to `width` columns. Later lines are indented by `indent` columns."""
    lines = [""]
    for i, name in enumerate(names):
        word = name + ("," if i + 1 < len(names) else "")
        if lines[-1] and indent + len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return ("\n" + " " * indent).join(lines)


def add_run(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `run`."""
    what = add_evaluation(parser, "outputs/BENCHMARK/MODEL/COMPRESSOR")
    what.add_argument(
        "--compressor",
        metavar="SPEC",
        help="how the video's tokens are compressed (env: COMPRESSOR; default: vidcom2)",
    )
    what.add_argument(
        "--retention",
        metavar="R",
        type=float,
        help="share of the visual tokens to keep, if the spec does not say it (env: R_RATIO; default: the method's "
        "own, 0.25)",
    )
    add_keep(what)
    add_demo(what, "run", "evaluate a small model that comes along, dense and compressed")
    parser.set_defaults(start="run.command:prepare_run", default_of=parser.get_default)
    parser.epilog = f"""\
{spec_help()}
examples:
  %(prog)s --tasks mvbench --compressor vidcom2@0.25
  %(prog)s --tasks videomme --data /data/Video-MME --limit 100
  %(prog)s --demo --compressor uniform@0.25

{DEMO}

{OUTCOME}"""


def add_sweep(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `sweep`."""
    what = add_evaluation(parser, "outputs/BENCHMARK/MODEL")
    what.add_argument("--compressors", metavar="SPEC,...", required=True, help="the compressors to evaluate")
    add_keep(what)
    add_demo(what, "sweep", "evaluate a small model that comes along, dense and with the compressors")
    parser.set_defaults(start="run.command:prepare_sweep", default_of=parser.get_default)
    parser.epilog = f"""\
Every video is decoded and encoded once for all compressors. Each has its own
directory in --output. Finished ones stay.

{spec_help()}
examples:
  %(prog)s --tasks mvbench \\
      --compressors none,vidcom2@0.25,fastv@0.25
  %(prog)s --demo --compressors vidcom2@0.5,vidcom2@0.1

{DEMO}

{OUTCOME}"""


def add_keep(group: argparse._ArgumentGroup) -> None:
    """Declare --keep."""
    group.add_argument(
        "--keep",
        metavar="SPAN,...",
        action="append",
        help="seconds of the video whose frames keep a number of tokens that you say: 12s-15s:full, 12s-15s:50%% or "
        "12s-15s:20 (tokens per frame); the other frames share the rest of the retention (default: none)",
    )


OUTCOME = f"""\
A flag wins over its environment variable. An interrupted evaluation goes on
when it is started again. Exit status: 0 if all questions were answered,
{FAILED_QUESTIONS} if some questions failed (they are listed and count as wrong). Any other
status: the evaluation failed."""


DEMO = """\
--demo needs no download and no GPU. It makes videos, and 40 questions for each
of 9 tasks, in the schema of the benchmark of --tasks (default: mvbench), in
outputs/demo. --model is then llava-onevision (the default) or another small
model of this package. Results stay for other commands with --demo. --limit,
--output and --overwrite keep their meaning. Other flags of models, videos and
devices are refused."""


def add_demo(group: argparse._ArgumentGroup, command: str, does: str) -> None:
    """Declare --demo.

    Args:
        group: The group of flags that it belongs to.
        command: The name of the command. demo/commands.py has its function.
        does: What it does, for --help.
    """
    group.add_argument(
        "--demo",
        dest="start",
        action="store_const",
        const=f"demo.commands:prepare_{command.replace('-', '_')}",
        help=f"{does}, on videos made on the spot; see below",
    )


def add_evaluation(parser: argparse.ArgumentParser, default_output: str) -> argparse._ArgumentGroup:
    """Declare the flags that all commands share which evaluate one model on one benchmark.

    Args:
        parser: The parser of the command.
        default_output: Where the results go without --output, in words.

    Returns:
        The group of flags that say what is evaluated, for more of them.
    """
    env = environment()
    what = parser.add_argument_group("what is evaluated")
    on = parser.add_argument_group("on what")
    how = parser.add_argument_group("how")
    to = parser.add_argument_group("where to")
    what.add_argument(
        "--model",
        help=f"checkpoint directory or hub name (env: MODEL; default: {default_model().replace('%', '%%')})",
    )
    on.add_argument(
        "--tasks",
        help=f"a benchmark ({', '.join(BENCHMARKS)}), or some of its lmms-eval tasks, separated by commas; or "
        "other multiple-choice tasks of lmms-eval about single videos, or paths of task files; may be left out with "
        "--demo only",
    )
    on.add_argument(
        "--data",
        metavar="DIR",
        default=env.get("DATA"),
        type=Path,
        help="local copy of the benchmark, unpacked (env: DATA; default: downloaded from the hub)",
    )
    add_questions(on)
    add_how(how)
    to.add_argument(
        "--output",
        metavar="DIR",
        default=env.get("OUTPUT"),
        type=Path,
        help=f"directory for the results (env: OUTPUT; default: {default_output})",
    )
    to.add_argument("--overwrite", action="store_true", help="replace results that are in --output already")
    to.add_argument("--retry-failed", action="store_true", help="ask the failed questions of finished results again")
    return what


def add_questions(on: argparse._ArgumentGroup) -> None:
    """Declare which questions and frames are used."""
    env = environment()
    on.add_argument(
        "--limit",
        metavar="N",
        default=env.get("LIMIT"),
        type=int,
        help="evaluate the first N questions of each task (env: LIMIT; default: all)",
    )
    add_reading(on)
    on.add_argument(
        "--parser",
        metavar="{current,legacy}",
        default=env.get("PARSER", "current"),
        help="how raw answers are read: as lmms-eval does now, or as its release 0.5.0, the paper's, did (env: PARSER; "
        "default: %(default)s)",
    )


def add_reading(on: argparse._ArgumentGroup) -> None:
    """Declare which frames of a video are used, and what reads them."""
    on.add_argument(
        "--sampling",
        help="which frames of a video are used, such as uniform:16, fps:1,max=64 or fps:2,max=64,min=8 (2 per second, "
        "but 8 to 64 in all; default: as lmms-eval's wrapper for the model)",
    )
    on.add_argument(
        "--decoder",
        metavar=f"{{{','.join(DECODERS)}}}",
        default=environment().get("DECODER"),
        help="exact gives the frames that a player shows; the others give their own, to compare with harnesses that "
        "use them (env: DECODER; default: exact)",
    )


def add_how(how: argparse._ArgumentGroup) -> None:
    """Declare devices, precision, the engine and processes."""
    env = environment()
    how.add_argument(
        "--num-gpus",
        metavar="N",
        default=env.get("NUM_GPUS"),
        type=int,
        help="number of worker processes, one per GPU (env: NUM_GPUS; default: all visible GPUs; 1 on CPU)",
    )
    add_precision(how)
    how.add_argument(
        "--engine",
        metavar=f"{{{','.join(ENGINES)}}}",
        default=env.get("ENGINE", "torch"),
        help="torch loads a copy of the model in each process; deepspeed spreads one model over all devices by "
        "ZeRO-3; vllm answers with vLLM (env: ENGINE; default: %(default)s)",
    )
    how.add_argument(
        "--tensor-parallel-size",
        metavar="N",
        type=int,
        help="for --engine vllm: GPUs that share each copy of the model (default: 1)",
    )
    how.add_argument(
        "--zero3-config",
        metavar="FILE",
        type=Path,
        help="DeepSpeed configuration for --engine deepspeed (default: models/zero3.json of this package)",
    )
    add_processes(how)


def add_precision(how: argparse._ArgumentGroup) -> None:
    """Declare the device, the precision and the attention."""
    how.add_argument(
        "--device",
        choices=("cuda", "cpu", "auto"),
        help="auto spreads one model over all GPUs (default: cuda if there is a GPU, else cpu)",
    )
    how.add_argument(
        "--dtype",
        metavar="{float16,bfloat16,float32}",
        help="precision of the model (default: as released on a GPU, float32 on CPU)",
    )
    how.add_argument(
        "--attn",
        metavar="{eager,sdpa,flash_attention_2}",
        default=environment().get("ATTN"),
        help="attention of the LLM (env: ATTN; default: the best installed)",
    )


def add_processes(how: argparse._ArgumentGroup) -> None:
    """Declare batches, the processes that read ahead, and time limits."""
    how.add_argument(
        "--batch-size",
        metavar="N",
        type=int,
        help="questions answered together; above 1, the last bits of an answer's logits may change (default: 1; for "
        "--engine vllm 64, and 16 on a CPU)",
    )
    how.add_argument(
        "--workers",
        metavar="N",
        type=int,
        help="processes per GPU that read videos ahead; 0 reads in the process that answers (default: 4; 1 on a CPU)",
    )
    how.add_argument(
        "--preprocess",
        metavar="{exact,fast}",
        help="exact: by PIL, where videos are read; fast: the same pixels, on the model's GPU (default: exact)",
    )
    how.add_argument(
        "--timeout",
        metavar="SECONDS",
        default=300.0,
        type=float,
        help="a video that takes longer to read counts as unreadable; needs --workers (default: %(default)g)",
    )
    how.add_argument(
        "--stuck-after",
        metavar="SECONDS",
        default=3600.0,
        type=float,
        help="replace a worker on a GPU, or one of several, that says nothing for this long (default: %(default)g)",
    )


def require_at_least(least: int, arguments: argparse.Namespace, *names: str) -> None:
    """Check numbers on the command line.

    Args:
        least: The smallest number allowed.
        arguments: The command line.
        names: Names of the arguments to check. An argument that is None passes.

    Raises:
        ValueError: A number is too small.
    """
    for name in names:
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise ValueError(f"--{name.replace('_', '-')} {value} must be at least {least}")


def status(failed: int) -> int:
    """Return the exit status of an evaluation with this number of failed questions."""
    return FAILED_QUESTIONS if failed else 0
