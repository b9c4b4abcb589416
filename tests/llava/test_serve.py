"""`python -m llava.serve.cli`: upstream's flags become those of `vidcom2 ask`, or one clear error."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from eval.cli import parse as parse_ask
from llava.serve.cli import asking, main, parse, translated

DECODING = ["--temperature", "0.2", "--max-new-tokens", "512"]
"""Upstream's defaults."""


def command(*arguments: str, **environment: str) -> list[str]:
    return translated(*parse(["--image-file", "v.mp4", *arguments]), environment)


@pytest.mark.parametrize(
    ("typed", "environment", "expected"),
    [
        ([], {}, [*DECODING, "--compressor", "none"]),
        ([], {"COMPRESSOR": "vidcom2"}, DECODING),
        ([], {"R_RATIO": "0.25"}, DECODING),
        (["--compressor=evs"], {}, [*DECODING, "--compressor=evs"]),
        (["--compare", "What?"], {}, [*DECODING, "--compare", "What?"]),
        (
            ["--model-path", "m", "--device", "cpu", "--conv-mode", "qwen_2", "--load-4bit", "--debug"],
            {},
            [
                *("--model", "m", "--device", "cpu", "--conv-mode", "qwen_2", *DECODING),
                *("--load-4bit", "--show-prompt", "--compressor", "none"),
            ],
        ),
        (
            ["--temperature", "0", "--max-new-tokens", "9", "--load-8bit", "--num-gpus", "1"],
            {},
            ["--temperature", "0.0", "--max-new-tokens", "9", "--load-8bit", "--compressor", "none"],
        ),
    ],
)
def test_flags(typed, environment, expected):
    made = command(*typed, **environment)
    assert made == ["ask", "v.mp4", *expected]
    assert parse_ask(made).video == Path("v.mp4")  # `ask` has all of them


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (["--model-base", "vicuna"], "--model-base vicuna: LoRA checkpoints are not supported; merge it"),
        (["--num-gpus", "2"], "--num-gpus 2: upstream ignores it; --device auto"),
        (["--image-file", "https://example.org/a.jpg"], "is an address: download the video"),
    ],
)
def test_what_cannot_be_honoured(typed, line):
    with pytest.raises(ValueError, match=line):
        command(*typed)


def test_pictures(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "still.png")
    with pytest.raises(ValueError, match="is a picture, and this command line is for videos: `vidcom2 ask"):
        command("--image-file", str(tmp_path / "still.png"))
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert command("--image-file", str(tmp_path / "moving.gif"))[1].endswith("moving.gif")


def test_the_command_is_that_of_the_same_code(tmp_path):
    (tmp_path / "vidcom2_eval").mkdir()
    with pytest.raises(ValueError, match=r"pip install 'vidcom2\[eval\]'"):
        asking(tmp_path, {})
    (tmp_path / "vidcom2_eval" / "__main__.py").touch()
    assert asking(tmp_path, {"A": "1"}) == ([sys.executable, "-m", "vidcom2_eval"], {"A": "1"})
    checkout = Path(__file__).resolve().parents[2]
    expected = f"{checkout}{os.pathsep}there"
    assert asking(checkout, {"PYTHONPATH": "there"}) == ([sys.executable, "-m", "eval"], {"PYTHONPATH": expected})


def test_errors_end_the_process(monkeypatch):
    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("started"))
    with pytest.raises(SystemExit) as ended:
        main(["--image-file", "v.mp4", "--model-base", "b"])
    assert str(ended.value).startswith("error: --model-base b")
