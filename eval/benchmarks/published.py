"""Published scores of dense models, to hold a dense run of the same checkpoint against.

Papers on compression of video tokens run the same dense models through lmms-eval, and do not get the same number. So a
score here is the lowest and the highest that was published.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MARGIN = 1.5
"""Points beyond the published scores from which on something is probably wrong."""
PAPER = "arXiv 2505.14454, and papers of 2026 that ran the model again"
AUTHORS = "published by the authors of arXiv 2505.14454"


@dataclass(frozen=True)
class DenseScore:
    """Published overall scores of a dense checkpoint on a benchmark, in percent.

    Attributes:
        model: The last part of the checkpoint's hub name.
        sampling: Which frames the model got.
        benchmark: Our name of the benchmark.
        low: The lowest score.
        high: The highest score.
        source: Where they were published.
    """

    model: str
    sampling: str
    benchmark: str
    low: float
    high: float
    source: str

    @property
    def in_words(self) -> str:
        """Such as "56.9 to 58.3"."""
        return f"{self.low:.1f}" if self.low == self.high else f"{self.low:.1f} to {self.high:.1f}"

    def off(self, score: float) -> float:
        """Return by how many points a score is above (or, negative, below) the published ones. 0 among them."""
        return max(score - self.high, 0.0) + min(score - self.low, 0.0)


DENSE_SCORES = tuple(
    DenseScore(model, sampling, benchmark, low, high, source)
    for model, sampling, source, scores in (
        (
            "llava-onevision-qwen2-7b-ov",
            "uniform:32",
            PAPER,
            {
                "mvbench": (56.9, 58.3),
                "longvideobench": (56.3, 56.6),
                "mlvu": (63.0, 64.7),
                "videomme": (58.4, 58.6),
                "egoschema": (60.3, 60.4),
            },
        ),
        (
            "LLaVA-Video-7B-Qwen2",
            "fps:1,max=64",
            PAPER,
            {
                "mvbench": (60.4, 60.4),
                "longvideobench": (58.9, 59.6),
                "mlvu": (67.3, 70.3),
                "videomme": (64.3, 64.3),
                "egoschema": (57.2, 57.2),
            },
        ),
        (
            "Qwen3-VL-8B-Instruct",
            "uniform:32",
            AUTHORS,
            {
                "mvbench": (68.6, 68.6),
                "longvideobench": (60.3, 60.3),
                "mlvu": (63.5, 63.5),
                "videomme": (64.5, 64.5),
            },
        ),
    )
    for benchmark, (low, high) in scores.items()
)


def published_score(model: str, sampling: str, benchmark: str) -> DenseScore | None:
    """Return the published dense scores of a checkpoint. None if none are known.

    Args:
        model: Hub name, or a directory that is called as on the hub, also in the hub's cache.
        sampling: Which frames it gets.
        benchmark: Our name of the benchmark.
    """
    parts = [part.rpartition("--")[2].lower() for part in Path(model).parts]
    wanted = (one for one in DENSE_SCORES if (one.sampling, one.benchmark) == (sampling, benchmark))
    return next((one for one in wanted if one.model.lower() in parts), None)


def hold_against(published: DenseScore, score: float) -> tuple[str, bool]:
    """Say how a dense score compares with the published ones, and whether it is too far off.

    Args:
        published: The published scores.
        score: Ours, in percent.
    """
    off = published.off(score)
    if abs(off) <= MARGIN:
        return f"published dense score: {published.in_words} ({published.source}); this run: {score:.1f}", False
    others = (one for one in DENSE_SCORES if one.benchmark == published.benchmark and one.model != published.model)
    like = " or ".join(f"{one.model}'s {one.in_words}" for one in others if abs(one.off(score)) <= MARGIN)
    where = f"{abs(off):.1f} points {'above' if off > 0 else 'below'}"
    return (
        f"WARNING: this dense run's {score:.1f} is {where} the published {published.in_words} of {published.model} "
        f"({published.source}): a wrong template or pooling looks like that, or other weights"
        f"{f'; it is nearer to {like}' if like else ''}",
        True,
    )
