"""SimpleCluster: "Rethinking Visual Token Compression for Video Large Language Models: A Simple Yet Strong Baseline",
https://arxiv.org/abs/2609.35394.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vidcom2.budget import total_budget
from vidcom2.compressor import Compressor, Kept
from vidcom2.features import lengths, require_finite
from vidcom2.kernels.in_slices import by_frames
from vidcom2.pieces.clustering import members
from vidcom2.pieces.farthest import farthest_first_clusters
from vidcom2.pieces.merging import group_means
from vidcom2.settings import check_at_least_one, check_choice
from vidcom2.specs import register

THETA = 10000.0
"""Base of the rotary frequencies."""
EPS = 1e-6
"""The least length that a token is divided by."""


@register("simplecluster")
@dataclass(frozen=True)
class SimpleCluster(Compressor):
    """Cluster the tokens of the whole video by content and place, and keep the mean of each cluster.

        place   a third of the channels is turned by the frame's number, one by the token's row, one by its column, as
                rotary position embeddings do. The turned token is p, over |x|. Inner products of p then fall with the
                distance in time and space. `rotate` says which channel is turned how fast.
        groups  count = R·T·M clusters of the p. A seed is taken farthest from all seeds before it, again and again.
        merging a cluster becomes the mean of its x, not turned. The mean stands where its first token stood.

    Before the LLM. The number of a frame is its number among the T frames, as in the authors' models, whatever the
    seconds between them. Frames need not keep a token each.

    Args:
        form: "mended" keeps round(R·T·M) tokens, but at least T. Its time is linear in T: the seeds are sought in runs
            of frames, see `pieces.farthest`. Tokens are compared on `channels` sums of channels, each channel with a
            random sign, and turned after that. So squared distances are right on average, with a relative error of
            about sqrt(2 / channels). Seeds are sought on a third as many sums. There is no k-means: on synthetic videos
            it changed the mean distance to the nearest kept token by less than 6 %. That distance, with all of the
            above, was 1.0 to 1.3 times that of "released" at R = 0.25. For "released", see the classmethod `released`.
        channels: For "mended" only: how many sums of channels are compared.
        iterations: For "released" only: the most iterations of k-means.
    """

    form: Literal["mended", "released"] = "mended"
    channels: int = 192
    iterations: int = 10

    presets: ClassVar[tuple[str, ...]] = ("released",)
    venue: ClassVar[str] = "arXiv 2026"
    paper: ClassVar[str] = "https://arxiv.org/abs/2609.35394"
    video_specific: ClassVar[bool] = True
    frame_adaptive: ClassVar[bool] = True
    merges: ClassVar[bool] = True
    uses_grid: ClassVar[bool] = True
    reachable: ClassVar[str] = "any; `released`: any, but not for videos with many equal tokens"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "form", ("mended", "released"))
        check_at_least_one(self, "channels", "iterations")

    @classmethod
    def released(cls, retention: float = 0.25, **settings: Any) -> SimpleCluster:
        """Build what the authors' code does: spherical k-means over all tokens of the video.

        The first seed is the longest p. Since all have length 1, rounding chooses it. Each next seed is the token whose
        highest cosine to a seed is the lowest. Up to `iterations` times, tokens go to the centre with the highest
        cosine, and a centre becomes the mean of its tokens, of length 1. A centre without tokens becomes the token with
        the lowest cosine to its centre. round(R·T·M) tokens stay, one at least. Half-precision features are turned in
        their own precision. The time grows with (T·M)² R D.

        Where a centre has no token in the end, `select` raises ValueError. The authors' code raises RuntimeError there.
        """
        return cls(retention, **{"form": "released", **settings})

    def total(self, frames: int, m: int) -> int | None:
        """Return how many tokens stay of every video of T=frames and M=m; see `Compressor.total`.

        None for "released", since it raises an error for some videos.
        """
        if self.form == "released" and self.retention < 1:
            return None
        return total_budget(self.retention, frames, m)

    def _select_grid(self, x: Tensor, rows: int, columns: int) -> Kept:
        values = x.detach()  # only the means have gradients
        (length,) = by_frames(lambda x: (lengths(x),), values)
        require_finite(bool(length.isfinite().all()), x)
        frames, m = x.shape[:2]
        if self.form == "released":
            count = max(1, round(frames * m * self.retention))
            owner = self._k_means(rotate(values, rows, columns).flatten(0, 1), count)
        else:
            (folded,) = by_frames(lambda x: (fold(x, self.channels),), values)
            p = rotate(folded, rows, columns) / length.clamp_min(EPS)[..., None]
            rough = fold(p, -(-self.channels // 3))
            count = total_budget(self.retention, frames, m)
            owner = farthest_first_clusters(p.flatten(0, 1), rough.flatten(0, 1), frames, count)
        order, start = members(owner, count)
        index, by_place = order[start].sort()  # the first token of each cluster
        owner = by_place.argsort()[owner]
        merged, _ = group_means(x.flatten(0, 1), owner, count)
        return Kept(index, torch.bincount(index // m, minlength=frames), merged.to(x.dtype))

    def _k_means(self, turned: Tensor, count: int) -> Tensor:
        """Return the number of each token's cluster, int64 [N], for turned tokens [N, D]."""
        p = normalize(turned.to(torch.promote_types(turned.dtype, torch.float32)), dim=-1, eps=EPS)
        centres = p[spread(p, longest(p), count)]
        for _ in range(self.iterations):
            before, centres = centres, moved(p, centres)
            if torch.allclose(centres, before, atol=1e-6, rtol=0):
                break
        owner = (p @ centres.mT).argmax(dim=-1)
        if (found := len(owner.unique())) < count:
            raise ValueError(
                f"simplecluster.released cannot reach retention={self.retention!r}: its k-means finds {found} clusters "
                f"among {len(p)} tokens, and {count} are asked for; simplecluster (without .released) finds as many as "
                "it is asked for"
            )
        return owner


