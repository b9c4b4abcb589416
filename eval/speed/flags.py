"""Flags of `bench` and its six benchmarks. Imports no heavy library."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..run.flags import spec_help

EXAMPLES = {
    "operator": "--sizes 32x196x3584 --repeats 5",
    "decode": "--seconds 10,60 --frames 16",
    "preprocess": "--sizes 1280x720 --frames 16",
    "tower": "--frames 2",
    "pipeline": "--videos 1 --per-video 3",
    "serving": "--concurrent 1,4 --repeats 1",
}
"""An example of each benchmark's flags."""
RANDOM_WEIGHTS = ("llava-onevision-7b", "llava-video-7b", "qwen2-vl-7b", "tiny-tower-0.5b", "tiny")
"""`models.random_weights.PRESETS`, which cannot be imported without torch. A test compares them."""
DTYPES = "{float16,bfloat16,float32}"


def add_bench(parser: argparse.ArgumentParser) -> None:
    """Declare the benchmarks and their flags."""
    benchmarks = parser.add_subparsers(dest="what", required=True, metavar="BENCHMARK", title="benchmarks")
    add_operator(benchmarks)
    add_decode(benchmarks)
    add_preprocess(benchmarks)
    add_tower(benchmarks)
    add_pipeline(benchmarks)
    add_serving(benchmarks)
    parser.epilog = "%(prog)s BENCHMARK --help explains a benchmark."


def add_operator(benchmarks: argparse._SubParsersAction) -> None:
    """Declare the flags of `bench operator`."""
    what, how = add_benchmark(benchmarks, "operator", "VidCom²'s selection, against a slow reference", repeats=20)
    what.add_argument(
        "--sizes",
        metavar="TxMxD,...",
        default="32x196x3584,64x169x3584,128x196x3584",
        help="sizes of the random features: frames x tokens per frame x hidden size (default: %(default)s)",
    )
    what.add_argument(
        "--methods",
        metavar="SPEC,...",
        help='methods to compare with vidcom2, or "all" (default: only VidCom², with a slow reference)',
    )
    what.add_argument("--vllm", action="store_true", help="compare with vLLM's own operator of VidCom² instead")
    how.add_argument("--dtype", metavar=DTYPES, help="of the features (default: bfloat16 on a GPU, float32 on CPU)")
    how.add_argument("--compile", action="store_true", help="measure the selections with torch.compile, too")
    benchmarks.choices["operator"].set_defaults(start="speed.operator:prepare_operator")


def add_decode(benchmarks: argparse._SubParsersAction) -> None:
    """Declare the flags of `bench decode`."""
    what, _ = add_benchmark(
        benchmarks, "decode", "evenly spaced frames of H.264 files, with every decoder", repeats=5, device=False
    )
    what.add_argument(
        "--seconds",
        metavar="N,...",
        default="10,180,3600",
        help="lengths of the videos, multiples of 10 (default: %(default)s)",
    )
    what.add_argument(
        "--size", metavar="WxH", default="640x360", help="pixels of their frames, both even (default: %(default)s)"
    )
    what.add_argument(
        "--frames", metavar="T", default=32, type=int, help="frames read from each video (default: %(default)s)"
    )
    what.add_argument(
        "--source",
        metavar="VIDEO",
        type=Path,
        help="a video file to make the videos of (default: hills with grain are drawn)",
    )
    what.add_argument(
        "--grain",
        metavar="SIGMA",
        type=float,
        help="standard deviation of the grain, in levels of 255 (default: 2)",
    )
    benchmarks.choices["decode"].set_defaults(start="speed.decode:prepare_decode")


def add_preprocess(benchmarks: argparse._SubParsersAction) -> None:
    """Declare the flags of `bench preprocess`."""
    what, _ = add_benchmark(benchmarks, "preprocess", "frames to a SigLIP tower's pixels: exact, fast", repeats=5)
    what.add_argument(
        "--sizes", metavar="WxH,...", default="640x360,1920x1080", help="pixels of frames (default: %(default)s)"
    )
    what.add_argument(
        "--frames", metavar="T", default=32, type=int, help="frames preprocessed together (default: %(default)s)"
    )
    what.add_argument(
        "--tower",
        metavar="PIXELS",
        default=384,
        type=int,
        help="width and height that the tower takes (default: %(default)s)",
    )
    benchmarks.choices["preprocess"].set_defaults(start="speed.preprocess:prepare_preprocess")


def add_tower(benchmarks: argparse._SubParsersAction) -> None:
    """Declare the flags of `bench tower`."""
    what, how = add_benchmark(benchmarks, "tower", "parts of a vision tower, as they are and otherwise", repeats=5)
    what.add_argument(
        "--tower",
        metavar="NAME",
        default="google/siglip-so400m-patch14-384",
        help="the tower's dimensions: google/siglip-so400m-patch14-384, openai/clip-vit-large-patch14 or "
        "openai/clip-vit-large-patch14-336 (default: %(default)s)",
    )
    what.add_argument("--frames", metavar="T", default=4, type=int, help="frames at a time (default: %(default)s)")
    how.add_argument("--dtype", metavar=DTYPES, help="of the weights (default: float16 on a GPU, float32 on CPU)")
    how.add_argument("--compile", action="store_true", help="measure a layer with torch.compile, too")
    benchmarks.choices["tower"].set_defaults(start="speed.tower:prepare_tower")


