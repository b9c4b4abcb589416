from __future__ import annotations

import itertools
import math
import random
import statistics

import numpy as np
import pytest

from eval.results.stats import (
    accuracy,
    bootstrap_interval,
    mcnemar,
    mean_intervals,
    paired_interval,
    resampled_accuracies,
)

SEED = np.random.default_rng(0)
CATEGORIES = ["small"] * 12 + ["large"] * 150
SCORES = [float(x) for x in np.concatenate([SEED.random(12) < 0.4, SEED.random(150) < 0.7])]
OTHER = [x if keep else 1 - x for x, keep in zip(SCORES, SEED.random(162) < 0.8, strict=True)]


def slow_accuracy(rows: list[tuple[float, str]], overall: str) -> float:
    if overall == "micro":
        return 100 * statistics.fmean(score for score, _ in rows)
    names = {category for _, category in rows}
    return statistics.fmean(100 * statistics.fmean(s for s, c in rows if c == name) for name in names)


def slow_resamples(overall: str, times: int = 3000):
    """Question numbers, drawn one by one."""
    dice = random.Random(1)
    groups = [list(range(len(CATEGORIES)))]
    if overall == "macro":
        groups = [[i for i, c in enumerate(CATEGORIES) if c == name] for name in ("small", "large")]
    for _ in range(times):
        yield [dice.choice(group) for group in groups for _ in group]


def quantiles(values: list[float]) -> tuple[float, float]:
    values = sorted(values)
    return values[round(0.025 * len(values))], values[round(0.975 * len(values))]


@pytest.mark.parametrize("overall", ["macro", "micro"])
def test_bootstrap_is_the_slow_one(overall):
    assert accuracy(SCORES, CATEGORIES, overall) == pytest.approx(
        slow_accuracy(list(zip(SCORES, CATEGORIES, strict=True)), overall)
    )
    slow = [slow_accuracy([(SCORES[i], CATEGORIES[i]) for i in drawn], overall) for drawn in slow_resamples(overall)]
    # Half a question of the small category in steps of the macro average, and the slow one's own randomness.
    assert bootstrap_interval(SCORES, CATEGORIES, overall) == pytest.approx(quantiles(slow), abs=1.5)


@pytest.mark.parametrize("overall", ["macro", "micro"])
def test_resampled_accuracies_are_the_slow_ones(overall):
    """Ratios of two settings on the same draws, of a category and overall."""
    drawn = resampled_accuracies([SCORES, OTHER], CATEGORIES, overall)
    slow: dict[str | None, list[float]] = {"small": [], None: []}
    for numbers in slow_resamples(overall):
        small = [i for i in numbers if CATEGORIES[i] == "small"]
        rows = [[(scores[i], CATEGORIES[i]) for i in numbers] for scores in (SCORES, OTHER)]
        mine, theirs = (slow_accuracy(row, overall) for row in rows)
        slow[None].append(mine - theirs)
        if small:
            slow["small"].append(100 * statistics.fmean(SCORES[i] - OTHER[i] for i in small))
    for name, differences in slow.items():
        mine, theirs = drawn[name].T
        found = np.percentile((mine - theirs)[np.isfinite(mine)], (2.5, 97.5))
        step = 100 / 12 if name == "small" else 1.5  # one question more or less
        assert found == pytest.approx(quantiles(differences), abs=step + 0.01)
        assert np.nanmean(mine - theirs) == pytest.approx(statistics.fmean(differences), abs=1)
    assert set(drawn) == {"small", "large", None}


def test_mean_intervals_are_those_of_each_quantity():
    """The bootstrap of an accuracy is one of a mean. Its other draws move an end by less than a tenth of its width."""
    values = np.array([SCORES, OTHER, [3.5] * len(SCORES)]).T
    means, lows, highs = mean_intervals(values)
    assert means == pytest.approx(values.mean(axis=0))
    for i, scores in enumerate((SCORES, OTHER)):
        low, high = bootstrap_interval(scores, CATEGORIES, "micro")
        assert (100 * lows[i], 100 * highs[i]) == pytest.approx((low, high), abs=0.1 * (high - low))
    assert lows[2] == highs[2] == pytest.approx(3.5)
    some = mean_intervals(np.array([[1.0, np.nan], [2.0, 1.0]]))
    assert np.isnan(some[:, 1]).all()
    assert not np.isnan(some[:, 0]).any()
    with pytest.raises(ValueError, match="no mean of nothing"):
        mean_intervals(np.zeros((0, 2)))


def test_macro_weighs_a_small_category_as_much_as_a_large_one():
    macro, micro = (bootstrap_interval(SCORES, CATEGORIES, overall) for overall in ("macro", "micro"))
    assert macro[1] - macro[0] > 1.5 * (micro[1] - micro[0])


@pytest.mark.parametrize("overall", ["macro", "micro"])
def test_paired_interval_is_the_slow_one(overall):
    """The same question numbers in both runs."""

    def slow(scores: list[float], drawn: list[int]) -> float:
        return slow_accuracy([(scores[i], CATEGORIES[i]) for i in drawn], overall)

    everything = list(range(len(SCORES)))
    differences = [slow(OTHER, drawn) - slow(SCORES, drawn) for drawn in slow_resamples(overall)]
    found = paired_interval(SCORES, OTHER, CATEGORIES, overall)
    assert found[0] == pytest.approx(slow(OTHER, everything) - slow(SCORES, everything))
    assert found[0] != 0
    assert found[1:] == pytest.approx(quantiles(differences), abs=1.5)


