"""How certain an accuracy is, and the difference of two accuracies, from the scores of single questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

Overall = Literal["macro", "micro"]
"""What a benchmark's one number is: the mean of its categories' accuracies, or the accuracy over all questions."""
IN_WORDS: dict[Overall, str] = {"macro": "mean over categories", "micro": "over all questions"}


def accuracy(scores: Sequence[float], categories: Sequence[str], overall: Overall) -> float:
    """Compute the accuracy in percent.

    "micro" is 100 · mean(scores). "macro" is 100 times the mean over the categories of their mean scores.

    Args:
        scores: [N], 1 for right and 0 for wrong.
        categories: [N], of the same questions.
        overall: Which average.

    Raises:
        ValueError: There are no questions, the lengths differ, a score is not finite, or `overall` is unknown.
    """
    return 100 * float(np.mean([part.mean() for part in _parts(scores, categories, overall)]))


def bootstrap_interval(
    scores: Sequence[float], categories: Sequence[str], overall: Overall, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Compute the 95 % percentile bootstrap interval of `accuracy`.

    A resample draws as many questions as there are, with replacement: from all of them ("micro"), or from each category
    as many as it has ("macro"). The interval ends at the 2.5 and 97.5 % quantiles of the resamples' accuracies (Efron
    and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).

    Questions count as independent, also several about one video. Where all of a category are right or all are wrong,
    the resamples have no spread, and the interval is too narrow.

    Args:
        scores: [N], 1 for right and 0 for wrong.
        categories: [N], of the same questions.
        overall: Which average.
        resamples: Number of resamples.
        seed: Seed of the resamples.

    Returns:
        low and high, in percent.

    Raises:
        ValueError: As `accuracy`.
    """
    generator = np.random.default_rng(seed)
    means = [_resampled_means(part, resamples, generator) for part in _parts(scores, categories, overall)]
    low, high = np.percentile(100 * np.mean(means, axis=0), (2.5, 97.5))
    return float(low), float(high)


def mean_intervals(values: np.ndarray, resamples: int = 10_000, seed: int = 0) -> np.ndarray:
    """Compute means and their 95 % percentile bootstrap intervals, of many quantities that the same N things have.

    A resample draws N of the things with replacement, the same for all quantities; see `bootstrap_interval`.

    Args:
        values: Float [N, K], K quantities of each thing.
        resamples: Number of resamples.
        seed: Seed of the resamples.

    Returns:
        Float [3, K]: the means, and the lower and upper ends of their intervals.

    Raises:
        ValueError: There is nothing to average.
    """
    if not len(values):
        raise ValueError("no values: there is no mean of nothing")
    count = len(values)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    low, high = np.percentile(drawn @ values / count, (2.5, 97.5), axis=0)
    return np.stack([values.mean(axis=0), low, high])


def paired_interval(
    a: Sequence[float],
    b: Sequence[float],
    categories: Sequence[str],
    overall: Overall,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Compute b's accuracy less a's on the same questions, and the 95 % interval of that difference.

    A resample takes the same questions of both. That is a resample of the differences b_i - a_i, see
    `bootstrap_interval`.

    Args:
        a: [N], scores of one run.
        b: [N], scores of the other on the same questions.
        categories: [N], of these questions.
        overall: Which average.
        resamples: Number of resamples.
        seed: Seed of the resamples.

    Returns:
        difference, low and high, in percentage points.

    Raises:
        ValueError: As `accuracy`.
    """
    differences = [right - left for left, right in zip(a, b, strict=True)]
    low, high = bootstrap_interval(differences, categories, overall, resamples, seed)
    return accuracy(differences, categories, overall), low, high


def resampled_accuracies(
    scores: Sequence[Sequence[float]], categories: Sequence[str], overall: Overall, resamples: int = 5000, seed: int = 0
) -> dict[str | None, np.ndarray]:
    """Compute the accuracies of K settings on the same questions in each resample.

    A resample draws questions as in `bootstrap_interval`. It is the same for all settings and categories.

    Args:
        scores: [K, N], of each setting on the same questions.
        categories: [N], of these questions.
        overall: Which average.
        resamples: Number of resamples.
        seed: Seed of the resamples.

    Returns:
        float64 [resamples, K] in percent: by category, and under None overall. A category of which a resample has drawn
        no question has NaN there.
    """
    names, category = np.unique(categories, return_inverse=True)
    # As `_resampled_means`: how often each kind of question is drawn. Its category and its K scores make a kind.
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
    """Compute the exact two-sided p-value of McNemar's test: are a and b equally often right?

    Of the n questions that only one of them has right, a has k. Under the null hypothesis k is binomial with n tosses
    of a fair coin, so p = min(1, 2 · sum_{i <= min(k, n - k)} C(n, i) / 2^n) (McNemar, Psychometrika 1947, with the
    binomial in place of its approximation). p is 1 where n is 0.

    Args:
        a: [N], scores of one run, each 0 or 1.
        b: [N], scores of the other on the same questions.

    Raises:
        ValueError: The lengths differ, or a score is neither 0 nor 1.
    """
    pairs = list(zip(a, b, strict=True))
    if odd := next((pair for pair in pairs if not set(pair) <= {0, 1}), None):
        raise ValueError(f"scores {odd} of a question are not each 0 or 1: McNemar's test knows right and wrong only")
    lost, won = pairs.count((1, 0)), pairs.count((0, 1))
    from scipy.stats import binomtest  # takes a second to import, and most commands do not need it

    return float(binomtest(lost, lost + won).pvalue) if lost + won else 1.0


def _parts(scores: Sequence[float], categories: Sequence[str], overall: Overall) -> list[np.ndarray]:
    """Return the groups of scores that `overall` averages over, checked."""
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
    """Return means [resamples], each of as many scores as `part` has, drawn from it with replacement."""
    # How often each distinct score is drawn is multinomial. That saves resamples · len(part) single draws.
    values, counts = np.unique(part, return_counts=True)
    drawn = generator.multinomial(len(part), counts / len(part), size=resamples)
    return drawn @ values / len(part)
