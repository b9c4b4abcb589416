"""The records of a finished run. `records.record` makes them of JSON.

`ScoredSample` is a line of samples.jsonl and `Summary` is results.json. Files of earlier versions are still read: keys
that they lack take the defaults below, and keys that are unknown here are passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from .records import record
from .sample import Key, Reading


@dataclass(frozen=True)
class ScoredSample:
    """One question with its answer and its score.

    Attributes:
        task: lmms-eval's task.
        category: What the benchmark reports the question under.
        doc_id: The question's number in its task.
        video: Path of the video.
        prompt: The text that the model got, with the video as one slot. None where the question failed.
        answer: The raw answer. None where the question failed.
        parsed: The option that the parser reads from the answer. None where it reads none.
        target: The right option.
        score: 1 for right, 0 for wrong, by the parser that the run was given.
        scores: The same by each parser that the benchmark has.
        error: Why the question failed. None where it was answered.
        frames: Number of frames T that the model saw.
        duration_s: Length of the video in seconds.
        tokens_before: Visual tokens without compression.
        tokens_after: Visual tokens that the LLM saw. Inside the LLM, the mean over its layers.
        positions: Positions of the kept tokens, "original" or "repack".
        reading: How the video was read. None where it was not read.
        by_hand: Tokens of each frame that the caller kept by hand, by the frame's number from 0, as a text.
        seconds: Seconds by stage (`sample.STAGES`).
    """

    task: str
    category: str
    doc_id: int
    video: str
    prompt: str | None
    answer: str | None
    parsed: str | None
    target: str
    score: float
    scores: dict[str, float] = field(default_factory=dict)
    error: str | None = None
    frames: int = 0
    duration_s: float = 0.0
    tokens_before: int = 0
    tokens_after: float = 0
    positions: str | None = None
    reading: Reading | None = None
    by_hand: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        """The task and the number of the question."""
        return self.task, self.doc_id


@dataclass(frozen=True)
class CategoryScore:
    """The questions of one category.

    Attributes:
        accuracy: In percent.
        samples: Number of questions.
        failed: Number of questions that failed. They count as wrong.
        unparsed: Number of answers that the parser reads no option from.
    """

    accuracy: float
    samples: int
    failed: int
    unparsed: int


@dataclass(frozen=True)
class Scores:
    """Accuracies in percent.

    Attributes:
        overall: Equal to `macro` or to `micro`, as the benchmark defines it.
        macro: Mean of the categories' accuracies.
        micro: Accuracy over all questions.
        categories: By category.
    """

    overall: float
    macro: float
    micro: float
    categories: dict[str, CategoryScore]


@dataclass(frozen=True)
class Parsers:
    """What each parser makes of the same answers.

    Attributes:
        overall: Overall accuracy in percent, by parser.
        differ: Number of answers that parsers score differently.
    """

    overall: dict[str, float] = field(default_factory=dict)
    differ: int = 0


@dataclass(frozen=True)
class VisualTokens:
    """Visual tokens of the answered questions, frame and row separators included.

    Attributes:
        before: Sum without compression.
        after: Sum that the LLM saw.
        retention: after / before. None, like the two means, where no question was answered.
        before_per_sample: Mean of a question without compression.
        after_per_sample: Mean of a question that the LLM saw.
    """

    before: int
    after: float
    retention: float | None
    before_per_sample: float | None
    after_per_sample: float | None


@dataclass(frozen=True)
class Videos:
    """How the videos were read.

    Attributes:
        read: Number of distinct videos.
        readers: Number of videos by reader.
        decord_differs: Number of videos of which raw decord would have given other frames.
        decord_unknown: Number of videos of which that is unknown.
    """

    read: int = 0
    readers: dict[str, int] = field(default_factory=dict)
    decord_differs: int = 0
    decord_unknown: int = 0


@dataclass(frozen=True)
class ByHand:
    """What the caller kept by hand, over the answered questions.

    Attributes:
        questions: Number of questions with such a frame in their video.
        frames: Number of such frames.
        tokens: Tokens that these frames kept by hand.
    """

    questions: int = 0
    frames: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class Seconds:
    """Seconds of one stage over the answered questions."""

    total: float
    mean: float
    median: float


@dataclass(frozen=True)
class Failure:
    """A question without an answer, and why."""

    task: str
    doc_id: int
    video: str
    error: str


@dataclass(frozen=True)
class RunSettings:
    """What a run was told.

    Attributes:
        settings: The content of settings.json, see `run.config.RunConfig.settings`. It is a mapping, because every
            family of models describes its protocol in keys of its own.
        processes: Number of processes that answered.
        generation: lmms-eval's generation arguments by task.
        limit: Questions per task. None for all.
    """

    settings: Mapping[str, Any]
    processes: int | None = None
    generation: dict[str, Any] = field(default_factory=dict)
    limit: int | None = None

    @property
    def model(self) -> str:
        """Checkpoint directory or hub name."""
        return self.settings["model"]

    @property
    def compressor(self) -> str:
        """Spec of the compressor, "none" for dense."""
        return self.settings["compressor"]

    @property
    def sampling(self) -> str:
        """How frames are taken from a video, such as "uniform:32"."""
        return self.settings["sampling"]

    @property
    def keep(self) -> str | None:
        """Seconds of the videos of which the caller kept more, such as "12s-15s:full". None for none."""
        return self.settings.get("keep")

    @property
    def dtype(self) -> str:
        """Data type of the model's weights."""
        return self.settings["dtype"]

    @property
    def attention(self) -> str:
        """The LLM's attention implementation."""
        return self.settings["attention"]

    @property
    def edition(self) -> str | None:
        """What the local copy of the questions calls itself. None for the benchmark's own questions."""
        return self.settings.get("edition")

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> RunSettings:
        """Read the object under results.json's "run".

        Raises:
            ValueError: It does not say the model or the compressor.
        """
        if not isinstance(content, Mapping):
            raise ValueError(f'"run" is {content!r}, no object')
        own = [item.name for item in fields(cls) if item.name != "settings"]
        settings = {name: value for name, value in content.items() if name not in own}
        if missing := {"model", "compressor"} - settings.keys():
            raise ValueError(f'"run" lacks {", ".join(sorted(missing))}')
        return cls(settings, **{name: content[name] for name in own if name in content})

    def to_json(self) -> dict[str, Any]:
        """Write what `from_json` reads: one flat object."""
        others = {"processes": self.processes, "generation": self.generation, "limit": self.limit}
        return {**self.settings, **others}


