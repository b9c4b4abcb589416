"""How much of a video the kept tokens still show: measures that need no question and no answer.

Shapes: T frames, M tokens per frame, hidden size D, N kept tokens. All measures read the features x [T, M, D] and the
result of a selection, and change neither. Features of half precision are computed in float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vidcom2.compressor import Kept
from vidcom2.features import check_features, full_precision, has_float64

FAR = 20
"""The largest distance of two frames in `Measures.overlap_far`, as GleanVID's authors measure it."""
COVERED = 0.9
"""The cosine from which on a dense token counts as covered, as SimpleCluster's authors have it."""
CHUNK = 512
"""Dense tokens that are compared with all kept ones at a time."""


@dataclass(frozen=True)
class Measures:
    """What `measure` tells of one selection.

    Attributes:
        tokens: N, the number of kept tokens.
        retention: N / (T·M).
        dimension: `effective_dimension` of the kept tokens, about the mean of the dense tokens.
        rank: `effective_rank` of the same.
        dimension_raw: `effective_dimension` of the kept tokens as they are, about zero.
        overlap: `overlap` of the kept places of neighbouring frames. None for one frame.
        overlap_random: What `overlap` is expected to be if each frame keeps as many places, drawn at random.
        overlap_far: `overlap` over all pairs of frames that are 1 to FAR frames apart. None for one frame.
        overlap_far_random: What `overlap_far` is expected to be for random places.
        seen: Share of the M places that at least one frame keeps.
        seen_random: What `seen` is expected to be for random places.
        share_min: The smallest share of its tokens that a frame keeps.
        share_max: The largest.
        gini: `gini` of the frames' budgets.
        nqe: `quantisation_error`, SimpleCluster's L2-NQE.
        coverage: `coverage`, SimpleCluster's Coverage@0.90.
        budgets: k_t, how many tokens each frame keeps.
    """

    tokens: int
    retention: float
    dimension: float
    rank: float
    dimension_raw: float
    overlap: float | None
    overlap_random: float | None
    overlap_far: float | None
    overlap_far_random: float | None
    seen: float
    seen_random: float
    share_min: float
    share_max: float
    gini: float
    nqe: float
    coverage: float
    budgets: tuple[int, ...]


def measure(x: Tensor, kept: Kept) -> Measures:
    """Measure what a method kept of a video.

    Where a method merges, its merged tokens are the kept ones, and their places are those of `kept.index`.

    Args:
        x: Features [T, M, D] that the method selected from.
        kept: What it kept.

    Raises:
        TypeError: x is not a tensor.
        ValueError: x is no video's features, or those of another video.
    """
    check_features(x)
    if len(x) != len(kept.budgets) or int(kept.index.max()) >= x.shape[:2].numel():
        raise ValueError(f"{kept!r} is not of features of shape {tuple(x.shape)}: pass those it was selected from")
    with full_precision(x.device):
        return _measure(x, kept)


def _measure(x: Tensor, kept: Kept) -> Measures:
    """`measure` of checked arguments."""
    tokens = computed(kept.apply(x))
    dense = computed(x.flatten(0, 1))
    centre = dense.mean(dim=0)
    deviations = _significant(tokens - centre, dense)
    nqe, covered = _nearest(dense, tokens, centre)
    spanned = effective_dimension(deviations), effective_rank(deviations), effective_dimension(tokens)
    there, share = places(kept, x.shape[1]).cpu(), kept.budgets.cpu() / x.shape[1]
    counts = there.sum(dim=1)
    return Measures(
        tokens=len(tokens),
        retention=len(tokens) / len(dense),
        dimension=spanned[0],
        rank=spanned[1],
        dimension_raw=spanned[2],
        overlap=overlap(there),
        overlap_random=expected_overlap(counts, x.shape[1]),
        overlap_far=overlap(there, FAR),
        overlap_far_random=expected_overlap(counts, x.shape[1], FAR),
        seen=float(there.any(dim=0).float().mean()),
        seen_random=1 - float((1 - counts / x.shape[1]).prod()),
        share_min=float(share.min()),
        share_max=float(share.max()),
        gini=gini(kept.budgets),
        nqe=nqe,
        coverage=covered,
        budgets=tuple(kept.budgets.tolist()),
    )