def add_pipeline(benchmarks: argparse._SubParsersAction) -> None:
    """Declare the flags of `bench pipeline`."""
    what, how = add_benchmark(
        benchmarks, "pipeline", "video files to answers: shared videos, reading ahead, batches", repeats=3
    )
    add_model(what, None, "the demo model")
    add_videos(what)
    what.add_argument(
        "--per-video", metavar="N,...", default="1,3", help="numbers of questions on each video (default: %(default)s)"
    )
    how.add_argument(
        "--workers", metavar="N", default=1, type=int, help="processes that read ahead (default: %(default)s)"
    )
    how.add_argument(
        "--batch-size", metavar="N,...", default="8", help="numbers of questions in a batch (default: %(default)s)"
    )
    how.add_argument(
        "--vllm", action="store_true", help="measure --engine vllm, too, from an environment that has vLLM"
    )
    how.add_argument("--brief", action="store_true", help="measure one by one and batches only")
    how.add_argument("--dtype", metavar=DTYPES, help=DTYPE)
    benchmarks.choices["pipeline"].set_defaults(start="speed.pipeline:prepare_pipeline")
    benchmarks.choices["pipeline"].epilog += f"\n\n{spec_help()}"


def add_serving(benchmarks: argparse._SubParsersAction) -> None:
    """Declare the flags of `bench serving`."""
    what, how = add_benchmark(benchmarks, "serving", "two servers of vLLM under load, dense and compressed", repeats=3)
    add_model(what, None, "the demo model")
    add_videos(what)
    what.add_argument(
        "--concurrent",
        metavar="N,...",
        default="1,8,32",
        help="requests that are open at a time (default: %(default)s)",
    )
    how.add_argument("--dtype", metavar=DTYPES, help=DTYPE)
    benchmarks.choices["serving"].set_defaults(start="speed.serving:prepare_serving")
    benchmarks.choices["serving"].epilog += f"\n\n{spec_help()}"


def add_videos(what: argparse._ArgumentGroup) -> None:
    """Declare what is compressed, and the videos of MiniBench that are asked about."""
    what.add_argument(
        "--compressor", metavar="SPEC", default="vidcom2@0.25", help="measured beside dense (default: %(default)s)"
    )
    what.add_argument("--sampling", help="frames of a video (default: the model's own; of the demo model uniform:16)")
    what.add_argument(
        "--videos", metavar="N", default=2, type=int, help="videos of each task of MiniBench (default: %(default)s)"
    )
    what.add_argument(
        "--duration",
        default="short",
        choices=("short", "medium", "long"),
        help="length of the videos: 4, 12 or 40 s (default: %(default)s)",
    )
    what.add_argument(
        "--zoom", metavar="N", default=2, type=int, help="frames are 72 x N pixels wide and high (default: %(default)s)"
    )
    what.add_argument(
        "--new-tokens", metavar="N", default=16, type=int, help="most tokens of an answer (default: %(default)s)"
    )


DTYPE = "of the model (default: as released on a GPU, bfloat16 for random weights; float32 on CPU)"

Groups = tuple[argparse._ArgumentGroup, argparse._ArgumentGroup]


def add_benchmark(
    benchmarks: argparse._SubParsersAction, name: str, summary: str, repeats: int, device: bool = True
) -> Groups:
    """Declare a benchmark and the flags that all have.

    Args:
        benchmarks: The benchmarks of `bench`.
        name: Its name.
        summary: What it measures, in a line.
        repeats: Default of --repeats.
        device: Can it run on a GPU?

    Returns:
        The groups for flags that say what is measured and how.
    """
    parser = benchmarks.add_parser(
        name,
        help=summary,
        description=f"Measure {summary}.",
        epilog=f"example:\n  %(prog)s {EXAMPLES[name]}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what, how = parser.add_argument_group("what is measured"), parser.add_argument_group("how")
    how.add_argument(
        "--repeats", metavar="N", default=repeats, type=int, help="rounds, at least 2 (default: %(default)s)"
    )
    if device:
        add_device(how)
    to = parser.add_argument_group("where to")
    to.add_argument(
        "--json", metavar="FILE", type=Path, help="write every time, the machine and the settings to this file, too"
    )
    return what, how


def add_device(how: argparse._ArgumentGroup) -> None:
    """Declare --device."""
    how.add_argument(
        "--device", choices=("cuda", "cpu"), help="where to compute (default: cuda if there is a GPU, else cpu)"
    )


def add_model(what: argparse._ArgumentGroup, default: str | None, in_words: str) -> None:
    """Declare --model, and --random-weights instead of it.

    Args:
        what: The group of flags that say what is measured.
        default: Default of --model.
        in_words: The same, in words.
    """
    model = what.add_mutually_exclusive_group()
    model.add_argument("--model", default=default, help=f"checkpoint directory or hub name (default: {in_words})")
    model.add_argument(
        "--random-weights",
        metavar="CONFIG",
        help=f"no checkpoint, but a model of these dimensions: {', '.join(RANDOM_WEIGHTS)}, or a config.json",
    )
