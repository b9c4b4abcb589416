"""VidCom², slow and obvious: numpy, float64, token by token."""

from __future__ import annotations

import math

import numpy as np


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    product = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / product) if product else 0.0


def gaussian(a: np.ndarray, b: np.ndarray) -> float:
    d2 = float(((a - b) ** 2).sum())
    return sum(math.exp(-d2 / (2 * alpha)) for alpha in (1 / 8, 1 / 4, 1 / 2, 1, 2))


def vidcom2(
    x: np.ndarray,
    retention: float,
    *,
    tau: float = 0.01,
    sign: int = -1,
    frame_score: str = "mean",
    window: int | None = None,
    frame_weight: float = 1.0,
    video_weight: float = 1.0,
    similarity: str = "cosine",
    rounding: str = "ceil",
) -> tuple[list[int], list[int]]:
    """Return the kept positions in the T·M tokens, ascending, and the tokens kept per frame, for x [T, M, D]."""
    x = x.astype(np.float64)
    frames, m, channels = x.shape
    compare = cosine
    if similarity == "gaussian":
        compare = gaussian
        variance = x.reshape(-1, channels).var(0)
        x = x[:, :, np.argsort(variance, kind="stable")[: max(1, channels // 2)]]
        x = np.array([[v / max(np.linalg.norm(v), 1e-12) for v in frame] for frame in x])

    s_video, s_frame = np.zeros((frames, m)), np.zeros((frames, m))
    for t in range(frames):
        first = 0 if window is None else t // window * window
        last = frames if window is None else min(frames, first + window)
        g_video = x[first:last].reshape(-1, x.shape[-1]).mean(0)
        g_frame = x[t].mean(0)
        for j in range(m):
            s_video[t, j] = compare(x[t, j], g_video)
            s_frame[t, j] = compare(x[t, j], g_frame)

    u = {"mean": (-s_video).mean(1), "max": (-s_video).max(1), "uniform": np.zeros(frames)}[frame_score]
    weight = np.exp((u - u.max()) / tau)
    sigma = weight / (weight.sum() + 1e-8)

    kept: list[int] = []
    budgets: list[int] = []
    for t in range(frames):
        wish = min(retention * (1 + sigma[t] - 1 / frames), 1.0) * m
        k = math.ceil(wish - 1e-6) if rounding == "ceil" else round(wish)  # float noise must not add a token
        k = min(max(k, 1), m)
        ranking = sign * (frame_weight * s_frame[t] + video_weight * s_video[t])
        best = sorted(range(m), key=lambda j: -ranking[j])[:k]
        kept += [t * m + j for j in sorted(best)]
        budgets.append(k)
    return kept, budgets