def computed(tokens: Tensor) -> Tensor:
    """Return tokens in the dtype that measures are computed in: float32, or float64 if they have it."""
    return tokens.to(torch.promote_types(tokens.dtype, torch.float32))


# ---- what the kept tokens span


def effective_dimension(tokens: Tensor) -> float:
    """Return the participation ratio (Σλ)² / Σλ², with λ the eigenvalues of the tokens' Gram matrix.

    It is n for n orthogonal tokens of equal length, 1 if all tokens are multiples of one, and 0 if all are zero. The
    scale of the tokens changes nothing.

    Args:
        tokens: [N, D], as they are, or less a centre.
    """
    gram = _gram(tokens)  # Σλ is its trace, and Σλ² the sum of the squares of its entries
    total = gram.trace()
    return float(total.square() / gram.square().sum()) if total > 0 else 0.0


def effective_rank(tokens: Tensor) -> float:
    """Return exp(-Σ p ln p) with p = λ / Σλ and λ as in `effective_dimension`.

    It weighs small eigenvalues more than the participation ratio does, and so is never below it. Roy and Vetterli (The
    effective rank, EUSIPCO 2007) take the singular values, √λ, for λ. Of those, many that are rounding errors alone
    would add up.

    Args:
        tokens: [N, D], as they are, or less a centre.
    """
    gram = _gram(tokens)
    total = gram.trace()
    if total <= 0:
        return 0.0
    gram = gram / total
    share = torch.linalg.eigvalsh(gram if has_float64(gram.device) else gram.cpu())  # Apple's GPUs cannot do it
    return float(torch.special.entr(share.clamp_min(0)).sum().exp())


def _gram(tokens: Tensor) -> Tensor:
    """The Gram matrix of [N, D], or that of its transpose, which has the same eigenvalues but for zeros, if smaller."""
    tokens = computed(tokens)
    tokens = tokens / tokens.abs().max().clamp_min(torch.finfo(tokens.dtype).tiny)  # so that no product overflows
    return tokens @ tokens.T if len(tokens) <= tokens.shape[1] else tokens.T @ tokens


def _significant(deviations: Tensor, dense: Tensor) -> Tensor:
    """Return deviations [N, D] from the mean of `dense`, with zero for those that rounding alone may have made."""
    noise = 8 * torch.finfo(dense.dtype).eps * dense.abs().max() * dense.shape[1] ** 0.5
    return deviations * (deviations.norm(dim=1, keepdim=True) > noise)


# ---- where they stand


def places(kept: Kept, m: int) -> Tensor:
    """Return which places of each frame are kept, bool [T, M].

    Args:
        kept: What a method kept.
        m: M, tokens per frame.
    """
    there = torch.zeros(len(kept.budgets) * m, dtype=torch.bool, device=kept.index.device)
    there[kept.index] = True
    return there.view(-1, m)


def overlap(there: Tensor, far: int = 1) -> float | None:
    """Return the mean of |A ∩ B| / |A ∪ B| over all pairs of frames that are 1 to `far` frames apart.

    A and B are the places that the two frames keep. A pair that keeps none is left out.

    Args:
        there: Kept places, bool [T, M].
        far: The largest distance.

    Returns:
        The mean. None if no pair is left.
    """
    kept = there.float()
    first, second = _pairs(len(kept), far)
    both = (kept @ kept.T)[first, second]
    either = kept.sum(dim=1)[first] + kept.sum(dim=1)[second] - both
    some = either > 0
    return float((both[some] / either[some]).mean()) if some.any() else None


