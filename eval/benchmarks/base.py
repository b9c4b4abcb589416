"""`Benchmark`: what evaluation knows about a benchmark beyond its lmms-eval tasks, and local copies of benchmarks."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Literal

from huggingface_hub import metadata_load

Kind = Literal["text", "video", "options", "number"]
"""Kind of a question's field: text, the path of a video below a folder, a list of options, a whole number."""


class Benchmark(ABC):
    """What evaluation knows about a benchmark beyond its lmms-eval tasks. These give the prompts and the scoring.

    A *doc* below is a question as it stands in the dataset. A *sample* is what lmms-eval logs for an answer: the doc,
    the raw answer under "filtered_resps", and the task's own result under `metric`.

    Attributes:
        name: Our name of the benchmark, as in --tasks.
        tasks: lmms-eval's names of its leaf tasks.
        folder: Where lmms-eval declares the tasks, below lmms_eval/tasks.
        metric: lmms-eval's name of the score.
        overall: The overall accuracy is the mean over categories ("macro") or over questions ("micro").
        fields: The fields that every doc must have, and their kinds.
    """

    name: ClassVar[str]
    tasks: ClassVar[tuple[str, ...]]
    folder: ClassVar[str]
    metric: ClassVar[str]
    overall: ClassVar[Literal["macro", "micro"]]
    fields: ClassVar[dict[str, Kind]]

    @abstractmethod
    def local(self, task: str, data: Path) -> dict[str, Any]:
        """Return settings that make an lmms-eval task read its questions from a local copy.

        Args:
            task: One of `tasks`.
            data: Directory of the local copy.

        Returns:
            Overrides of the task's YAML, as from `local_questions`.

        Raises:
            FileNotFoundError: The copy has no questions of this task.
        """

    @abstractmethod
    def local_video(self, task: str, data: Path, doc: dict[str, Any]) -> Path:
        """Return the path of a doc's video in a local copy, such as data/videos/0001.mp4. The file need not exist."""

    @abstractmethod
    def category(self, task: str, sample: dict[str, Any]) -> str:
        """Return the category under which a sample is reported: its task, its type, or the length of its video."""

    @abstractmethod
    def score(self, sample: dict[str, Any]) -> float:
        """Return 1.0 if the answer is right, else 0.0."""

    @abstractmethod
    def parsed(self, sample: dict[str, Any]) -> str | None:
        """Return the letter that lmms-eval reads from the raw answer, such as "B", or None if it finds none."""

    @abstractmethod
    def target(self, sample: dict[str, Any]) -> str:
        """Return the letter of the right option."""

    def complaint(self, doc: dict[str, Any]) -> str:
        """Return what is wrong with a doc that has all its fields, if lmms-eval would not say it well, or ""."""
        return ""

    def legacy(self, answer: str) -> str | None:
        """Return the letter that lmms-eval 0.5.0, the paper's harness, read from a raw answer, or None.

        Only benchmarks that it read in another way than today's release define this.
        """
        raise NotImplementedError

    def readings(self, sample: dict[str, Any]) -> dict[str, tuple[str | None, float]]:
        """Return (letter, score) by parser. "legacy" is missing if it reads like "current"."""
        readings = {"current": (self.parsed(sample), self.score(sample))}
        if type(self).legacy is not Benchmark.legacy:
            letter = self.legacy(sample["filtered_resps"][0])
            readings["legacy"] = letter, float(letter == self.target(sample))
        return readings

    def short_name(self, task: str) -> str:
        """Return a task's name without the benchmark's: "action_count" for "mvbench_action_count"."""
        return task.removeprefix(f"{self.name}_")

    def harness_utils(self) -> ModuleType:
        """Import lmms-eval's own code for this benchmark (lmms_eval/tasks/FOLDER/utils.py)."""
        return importlib.import_module(f"lmms_eval.tasks.{self.folder.replace('/', '.')}.utils")


BUILDERS = {".parquet": "parquet", ".json": "json", ".jsonl": "json"}
"""Builder of the `datasets` package, by the ending of a file of questions."""


def local_questions(data: Path, split: str, benchmark: str, config: str = "default") -> dict[str, Any]:
    """Return settings that make an lmms-eval task read its questions from a local copy of a hub dataset.

    The files are those that the copy's dataset card (README.md) names. Without such a card they are the split's parquet
    or JSON files in the directory, in its folder `config`, or in data/ below one of these.

    Args:
        data: Directory of the local copy.
        split: The split, such as "test".
        benchmark: The benchmark's name, for messages.
        config: The dataset's configuration.

    Raises:
        FileNotFoundError: There are no such files.
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
    """Return the files of a split that the dataset card names and that exist."""
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
    """Yield the files of a split, for each pattern and folder in which they may be."""
    for pattern in (f"{split}-*.parquet", "*.parquet", f"{split}.json*"):
        for folder in (directory, directory / "data"):
            # The name of a shard on the hub begins with its split. Shards of other splits are not taken.
            yield [f for f in folder.glob(pattern) if f.name.startswith(split) or "-of-" not in f.name]


def existing_video(folder: Path, name: str, suffixes: tuple[str, ...] = (".mp4", ".MP4")) -> Path:
    """Return the path of a video whose suffix is not known.

    Args:
        folder: Folder of the videos.
        name: Name without suffix.
        suffixes: What is tried, in order.

    Returns:
        The first path that exists. If none does, the one with the first suffix.
    """
    candidates = [folder / f"{name}{suffix}" for suffix in suffixes]
    return next((path for path in candidates if path.exists()), candidates[0])
