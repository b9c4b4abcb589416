"""What a run is: everything that can change its answers. What cannot is worth a note where it differs."""

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
"""Our own code that answers, below the directory that holds our packages."""
WHOLE = 64 << 20
"""Bytes up to which a file is read as a whole; of larger ones, the first PAGE of every STRIDE."""
PAGE, STRIDE = 4 << 10, 1 << 20

NOTED = ("model", "data", "code.commit")
"""Settings that change no answer: the weights and the questions are looked at themselves, wherever they are."""
OF_QUESTIONS = "questions"
"""The setting that unfinished runs may differ in: their answers are matched with the questions one by one."""
USED_WITH = {
    "decord": ("decoder", "decord"),
    "torchcodec": ("decoder", "torchcodec"),
    "flash-attn": ("attention", "flash_attention_2"),
    "deepspeed": ("engine", "deepspeed"),
    "accelerate": ("device", "auto"),
}
"""Packages that change answers only where a setting says so."""


def weights(model: str) -> str:
    """What a checkpoint holds: the commit of one from the hub, which is in the cache already; a digest of the files of
    a local one.

    Of weights, a page in every MiB counts: no tensor of that size is replaced unnoticed. ValueError where the cache
    does not know the commit.
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
    """A digest of local tasks' files of questions; None for the hub's."""
    if data is None:
        return None
    files = [
        Path(file)
        for task in tasks
        for named in benchmark.local(task, data)["dataset_kwargs"]["data_files"].values()
        for file in ([named] if isinstance(named, str) else named)
    ]
    return _digest({str(file.relative_to(data)): file for file in files})


@lru_cache(maxsize=1)  # the code that runs is the one that was there when it began
def code() -> dict[str, str | None]:
    """Our version, the checkout's commit if there is one, and a digest of the code that answers."""
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
    """How two runs' settings differ, as lines: in what can change answers, and in what cannot.

    finished: the earlier run's questions cannot be compared one by one any more.
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
    """Is it the version of a package that has no part in answering?"""
    package = name.removeprefix("versions.")
    if package == "qwen-vl-utils":
        return not str(settings.get("protocol")).startswith("qwen")
    setting, value = USED_WITH.get(package, (None, None))
    return setting is not None and settings.get(setting) != value


def _digest(files: Mapping[str, Path]) -> str:
    """A digest of the names that the files go by and of their contents, 16 hexadecimal digits."""
    whole = hashlib.sha256()
    for name, file in files.items():
        status = file.stat()
        content = _of_content(file, status.st_size, status.st_mtime_ns)
        whole.update(f"{name}\0{content}\n".encode())
    return whole.hexdigest()[:16]


@lru_cache(maxsize=1024)  # several settings have one model
def _of_content(file: Path, size: int, changed: int) -> str:
    """changed: when, so that another file of that name is read again."""
    digest = hashlib.sha256(f"{size}".encode())
    with file.open("rb") as opened:
        if size <= WHOLE:
            digest.update(opened.read())
        else:
            for start in (*range(0, size - PAGE, STRIDE), size - PAGE):
                opened.seek(start)
                digest.update(opened.read(PAGE))
    return digest.hexdigest()
