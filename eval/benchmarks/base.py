"""What every benchmark says about itself, and helpers that find the questions and videos of a local copy."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Literal

from huggingface_hub import metadata_load

Kind = Literal["text", "video", "options", "number"]
"""What a field of a question holds: a text, a path below the folder of videos, a list of options, a whole number."""


class Benchmark(ABC):
    """What we need to know about a benchmark. lmms-eval's tasks make the prompts and score the answers.

    Methods get two kinds of dicts. `doc` is one question as lmms-eval loads it, for example
    `{"video": "a.mp4", "question": "What ...?", "candidates": ["red", "blue"], "answer": "red"}`. `sample` is what
    lmms-eval logs of one answered question: its `doc`, the raw answer as the one entry of `filtered_resps`, and under
    the name of the metric whatever the task's process_results returned, for example
    `{"doc": {...}, "filtered_resps": ["A."], "mvbench_accuracy": {"pred_answer": "A.", "gt_answer": "A", ...}}`.

    Attributes:
        name: Our name of the benchmark.
        tasks: Names of lmms-eval's leaf tasks.
        folder: Folder that declares them, below lmms_eval/tasks.
        layout: Where a local copy has its files, as a sentence for the doctor.
        metric: lmms-eval's name of the task's score.
        overall: How the total is formed: "macro" is the mean over categories, "micro" the mean over questions.
        fields: Fields that a question needs to be asked and scored, with their kinds.
        hub: The dataset on the hub, where lmms-eval's task files do not say it.
        together: Number of consecutive questions that lmms-eval scores as one. --limit has to be a multiple of it.
    """

    name: str
    tasks: tuple[str, ...]
    folder: str
    layout: ClassVar[str]
    metric: ClassVar[str]
    overall: ClassVar[Literal["macro", "micro"]]
    fields: ClassVar[dict[str, Kind]]
    hub: ClassVar[str | None] = None
    together: ClassVar[int] = 1

    @abstractmethod
    def local(self, task: str, data: Path) -> dict[str, Any]:
        """Return the settings that make an lmms-eval task read its questions from a local copy instead of the hub.

        Args:
            task: lmms-eval's task, such as "mvbench_action_count".
            data: Directory of the local copy (--data).

        Returns:
            Entries of the task's YAML file: `dataset_path`, `dataset_name` and `dataset_kwargs`, the last one with
            one split in `data_files`. Example: `{"dataset_path": "json", "dataset_name": None, "dataset_kwargs":
            {"data_files": {"train": "DATA/json/action_count.json"}}}`.

        Raises:
            FileNotFoundError: If the local copy has no questions of this task.
        """

    @abstractmethod
    def local_video(self, task: str, data: Path, doc: dict[str, Any]) -> Path:
        """Return the path of a question's video in a local copy. The file need not exist.

        Args:
            task: lmms-eval's task.
            data: Directory of the local copy.
            doc: The question.

        Returns:
            Example: `DATA/videos/<video_idx>.mp4` for EgoSchema.
        """

    @abstractmethod
    def category(self, task: str, sample: dict[str, Any]) -> str:
        """Return the category of a question, which is its row in reports.

        Args:
            task: lmms-eval's task.
            sample: A logged sample.

        Returns:
            The task ("action_count" in MVBench), the type of question ("plotQA" in MLVU) or the length of the video
            ("long" in Video-MME).
        """

    @abstractmethod
    def score(self, sample: dict[str, Any]) -> float:
        """Return lmms-eval's score of a logged sample.

        Args:
            sample: A logged sample.

        Returns:
            1.0 for a right answer, 0.0 for a wrong one.
        """

    @abstractmethod
    def parsed(self, sample: dict[str, Any]) -> str | None:
        """Return the option that lmms-eval reads from the raw answer.

        Args:
            sample: A logged sample.

        Returns:
            A letter, such as "B" from "(B) blue". None where lmms-eval finds no letter, even if it guesses one then.
        """

    @abstractmethod
    def target(self, sample: dict[str, Any]) -> str:
        """Return the letter of the right option.

        Args:
            sample: A logged sample.

        Returns:
            Example: "B".
        """

    def adjusted(self, name: str, task: Any, data: Path | None) -> Any:
        """Return lmms-eval's task, changed where its code would not do here. Its prompts and scores stay as they are.

        Args:
            name: lmms-eval's name of the task.
            task: lmms-eval's task object, with its questions loaded.
            data: Directory of the local copy. None: from the hub.
        """
        return task

    def metric_of(self, task: Any) -> str:
        """Return lmms-eval's name of the score of a loaded task."""
        return self.metric

    def complaint(self, doc: dict[str, Any]) -> str:
        """Return what is wrong with a question that has all its fields.

        Override it for mistakes that lmms-eval ignores or reports badly.

        Args:
            doc: The question.

        Returns:
            A clause such as "its answer 'x' is none of its candidates ['y', 'z']". "" for a sound question.
        """
        return ""

    def doubt(self, sample: dict[str, Any]) -> str:
        """Return what a user must know of a question before its score is believed.

        Args:
            sample: A logged sample of the right answer.

        Returns:
            A clause as in `complaint`.
        """
        return ""

    def legacy(self, answer: str) -> str | None:
        """Return the option that lmms-eval 0.5.0, the paper's harness, reads from a raw answer.

        Override it only where 0.5.0 reads answers in another way than the installed lmms-eval.

        Args:
            answer: The raw answer.

        Returns:
            A letter. None where 0.5.0 finds none.
        """
        raise NotImplementedError

    def readings(self, sample: dict[str, Any]) -> dict[str, tuple[str | None, float]]:
        """Return what each parser makes of a logged sample.

        Args:
            sample: A logged sample.

        Returns:
            By parser, the option (None where it finds none) and the score. "current" is the installed lmms-eval's
            parser. "legacy" is `legacy`, and is missing for benchmarks that do not override it.
        """
        readings = {"current": (self.parsed(sample), self.score(sample))}
        if type(self).legacy is not Benchmark.legacy:
            letter = self.legacy(sample["filtered_resps"][0])
            readings["legacy"] = letter, float(letter == self.target(sample))
        return readings

    def short_name(self, task: str) -> str:
        """Return a task's name without the benchmark's, such as "action_count" for "mvbench_action_count"."""
        return task.removeprefix(f"{self.name}_")

    def harness_utils(self) -> ModuleType:
        """Import lmms-eval's own code for this benchmark, such as `lmms_eval.tasks.mvbench.utils`."""
        return importlib.import_module(f"lmms_eval.tasks.{self.folder.replace('/', '.')}.utils")


