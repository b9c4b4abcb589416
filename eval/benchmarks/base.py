from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Literal

from huggingface_hub import metadata_load

Kind = Literal["text", "video", "options", "number"]
"""Of a question's field: a file's path below a folder, options in order, a whole number."""


class Benchmark(ABC):
    """What we need to know of a benchmark beyond its lmms-eval tasks, which give the prompts and the scoring.

    name: ours. tasks: lmms-eval's leaf tasks. folder: where they are declared, below lmms_eval/tasks.
    metric: what lmms-eval calls the task's score. overall: "macro", the mean over categories, or "micro", over
    questions. fields: what every question must have to be asked and scored.
    """

    name: ClassVar[str]
    tasks: ClassVar[tuple[str, ...]]
    folder: ClassVar[str]
    metric: ClassVar[str]
    overall: ClassVar[Literal["macro", "micro"]]
    fields: ClassVar[dict[str, Kind]]

    @abstractmethod
    def local(self, task: str, data: Path) -> dict[str, Any]:
        """The settings of an lmms-eval task that make it read its questions from `data` instead of the hub."""

    @abstractmethod
    def local_video(self, task: str, data: Path, doc: dict[str, Any]) -> Path:
        """Where below `data` the video of a question lies."""

    @abstractmethod
    def category(self, task: str, sample: dict[str, Any]) -> str:
        """What a question is reported under: its task, its type, its video's length."""

    @abstractmethod
    def score(self, sample: dict[str, Any]) -> float:
        """1 for right, 0 for wrong, out of one of lmms-eval's logged samples."""

    @abstractmethod
    def parsed(self, sample: dict[str, Any]) -> str | None:
        """The option lmms-eval reads from the raw answer; None where it finds none."""

    @abstractmethod
    def target(self, sample: dict[str, Any]) -> str:
        """The letter of the right option."""

    def complaint(self, doc: dict[str, Any]) -> str:
        """What is wrong with a question that has all its fields, as far as lmms-eval would not say it well; or ""."""
        return ""

    def legacy(self, answer: str) -> str | None:
        """The option that lmms-eval 0.5.0, the paper's harness, read from a raw answer; None where it found none.

        Only where it did not read as today's does.
        """
        raise NotImplementedError

    def readings(self, sample: dict[str, Any]) -> dict[str, tuple[str | None, float]]:
        """By parser: what it reads from the raw answer, and the score. "legacy" is there where it is another one."""
        readings = {"current": (self.parsed(sample), self.score(sample))}
        if type(self).legacy is not Benchmark.legacy:
            letter = self.legacy(sample["filtered_resps"][0])
            readings["legacy"] = letter, float(letter == self.target(sample))
        return readings

    def short_name(self, task: str) -> str:
        return task.removeprefix(f"{self.name}_")

    def harness_utils(self) -> ModuleType:
        """lmms-eval's own code for this benchmark."""
        return importlib.import_module(f"lmms_eval.tasks.{self.folder.replace('/', '.')}.utils")


BUILDERS = {".parquet": "parquet", ".json": "json", ".jsonl": "json"}
"""What `datasets` reads a file of questions with."""


def local_questions(data: Path, split: str, benchmark: str, config: str = "default") -> dict[str, Any]:
    """Settings that make lmms-eval read `split` of the hub dataset's `config` from a local copy of it.

    From the files that the copy's dataset card names; without a card that does, from `split`'s parquet or JSON files in
    the directory, its `config` or its data/. Raises FileNotFoundError where there are none.
    """
    directory = data / config if (data / config).is_dir() else data
    for files in (_on_card(data, split, config), *_in_usual_places(directory, split)):
        if files:
            return {
                "dataset_path": BUILDERS[files[0].suffix],
                "dataset_name": None,
                "dataset_kwargs": {"data_files": {split: sorted(map(str, files))}},
            }
    raise FileNotFoundError(f"{directory} holds no questions of {benchmark}: no {split}-*.parquet and no {split}.json")


def _on_card(data: Path, split: str, config: str) -> list[Path]:
    """The files of a split that the dataset card (README.md) names and that are there."""
    card = data / "README.md"
    configs = (metadata_load(card) or {}).get("configs", []) if card.is_file() else []
    wanted = [one for one in configs if one.get("config_name", "default") == config] or configs
    if len(wanted) != 1:
        return []
    named = [one for one in wanted[0].get("data_files", []) if isinstance(one, dict) and one.get("split") == split]
    patterns = [
        pattern for one in named for pattern in ([one["path"]] if isinstance(one["path"], str) else one["path"])
    ]
    return [file for pattern in patterns for file in data.glob(pattern) if file.suffix in BUILDERS]


def _in_usual_places(directory: Path, split: str) -> Iterator[list[Path]]:
    for pattern in (f"{split}-*.parquet", "*.parquet", f"{split}.json*"):
        for folder in (directory, directory / "data"):
            # A shard on the hub is named after its split, and must not stand in for another one.
            yield [f for f in folder.glob(pattern) if f.name.startswith(split) or "-of-" not in f.name]


def existing_video(folder: Path, name: str, suffixes: tuple[str, ...] = (".mp4", ".MP4")) -> Path:
    """The file of that name with the first suffix that there is; with the first of all where there is none."""
    candidates = [folder / f"{name}{suffix}" for suffix in suffixes]
    return next((path for path in candidates if path.exists()), candidates[0])