def expected_overlap(counts: Tensor, m: int, far: int = 1) -> float | None:
    """Return what `overlap` is on average if each frame keeps as many places, drawn without replacement.

    Of two frames that keep a and b of M places, i are the same with the hypergeometric probability
    C(a, i) C(M - a, b - i) / C(M, b), and the overlap is i / (a + b - i).

    Args:
        counts: int64 [T], how many places each frame keeps.
        m: M, places of a frame.
        far: The largest distance of two frames.

    Returns:
        The mean. None if no pair is left.
    """
    first, second = _pairs(len(counts), far)
    pairs = torch.stack([counts.cpu()[first], counts.cpu()[second]], dim=1)
    pairs, times = pairs[pairs.sum(dim=1) > 0].unique(dim=0, return_counts=True)
    if not len(pairs):
        return None
    a, b = pairs.double().T[:, :, None]
    i = torch.arange(m + 1, dtype=torch.float64)
    possible = (i <= a) & (i <= b) & (a + b - i <= m)
    log = _log_choose(a, i) + _log_choose(m - a, b - i) - _log_choose(torch.tensor(m, dtype=torch.float64), b)
    expected = torch.where(possible, log.exp() * i / (a + b - i).clamp_min(1), torch.zeros_like(log)).sum(dim=1)
    return float((expected * times).sum() / times.sum())


def _log_choose(n: Tensor, k: Tensor) -> Tensor:
    """ln C(n, k), anything where that is impossible."""
    n, k = torch.broadcast_tensors(n, k)
    k = torch.minimum(k.clamp_min(0), n)
    return (n + 1).lgamma() - (k + 1).lgamma() - (n - k + 1).lgamma()


def _pairs(frames: int, far: int) -> tuple[Tensor, Tensor]:
    """The first and the second frame of each pair of frames that are 1 to `far` apart, int64 each."""
    t = torch.arange(frames)
    apart = t[None] - t[:, None]
    first, second = ((apart >= 1) & (apart <= far)).nonzero(as_tuple=True)
    return first, second


def gini(budgets: Tensor) -> float:
    """Return the Gini coefficient Σ_s Σ_t |k_s - k_t| / (2 T Σ k) of the frames' budgets k, int64 [T].

    It is 0 if all frames keep as many tokens, and 1 - 1/T if one frame keeps all.
    """
    k = budgets.cpu().float()
    return float((k[:, None] - k).abs().sum() / (2 * len(k) * k.sum()))


# ---- how near the dense tokens are to them


def quantisation_error(dense: Tensor, tokens: Tensor) -> float:
    """Return Σ_i min_j |x_i - c_j|² / Σ_i |x_i - x̄|², SimpleCluster's L2-NQE (arXiv 2609.35394).

    It is 0 if every dense token has a kept one that is equal, and 1 if the mean x̄ of the dense tokens is all that is
    kept.

    Args:
        dense: Dense tokens x [T·M, D].
        tokens: Kept tokens c [N, D].
    """
    dense = computed(dense)
    return _nearest(dense, computed(tokens), dense.mean(dim=0))[0]


def coverage(dense: Tensor, tokens: Tensor) -> float:
    """Return the share of dense tokens [T·M, D] with a kept one [N, D] at a cosine of COVERED or more.

    It is SimpleCluster's Coverage@0.90 (arXiv 2609.35394). A zero token has cosine 0, as there.
    """
    dense = computed(dense)
    return _nearest(dense, computed(tokens), dense.mean(dim=0))[1]


def _nearest(dense: Tensor, tokens: Tensor, centre: Tensor) -> tuple[float, float]:
    """Return `quantisation_error` and `coverage`, of CHUNK dense tokens at a time.

    Distances are compared about the centre [D], where fewer digits cancel. That of the nearest token is then computed
    from the difference, so that an equal token is at 0.
    """
    kept = tokens - centre
    squares, directions = kept.square().sum(dim=1), torch.nn.functional.normalize(tokens, eps=1e-6)
    error, spread, covered = dense.new_zeros(3).unbind()
    for part in dense.split(CHUNK):
        deviation = part - centre
        nearest = (squares - 2 * deviation @ kept.T).argmin(dim=1)
        error = error + (deviation - kept[nearest]).square().sum()
        spread = spread + deviation.square().sum()
        cosines = torch.nn.functional.normalize(part, eps=1e-6) @ directions.T
        covered = covered + (cosines.amax(dim=1) >= COVERED).sum()
    tiny = torch.finfo(dense.dtype).tiny
    return float(error / spread.clamp_min(tiny)), float(covered / len(dense))
