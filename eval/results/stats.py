"""How sure an accuracy is, and the difference of two: from the scores of single questions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

Overall = Literal["macro", "micro"]
"""What one number says of a benchmark: the mean of its categories' accuracies, or the accuracy over all questions."""
IN_WORDS: dict[Overall, str] = {"macro": "mean over categories", "micro": "over all questions"}


def accuracy(scores: Sequence[float], categories: Sequence[str], overall: Overall) -> float:
    """In percent. scores: 1 for right, 0 for wrong; categories: of the same questions."""
    return 100 * float(np.mean([part.mean() for part in _parts(scores, categories, overall)]))


def bootstrap_interval(
    scores: Sequence[float], categories: Sequence[str], overall: Overall, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval (low, high) of `accuracy`, in percent.

    A resample draws as many questions as there are, with replacement: from all ("micro"), or from each category as
    many as it has ("macro"). low and high are the 2.5 and 97.5 % quantiles of the resamples' accuracies (Efron and
    Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13). Questions count as independent, also several about
    one video. All right or all wrong, in a category or over all, has no spread: such an interval is too narrow.
    Raises ValueError for no questions, for lengths that differ, for NaN and Inf, and for an unknown `overall`.
    """
    generator = np.random.default_rng(seed)
    means = [_resampled_means(part, resamples, generator) for part in _parts(scores, categories, overall)]
    low, high = np.percentile(100 * np.mean(means, axis=0), (2.5, 97.5))
    return float(low), float(high)


def paired_interval(
    a: Sequence[float],
    b: Sequence[float],
    categories: Sequence[str],
    overall: Overall,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """(difference, low, high) of b's accuracy less a's on the same questions, in percentage points.

    Every resample takes the same questions in both, which is a resample of their differences: see
    `bootstrap_interval`, also for what is raised.
    """
    differences = [right - left for left, right in zip(a, b, strict=True)]
    low, high = bootstrap_interval(differences, categories, overall, resamples, seed)
    return accuracy(differences, categories, overall), low, high


def resampled_accuracies(
    scores: Sequence[Sequence[float]], categories: Sequence[str], overall: Overall, resamples: int = 5000, seed: int = 0
) -> dict[str | None, np.ndarray]:
    """In percent, [resamples, K], of K settings on the same questions: by category, and under None overall.

    A resample draws questions as in `bootstrap_interval`, the same for all settings and for all that is returned. NaN
    is the accuracy of a category of which it has drawn none.
    """
    names, category = np.unique(categories, return_inverse=True)
    # As `_resampled_means`: how often each kind of question is drawn, a kind being its category and all its scores.
    kinds, counts = np.unique(np.vstack([category, *scores]), axis=1, return_counts=True)
    own, values = kinds[0], kinds[1:].T
    strata = [own == i for i in range(len(names))] if overall == "macro" else [np.full(len(own), True)]
    generator, drawn = np.random.default_rng(seed), np.zeros((resamples, len(own)))
    for stratum in strata:
        size = counts[stratum].sum()
        drawn[:, stratum] = generator.multinomial(size, counts[stratum] / size, size=resamples)
    result: dict[str | None, np.ndarray] = {}
    with np.errstate(invalid="ignore"):
        for i, name in enumerate(names):
            mine = drawn[:, own == i]
            result[str(name)] = 100 * mine @ values[own == i] / mine.sum(axis=1, keepdims=True)
    whole = np.mean(list(result.values()), axis=0) if overall == "macro" else 100 * drawn @ values / len(category)
    return {**result, None: whole}


def mcnemar(a: Sequence[float], b: Sequence[float]) -> float:
    """Two-sided exact p-value that a and b are equally often right, from the questions where only one of them is.

    With n such questions, k of them right in the rarer direction: p = min(1, 2 · sum_{i<=k} C(n, i) / 2^n) (McNemar,
    Psychometrika 1947, with the binomial in place of its approximation). Raises ValueError for scores but 0 and 1.
    """
    pairs = list(zip(a, b, strict=True))
    if odd := next((pair for pair in pairs if not set(pair) <= {0, 1}), None):
        raise ValueError(f"scores {odd} of a question are not each 0 or 1: McNemar's test knows right and wrong only")
    lost, won = pairs.count((1, 0)), pairs.count((0, 1))
    n = lost + won
    return min(1.0, 2 * sum(math.comb(n, i) for i in range(min(lost, won) + 1)) / 2**n)


def _parts(scores: Sequence[float], categories: Sequence[str], overall: Overall) -> list[np.ndarray]:
    """The scores whose means `overall` averages, checked."""
    values = np.asarray(scores, dtype=np.float64)
    if len(values) != len(categories) or not len(values):
        raise ValueError(f"{len(values)} scores of {len(categories)} questions: there must be one of each, at least")
    if not np.isfinite(values).all():
        raise ValueError(f"score {values[~np.isfinite(values)][0]} is not finite")
    if overall == "micro":
        return [values]
    if overall == "macro":
        names, category = np.unique(categories, return_inverse=True)
        return [values[category == i] for i in range(len(names))]
    raise ValueError(f"overall={overall!r} must be 'macro' or 'micro'")


def _resampled_means(part: np.ndarray, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """Means [resamples] of as many scores as `part` has, drawn from it with replacement."""
    # How often each distinct score is drawn is multinomial: no need for resamples times len(part) single draws.
    values, counts = np.unique(part, return_counts=True)
    drawn = generator.multinomial(len(part), counts / len(part), size=resamples)
    return drawn @ values / len(part)