@dataclass(frozen=True)
class Provenance:
    """Where a result comes from, see `provenance.provenance`.

    Attributes:
        date: UTC, ISO 8601.
        command: The command line; a program of the checkout by its path in it.
        git_commit: Commit of the checkout, with "-dirty" where files differ from it. None outside a checkout.
        python: Version of Python.
        versions: Versions by package. None for one that is not installed.
        device: Name of the GPU, or of the processor.
        cuda: Version of CUDA. None without a GPU.
    """

    date: str | None = None
    command: list[str] = field(default_factory=list)
    git_commit: str | None = None
    python: str | None = None
    versions: dict[str, str | None] = field(default_factory=dict)
    device: str | None = None
    cuda: str | None = None


@dataclass(frozen=True)
class Published:
    """A dense run's score beside those that were published of the same checkpoint, see `benchmarks.published`.

    Attributes:
        low: The lowest published score, in percent.
        high: The highest.
        source: Where they were published.
        off: Points of this run's score above them, or, negative, below. 0 among them.
    """

    low: float
    high: float
    source: str
    off: float


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What results.json says of a run. The fields are in the order of the file.

    Attributes:
        benchmark: Our name of the benchmark.
        scores: Accuracies by the parser that the run was given.
        parsers: Overall accuracies by each parser.
        samples: Number of questions.
        visual_tokens: What the videos cost the LLM.
        videos: How the videos were read.
        by_hand: What the caller kept by hand.
        seconds: By stage (`sample.STAGES`).
        failures: The questions that failed.
        harness_scores: lmms-eval's own score by task: a fraction or percent, as the task has it.
        harness_metrics: All numbers that lmms-eval gives, by task and metric, such as the group scores of Video-MME-v2.
        prompts: Digest of the prompts of all answered questions, see `summary.prompts_digest`.
        published: Published scores of a dense run. None where none are known, or the run is no dense run of all
            questions.
        run: What the run was told.
        provenance: Code, machine and time.
    """

    benchmark: str
    scores: Scores
    parsers: Parsers = Parsers()
    samples: int
    visual_tokens: VisualTokens
    videos: Videos = Videos()
    by_hand: ByHand = ByHand()
    seconds: dict[str, Seconds]
    failures: list[Failure]
    harness_scores: dict[str, float | None] = field(default_factory=dict)
    harness_metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    prompts: str | None = None
    published: Published | None = None
    run: RunSettings
    provenance: Provenance = Provenance()

    @property
    def title(self) -> str:
        """What the questions are called wherever a person reads it."""
        return self.run.edition or self.benchmark

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Summary:
        """Read results.json.

        Raises:
            ValueError: A key without a default is missing.
        """
        run = content.get("run")
        return record(cls, content if run is None else {**content, "run": RunSettings.from_json(run)})

    def to_json(self) -> dict[str, Any]:
        """Write results.json."""
        return {**asdict(self), "run": self.run.to_json()}