def longest(p: Tensor) -> Tensor:
    """Return the index of the longest token of p [N, D], int64 []; of equal ones the first."""
    return p.square().sum(dim=-1).argmax()


def spread(p: Tensor, first: Tensor, count: int) -> Tensor:
    """Return the indices of `count` tokens of p [N, D], int64, each with the lowest highest cosine to those before it.

    Args:
        p: Tokens of length 1.
        first: Index of the first one.
        count: How many.
    """
    chosen = first.repeat(count)
    nearest = p @ p[first]
    for k in range(1, count):
        chosen[k] = nearest.argmin()
        nearest = torch.maximum(nearest, p @ p[chosen[k]])
    return chosen


def moved(p: Tensor, centres: Tensor) -> Tensor:
    """Return the centres [K, D] after one step of k-means over the tokens p [N, D], all of length 1."""
    cosine = p @ centres.mT
    mean, count = group_means(p, cosine.argmax(dim=-1), len(centres))
    new = normalize(mean, dim=-1, eps=EPS)
    nearest = cosine.amax(dim=-1)
    for empty in (count == 0).nonzero().flatten().tolist():
        far = nearest.argmin()
        new[empty], nearest[far] = p[far], 1
    return new


def fold(x: Tensor, channels: int) -> Tensor:
    """Add up channels, each with a random sign: y_c = sum of sign_i x_i over the i that leave the rest c by `channels`.

    Inner products of y are those of x on average over the signs. These are the same on every device and in every call.

    Args:
        x: Features [T, M, D].
        channels: How many sums.

    Returns:
        [T, M, channels], or [T, M, D] if D is less, in the dtype of x.
    """
    d = x.shape[-1]
    sign = torch.randint(2, (d,), generator=torch.Generator().manual_seed(0)) * 2 - 1
    sign = sign.to(x)
    out = x[..., :channels] * sign[:channels]
    for i in range(channels, d, channels):
        part = x[..., i : i + channels]
        out[..., : part.shape[-1]].addcmul_(part, sign[i : i + channels])
    return out


def rotate(x: Tensor, rows: int, columns: int) -> Tensor:
    """Turn pairs of neighbouring channels by their token's place, in the dtype of x.

    The first D - 2 floor(D/3) channels are turned by the frame's number, the next floor(D/3) by the row, the others by
    the column. Pair j of h in such a part is turned by the angle place · 10000^(-j/h). An odd channel stays as it is.

    Args:
        x: Features [T, M, D].
        rows: Rows of a frame.
        columns: Columns of a frame.
    """
    frames, m, d = x.shape
    token = torch.arange(m, device=x.device)
    parts = x.split((d - 2 * (d // 3), d // 3, d // 3), dim=-1)
    places = (torch.arange(frames, device=x.device)[:, None], token // columns, token % columns)
    turned, first = x.clone(), 0
    for part, place in zip(parts, places, strict=True):
        pairs = part.shape[-1] // 2
        power = torch.arange(pairs, device=x.device, dtype=torch.float32) / max(pairs, 1)
        angle = place[..., None] * (1 / THETA**power)
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        even, odd = part[..., 0 : 2 * pairs : 2], part[..., 1 : 2 * pairs : 2]
        turned[..., first : first + 2 * pairs : 2] = even * cos - odd * sin
        turned[..., first + 1 : first + 2 * pairs : 2] = even * sin + odd * cos
        first += part.shape[-1]
    return turned
