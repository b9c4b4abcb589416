"""What identifies a run: everything that can change its answers. Other differences between two runs are only noted."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

import vidcom2

from ..benchmarks import Benchmark
from ..results.provenance import git_commit
from ..results.settings import flat

CHECKPOINT = (".safetensors", ".json", ".txt", ".model", ".jinja")
"""Ends of the names of a checkpoint's files that a model is loaded from."""
ANSWERING = ("vidcom2", "llava", "eval/models", "eval/run/worker.py")
"""Our code that can change an answer: packages, folders and files."""
WHOLE = 64 << 20
"""A file of up to this many bytes is digested as a whole. Of a larger one, the first PAGE bytes of every STRIDE are."""
PAGE, STRIDE = 4 << 10, 1 << 20

NOTED = ("model", "data", "code.commit")
"""Settings that change no answer: weights and questions have digests of their own, wherever they are."""
OF_QUESTIONS = "questions"
"""The setting that may differ between a run and its continuation: each answer is matched with its question."""
USED_WITH = {
    "decord": ("decoder", "decord"),
    "torchcodec": ("decoder", "torchcodec"),
    "flash-attn": ("attention", "flash_attention_2"),
    "deepspeed": ("engine", "deepspeed"),
    "accelerate": ("device", "auto"),
}
"""Packages that change answers only under a setting: (its name, its value)."""


def weights(model: str) -> str:
    """Return what identifies the content of a checkpoint.

    Args:
        model: A hub name, whose files are in the cache already, or a local directory.

    Returns:
        The commit on the hub, or a digest of the local files. Of large files, one page in every MiB counts. So a
        replaced tensor of less than 1 MiB can go unnoticed.

    Raises:
        ValueError: The hub's cache does not have the checkpoint's config.json, which tells the commit.
    """
    directory = Path(model)
    if not directory.is_dir():
        config = try_to_load_from_cache(model, "config.json")
        if not isinstance(config, str):
            raise ValueError(f"--model {model}: its config.json is not in the hub's cache, so its commit is unknown")
        return Path(config).parent.name
    files = (file for file in directory.iterdir() if file.suffix in CHECKPOINT and file.is_file())
    return _digest({file.name: file for file in sorted(files)})


def questions(benchmark: Benchmark, tasks: Sequence[str], data: Path | None) -> str | None:
    """Return a digest of the local files that hold the tasks' questions, or None for questions from the hub."""
    if data is None:
        return None
    files = [
        Path(file)
        for task in tasks
        for named in benchmark.local(task, data)["dataset_kwargs"]["data_files"].values()
        for file in ([named] if isinstance(named, str) else named)
    ]
    return _digest({str(file.relative_to(data)): file for file in files})


@lru_cache(maxsize=1)  # what runs is the code that was there when the process began
def code() -> dict[str, str | None]:
    """Return our version, the commit of the checkout (None outside one), and a digest of `ANSWERING`."""
    package = Path(__file__).parents[1]  # eval/, installed as vidcom2_eval/: the digest is the same
    files = {}
    for part in ANSWERING:
        top, _, below = part.partition("/")
        place = package / below if top == "eval" else package.with_name(top) / below
        for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            files[f"{part}/{file.relative_to(place).as_posix()}" if place.is_dir() else part] = file
    return {"version": vidcom2.__version__, "commit": git_commit(), "sources": _digest(files)}


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], finished: bool = False
) -> tuple[list[str], list[str]]:
    """Compare the settings of two runs.

    Args:
        before: The earlier run's settings, see `RunConfig.settings`.
        now: The later run's.
        finished: The earlier run's questions cannot be compared one by one any more.

    Returns:
        The differences that can change answers, and those that cannot, one line each.
    """
    left, right = dict(flat(before)), dict(flat(now))
    telling: list[str] = []
    others: list[str] = []
    for name in {**left, **right}:
        if left.get(name) != right.get(name):
            harmless = name in NOTED or (name == OF_QUESTIONS and not finished) or _unused(name, right)
            line = f"{name} was {left.get(name)!r}, is {right.get(name)!r}"
            (others if harmless else telling).append(line)
    return telling, others


def _unused(name: str, settings: Mapping[str, Any]) -> bool:
    """Whether a setting is the version of a package that takes no part in answering."""
    package = name.removeprefix("versions.")
    if package == "qwen-vl-utils":
        return not str(settings.get("protocol")).startswith("qwen")
    setting, value = USED_WITH.get(package, (None, None))
    return setting is not None and settings.get(setting) != value


def _digest(files: Mapping[str, Path]) -> str:
    """Return a digest of files, by name, and their contents: 16 hexadecimal digits."""
    whole = hashlib.sha256()
    for name, file in files.items():
        status = file.stat()
        content = _of_content(file, status.st_size, status.st_mtime_ns)
        whole.update(f"{name}\0{content}\n".encode())
    return whole.hexdigest()[:16]


@lru_cache(maxsize=1024)  # the runs of a sweep share a model
def _of_content(file: Path, size: int, changed: int) -> str:
    """Return the digest of a file. Its time of change is an argument so that the cache notices a replaced file."""
    digest = hashlib.sha256(f"{size}".encode())
    with file.open("rb") as opened:
        if size <= WHOLE:
            digest.update(opened.read())
        else:
            for start in (*range(0, size - PAGE, STRIDE), size - PAGE):
                opened.seek(start)
                digest.update(opened.read(PAGE))
    return digest.hexdigest()