BUILDERS = {".parquet": "parquet", ".json": "json", ".jsonl": "json"}
"""The builder of the `datasets` library that reads a file of questions, by the end of its name."""


def local_questions(data: Path, split: str, benchmark: str, config: str = "default") -> dict[str, Any]:
    """Return the settings that make lmms-eval read one split from a local copy of a hub dataset.

    The dataset card (README.md) of the copy names the files. Without such a card, the split's parquet or JSON files
    are searched in `data/config`, if that is a directory, else in `data`; and in the folder data/ below it.

    Args:
        data: Directory of the local copy.
        split: Name of the split, such as "test".
        benchmark: Name of the benchmark, for the error message.
        config: Name of the hub dataset's configuration.

    Returns:
        As `Benchmark.local`.

    Raises:
        FileNotFoundError: If there are no such files.
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
    """Return the files of a split that the dataset card (README.md) names and that exist."""
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
    """Yield the files of a split by each usual naming, the likeliest first. Lists may be empty."""
    for pattern in (f"{split}-*.parquet", "*.parquet", f"{split}.json*"):
        for folder in (directory, directory / "data"):
            # A shard on the hub carries its split's name. A shard of another split does not count.
            yield [f for f in folder.glob(pattern) if f.name.startswith(split) or "-of-" not in f.name]


def existing_video(folder: Path, name: str, suffixes: tuple[str, ...] = (".mp4", ".MP4")) -> Path:
    """Return the path of a video by its name without suffix.

    Args:
        folder: Folder of the videos.
        name: Name without suffix.
        suffixes: Suffixes to try, in order.

    Returns:
        The first path that exists. If none exists, the path with the first suffix.
    """
    candidates = [folder / f"{name}{suffix}" for suffix in suffixes]
    return next((path for path in candidates if path.exists()), candidates[0])


def first_existing(data: Path, *places: str) -> Path:
    """Return the first of some places below `data` that exists. If none does, the first place."""
    paths = [data / place for place in places]
    return next((path for path in paths if path.exists()), paths[0])


def with_subtitles(task: Any, data: Path | None) -> Any:
    """Return a Video-MME task of lmms-eval whose prompt looks for subtitles in the local copy, if there is one."""
    if data is not None:
        set_names(task.config.doc_to_text, base_cache_dir=str(data.absolute()), cache_name="")
    return task


def set_names(function: Any, **values: Any) -> None:
    """Set global names of the module of a function of lmms-eval's.

    lmms-eval loads a module anew for each function that a task file names. So no other function is touched.
    """
    function.__globals__.update(values)