def test_pairs_that_agree_have_a_narrower_interval_than_strangers():
    a = [0.0, 1.0] * 200
    close, stranger = [*a[:-4], 1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 1.0, 1.0] * 100
    widths = []
    for b in (close, stranger):
        _, low, high = paired_interval(a, b, [""] * 400, "micro")
        widths.append(high - low)
    # Normal approximation: 2 · 1.96 · the differences' standard error.
    for width, b in zip(widths, (close, stranger), strict=True):
        error = statistics.pstdev(y - x for x, y in zip(a, b, strict=True)) / math.sqrt(400)
        assert width == pytest.approx(100 * 2 * 1.96 * error, rel=0.1)
    assert widths[0] < widths[1] / 3


@pytest.mark.parametrize(("right", "n"), [(3, 10), (30, 40), (600, 1000)])
def test_interval_is_the_exact_binomial_one(right, n):
    """The number of right answers in a resample is binomial; its quantiles by adding its probabilities up."""
    p, below, expected = right / n, 0.0, []
    for k in range(n + 1):
        mass = math.exp(math.log(math.comb(n, k)) + k * math.log(p) + (n - k) * math.log(1 - p))
        expected += [100 * k / n for level in (0.025, 0.975) if below < level <= below + mass]
        below += mass
    scores = [1.0] * right + [0.0] * (n - right)
    # Exact, but for one question in a thousand: 10,000 resamples can miss a quantile by that.
    assert bootstrap_interval(scores, [""] * n, "micro") == pytest.approx(expected, abs=0.101)
    normal = [100 * (p + z * math.sqrt(p * (1 - p) / n)) for z in (-1.96, 1.96)]
    assert expected == pytest.approx(normal, abs=120 / n)


def test_scores_need_not_be_zero_or_one():
    low, high = bootstrap_interval([0.2, 0.4, 0.6, 0.8], ["a"] * 4, "micro")
    means = sorted(100 * statistics.fmean(drawn) for drawn in itertools.product([0.2, 0.4, 0.6, 0.8], repeat=4))
    assert (low, high) == pytest.approx((means[round(0.025 * 256)], means[round(0.975 * 256) - 1]), abs=5.1)


def test_the_seed_decides():
    interval = bootstrap_interval(SCORES, CATEGORIES, "macro", resamples=200, seed=1)
    assert interval == bootstrap_interval(SCORES, CATEGORIES, "macro", resamples=200, seed=1)
    assert interval != bootstrap_interval(SCORES, CATEGORIES, "macro", resamples=200, seed=2)
    assert paired_interval(SCORES, OTHER, CATEGORIES, "macro") == paired_interval(SCORES, OTHER, CATEGORIES, "macro")


def test_no_spread():
    categories = ["a", "b", "b", "c"]
    assert bootstrap_interval([1, 0, 0, 1], categories, "macro") == (accuracy([1, 0, 0, 1], categories, "macro"),) * 2
    assert paired_interval(SCORES, SCORES, CATEGORIES, "macro") == (0, 0, 0)


@pytest.mark.parametrize(("lost", "won"), list(itertools.product(range(7), repeat=2)))
def test_mcnemar_counts_coin_tosses(lost, won):
    """All 2^n ways that n differing questions can fall; as extreme are those at least as far from a half."""
    a = [1.0] * lost + [0.0] * won + [1.0, 0.0, 0.0]
    b = [0.0] * lost + [1.0] * won + [1.0, 0.0, 0.0]
    n = lost + won
    heads = [sum(toss) for toss in itertools.product((0, 1), repeat=n)]
    extreme = sum(abs(h - n / 2) >= abs(lost - n / 2) for h in heads)
    assert mcnemar(a, b) == mcnemar(b, a) == pytest.approx(extreme / 2**n)


def test_mcnemar_of_many_is_the_normal_approximation():
    a, b = [1] * 900 + [0] * 1010, [0] * 900 + [1] * 1010
    z = (abs(900 - 1010) - 1) / math.sqrt(1910)
    assert mcnemar(a, b) == pytest.approx(math.erfc(z / math.sqrt(2)), rel=0.01)


@pytest.mark.parametrize(
    ("scores", "categories", "overall", "message"),
    [
        ([], [], "micro", "0 scores of 0 questions"),
        ([1], ["a", "b"], "macro", "1 scores of 2 questions"),
        ([1, math.nan], ["a", "b"], "micro", "score nan is not finite"),
        ([1], ["a"], "mean", "overall='mean' must be 'macro' or 'micro'"),
    ],
)
def test_bad_input(scores, categories, overall, message):
    for wrong in (accuracy, bootstrap_interval):
        with pytest.raises(ValueError, match=message):
            wrong(scores, categories, overall)
    with pytest.raises(ValueError, match=message):
        paired_interval([0] * len(scores), scores, categories, overall)


def test_bad_pairs():
    with pytest.raises(ValueError):
        paired_interval([1, 0], [1], ["a", "a"], "micro")
    with pytest.raises(ValueError):
        mcnemar([1, 0], [1])
    with pytest.raises(ValueError, match=r"scores \(1, 0.5\)"):
        mcnemar([1, 1], [1, 0.5])
