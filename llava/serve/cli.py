"""`python -m llava.serve.cli`: upstream's command line, for videos. It becomes the command `vidcom2 ask`.

Flags have upstream's names and defaults. As in other command lines written for upstream, COMPRESSOR and R_RATIO choose
what compresses the video, and nothing does if they are unset. The flags of `vidcom2 ask` may follow, and win.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from PIL import Image, UnidentifiedImageError

ROOT = Path(__file__).resolve().parents[2]
"""The checkout, or the directory that packages are installed in."""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Replace this process by `vidcom2 ask`.

    Args:
        argv: The arguments. None for those of this process.
    """
    try:
        asked = translated(*parse(argv), os.environ)
        command, environment = asking(ROOT, os.environ)
    except ValueError as error:
        sys.exit(f"error: {error}")
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(command[0], [*command, *asked], environment)


def parse(argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """Parse upstream's flags. Returns them, and the other arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m llava.serve.cli",
        description="Ask a model about a video, line by line. An empty line ends.",
        epilog="Other flags are those of vidcom2 ask, such as --frames 16 or --compare.",
        allow_abbrev=False,
    )
    parser.add_argument("--model-path", help="checkpoint directory or hub name (default: the demo model)")
    parser.add_argument("--model-base", help="not supported: merge a LoRA checkpoint into its base")
    parser.add_argument("--image-file", required=True, help="the video file")
    parser.add_argument("--device", help="cuda, cpu or auto (default: cuda if there is a GPU, else cpu)")
    parser.add_argument("--num-gpus", type=int, default=1, help="1; --device auto takes all GPUs")
    parser.add_argument("--conv-mode", help="conversation template (default: by the checkpoint)")
    parser.add_argument("--temperature", type=float, default=0.2, help="0 is greedy (default: %(default)s)")
    parser.add_argument("--max-new-tokens", type=int, default=512, help="longest answer (default: %(default)s)")
    parser.add_argument("--load-8bit", action="store_true", help="hold the LLM in 8 bits")
    parser.add_argument("--load-4bit", action="store_true", help="hold the LLM in 4 bits")
    parser.add_argument("--debug", action="store_true", help="print each prompt")
    return parser.parse_known_args(argv)


def translated(flags: argparse.Namespace, others: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """Return the command `ask` with its arguments.

    Args:
        flags: Upstream's flags.
        others: Arguments of `vidcom2 ask`. They come last, so that they win.
        environment: The environment variables.

    Raises:
        ValueError: A flag cannot be honoured.
    """
    if flags.model_base is not None:
        raise ValueError(
            f"--model-base {flags.model_base}: LoRA checkpoints are not supported; merge it into its base, and name "
            "the result by --model-path"
        )
    if flags.num_gpus != 1:
        raise ValueError(f"--num-gpus {flags.num_gpus}: upstream ignores it; --device auto takes all GPUs")
    require_video(flags.image_file)
    asked = ["ask", flags.image_file]
    for name, value in (("--model", flags.model_path), ("--device", flags.device), ("--conv-mode", flags.conv_mode)):
        asked += [] if value is None else [name, value]
    asked += ["--temperature", str(flags.temperature), "--max-new-tokens", str(flags.max_new_tokens)]
    asked += ["--load-8bit"] * flags.load_8bit + ["--load-4bit"] * flags.load_4bit + ["--show-prompt"] * flags.debug
    named = {argument.partition("=")[0] for argument in others}
    chosen = named & {"--compressor", "--retention", "--compare"} or environment.get("COMPRESSOR")
    if not chosen and not environment.get("R_RATIO"):
        asked += ["--compressor", "none"]
    return [*asked, *others]


def require_video(file: str) -> None:
    """Refuse what upstream takes and is no video.

    Raises:
        ValueError: It is an address or a picture.
    """
    if file.startswith(("http://", "https://")):
        raise ValueError(f"--image-file {file} is an address: download the video, and name the file")
    try:
        with Image.open(file) as picture:
            still = not getattr(picture, "is_animated", False)
    except (OSError, UnidentifiedImageError):  # no picture; whether it is a video, the command tells
        return
    if still:
        raise ValueError(
            f"--image-file {file} is a picture, and this command line is for videos: `vidcom2 ask {file}` takes it for "
            "a video of one frame; in Python, llava has upstream's way to ask about pictures (process_images)"
        )


def asking(root: Path, environment: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """Return the command that belongs to this code, without its subcommand, and the environment that it needs.

    Args:
        root: The directory that `llava` is in.
        environment: The present environment.

    Raises:
        ValueError: There is none.
    """
    if (root / "vidcom2_eval" / "__main__.py").is_file():
        return [sys.executable, "-m", "vidcom2_eval"], {**environment}
    if not (root / "eval" / "cli.py").is_file() or not (root / "vidcom2").is_dir():
        raise ValueError(f"{root} has llava without the command vidcom2: pip install 'vidcom2[eval]'")
    path = os.pathsep.join(filter(None, (str(root), environment.get("PYTHONPATH"))))
    return [sys.executable, "-m", "eval"], {**environment, "PYTHONPATH": path}  # a checkout


if __name__ == "__main__":
    main()
