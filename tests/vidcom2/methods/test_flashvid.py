"""FlashVID before the LLM: recorded runs of its authors' code, a slow reference, and the cases at the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.golden import entries, load
from tests.vidcom2.test_vidcom2 import video
from vidcom2 import compressor
from vidcom2.methods.flashvid import FlashVid

# ---- recorded runs of the authors' code

RATIOS = {"R005": 0.05, "R040": 0.4, "R060": 0.6}
SETTINGS = {
    "": {},
    "S2.": {"segments": 2},
    "loose.": {"segments": 1, "tau": 0.3, "link": 0.6, "alpha": 0.4},
}
RECORDED = [
    pytest.param(entry, tag, id=f"{entry['file'].split('_', 1)[1].removesuffix('.safetensors')}-{tag}")
    for entry in entries("baselines")
    if entry["file"].startswith("baselines/flashvid_")
    for tag in entry["meta"]["per_R"]
]


def by_place(place: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """Rows in order of their places; two at one place in order of their first number."""
    return features[sorted(range(len(place)), key=lambda i: (int(place[i]), float(features[i, 0])))]


@pytest.mark.parametrize(("entry", "tag"), RECORDED)
def test_released_equals_the_authors_code(entry, tag):
    golden, meta = load(entry["file"]), entry["meta"]
    reference = meta.get("input_ref", {"file": entry["file"], "tensor": "x"})
    x, place = load(reference["file"])[reference["tensor"]], golden[f"{tag}.keep"]
    settings, ratio = tag.rpartition("R")[0], RATIOS[f"R{tag.rpartition('R')[2]}"]
    kept = FlashVid.released(ratio, **SETTINGS[settings]).select(x)
    doubled = place[1:][place.diff() == 0]
    assert len(doubled) == meta["per_R"][tag]["kept"] - meta["per_R"][tag]["places"]
    if len(doubled):  # their second token of a place stands at a free one
        assert kept.index.tolist() == apart(place.tolist(), x.shape[1])
    else:
        assert torch.equal(kept.index, place)
    assert torch.equal(kept.budgets, torch.bincount(place // x.shape[1], minlength=len(x)))
    torch.testing.assert_close(
        by_place(place, kept.features), by_place(place, golden[f"{tag}.features"]), atol=1e-5, rtol=0
    )


def apart(places: list[int], m: int) -> list[int]:
    """Equal places moved on by the least that makes them differ, or back from the end of their frame."""
    made: list[int] = []
    for place in places:
        made.append(max(place, made[-1] + 1) if made else place)
    for i in range(len(made) - 1, -1, -1):
        last = (places[i] // m + 1) * m - 1
        after = made[i + 1] if i + 1 < len(made) and places[i + 1] // m == places[i] // m else last + 1
        made[i] = min(made[i], after - 1)
    return made


def test_the_recording_has_all_the_quirks():
    tags = [(entry.values[0]["meta"]["per_R"][entry.values[1]], entry.values[0]["meta"]) for entry in RECORDED]
    assert any(about["kept"] > about["places"] for about, _ in tags)
    assert any(about["kept"] == about["places"] for about, _ in tags)
    assert len({meta["T"] for _, meta in tags}) >= 4


def test_a_token_that_stands_still_grows_in_the_released_form():
    """The sum of a tree is divided by one more than the links to its root."""
    g = torch.Generator().manual_seed(3)
    x = (torch.randn(12, 16, generator=g) + 1).expand(8, 12, 16).contiguous()
    longest = x.norm(dim=-1).max()
    settings = {"segments": 1, "alpha": 0.5}
    grown = FlashVid.released(0.25, **settings).select(x).features.norm(dim=-1).max()
    assert grown > 3 * longest
    mean = FlashVid(0.25, **settings).select(x)
    assert mean.features.norm(dim=-1).max() <= longest * (1 + 1e-5)


def test_released_says_what_it_cannot_reach():
    with pytest.raises(ValueError, match=r"cannot reach retention=0\.96 with M=16"):
        FlashVid.released(0.96).select(video(4, 16, 8))
    with pytest.raises(ValueError, match="M=1"):
        FlashVid.released(0.25).select(video(4, 1, 8))


# ---- slow and obvious


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / lengths) if lengths else 0.0


def slow_segments(x: np.ndarray, least: int, tau: float) -> list[list[int]]:
    near = [cosine(x[t].mean(0), x[t + 1].mean(0)) for t in range(len(x) - 1)]
    cuts = {t for t in range(len(near)) if near[t] < tau}
    while len(cuts) < min(least - 1, len(near)):
        cuts.add(min((t for t in range(len(near)) if t not in cuts), key=lambda t: near[t]))
    found: list[list[int]] = [[]]
    for t in range(len(x)):
        found[-1].append(t)
        if t in cuts:
            found.append([])
    return found


def slow_salient(frame: np.ndarray, centre: np.ndarray, count: int) -> list[int]:
    weight = [float(np.linalg.norm(token)) * max(float(token @ centre), 0.0) for token in frame]
    chosen: list[int] = []
    while len(chosen) < count:
        score = {}
        for j in range(len(frame)):
            if j not in chosen:
                others = chosen or [i for i in range(len(frame)) if i != j]
                score[j] = weight[j] * min((1 - cosine(frame[i], frame[j]) for i in others), default=1.0)
        chosen.append(max(score, key=lambda j: score[j]))
    return chosen


def slow_centres(x: np.ndarray, count: int, neighbours: int) -> list[int]:
    d = np.array([[np.linalg.norm(a - b) for b in x] for a in x]) / math.sqrt(x.shape[1])
    density = [math.exp(-np.mean(np.sort(row)[:neighbours] ** 2)) for row in d]
    score = []
    for i in range(len(x)):
        denser = [d[i, j] for j in range(len(x)) if density[j] > density[i]]
        score.append(density[i] * (min(denser) if denser else d.max()))
    return sorted(sorted(range(len(x)), key=lambda i: -score[i])[:count])


def slow_shares(total: int, sizes: list[int]) -> list[int]:
    exact = [total * size / sum(sizes) for size in sizes]
    shares = [math.floor(share + 1e-9) for share in exact]
    order = sorted(range(len(sizes)), key=lambda i: round(shares[i] - exact[i], 9))
    for i in order[: total - sum(shares)]:
        shares[i] += 1
    return shares


def slow_flashvid(x: np.ndarray, ratio: float, **settings) -> dict[int, np.ndarray]:
    """FlashVID, token by token: what stands at each kept position."""
    alpha, link = settings.get("alpha", 0.7), settings.get("link", 0.8)
    frames, m = x.shape[:2]
    total = max(frames, round(ratio * frames * m))
    b = [total // frames + (t < total % frames) for t in range(frames)]
    kept: dict[int, np.ndarray] = {}
    for segment in slow_segments(x, settings.get("segments", 8), settings.get("tau", 0.9)):
        centre = x[segment].reshape(-1, x.shape[2]).mean(0)
        salient = {t: slow_salient(x[t], centre, math.ceil(alpha * b[t])) for t in segment}
        kept |= {t * m + j: x[t, j] for t in segment for j in salient[t]}
        loose = {t: [j for j in range(m) if j not in salient[t]] for t in segment}
        links = []
        for t in segment[1:]:
            for j in loose[t]:
                if loose[t - 1]:
                    similar, place = max((cosine(x[t, j], x[t - 1, i]), -i) for i in loose[t - 1])
                    if similar >= link:
                        links.append((similar, -(t * m + j), -place))
        wanted = sum(b[t] - len(salient[t]) for t in segment)
        most = sum(map(len, loose.values())) - wanted
        parent = {-child: place for _, child, place in sorted(links, reverse=True)[:most]}
        trees: dict[int, list[np.ndarray]] = {}
        for t in segment:
            for j in loose[t]:
                root = t * m + j
                while root in parent:
                    root = (root // m - 1) * m + parent[root]
                trees.setdefault(root, []).append(x[t, j])
        roots = {t: sorted(r for r in trees if r // m == t) for t in segment}
        shares = slow_shares(wanted, [len(roots[t]) for t in segment]) if wanted else [0] * len(segment)
        for t, share in zip(segment, shares, strict=True):
            means = np.array([np.mean(trees[r], axis=0) for r in roots[t]])
            if share == len(means):
                kept |= dict(zip(roots[t], means, strict=True))
            elif share:
                centres = slow_centres(means, share, settings.get("neighbours", 7))
                groups: dict[int, list[int]] = {c: [c] for c in centres}
                for i in range(len(means)):
                    if i not in groups:
                        groups[min(centres, key=lambda c: float(np.linalg.norm(means[i] - means[c])))].append(i)
                kept |= {roots[t][c]: means[group].mean(0) for c, group in groups.items()}
    return dict(sorted(kept.items()))


def scenes(lengths: list[int], m: int, d: int, noise: float) -> torch.Tensor:
    """Shots whose tokens drift by `noise`, and move by one place per frame, float64 [T, M, D]."""
    g = torch.Generator().manual_seed(sum(lengths) + m)
    frames = []
    for n in lengths:
        shot = torch.randn(m, d, generator=g, dtype=torch.float64) + 0.7
        frames += [shot.roll(i, 0) + noise * torch.randn(m, d, generator=g, dtype=torch.float64) for i in range(n)]
    return torch.stack(frames)


VIDEOS = {
    "shots": scenes([4, 1, 6, 2], 10, 8, 0.3),
    "still": scenes([12], 9, 6, 0.05),
    "wild": scenes([1] * 6 + [3], 12, 8, 1.0),
    "one frame": scenes([1], 14, 6, 0.1),
    "one token": scenes([5, 5], 1, 6, 0.1),
}


@pytest.mark.parametrize("kind", VIDEOS)
@pytest.mark.parametrize("ratio", [0.02, 0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize(
    "settings",
    [{}, {"segments": 2}, {"segments": 1, "tau": 0.3, "alpha": 0.3, "link": 0.6}, {"alpha": 0.0}, {"alpha": 1.0}],
    ids=str,
)
def test_mended_equals_the_slow_reference(kind, ratio, settings):
    x = VIDEOS[kind]
    kept = FlashVid(ratio, **settings).select(x)
    expected = slow_flashvid(x.numpy(), ratio, **settings)
    assert kept.index.tolist() == list(expected)
    torch.testing.assert_close(kept.features, torch.tensor(np.array(list(expected.values()))))


def test_the_videos_try_every_part():
    """Links, more trees than the budget, fewer of them, and segments of one frame."""
    assert any(len(segment) == 1 for segment in slow_segments(VIDEOS["shots"].numpy(), 8, 0.9))
    assert any(len(segment) > 2 for segment in slow_segments(VIDEOS["shots"].numpy(), 8, 0.9))
    still = VIDEOS["still"]
    many, few = FlashVid(0.1, segments=1).select(still), FlashVid(0.5, segments=1).select(still)
    assert len(many.index) == 12
    assert len(few.index) == 54
    assert few.budgets.max() > 2 * few.budgets.min()  # trees stand in the first frame


# ---- edges


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 1), (2, 4), (33, 9)], ids=str)
def test_exact_totals(shape, dtype):
    frames, m = shape
    noise = video(frames, m, 8)
    mixed = noise.clone()
    mixed[frames // 2 :, : m // 2 + 1] = 0
    videos = {
        "noise": noise,
        "centred": noise - noise.mean((0, 1)),
        "still": noise[:1].expand_as(noise),
        "zero": torch.zeros_like(noise),
        "partly zero": mixed,
        "equal": torch.ones_like(noise),
        "opposite": torch.cat([noise[: frames // 2], -noise[frames // 2 :]]),
        "tiny": noise * 1e-6,
    }
    for kind, x in videos.items():
        for ratio in (1e-6, 0.03, 0.1, 0.25, 0.5, 0.75, 0.999):
            made = FlashVid(ratio)
            kept = made.select(x.to(dtype))
            total = max(frames, round(ratio * frames * m))
            assert len(kept.index) == total == made.total(frames, m), (kind, ratio)
            assert kept.budgets.min() >= 1
            assert torch.equal(kept.index, kept.index.unique())
            assert kept.features.dtype == dtype
            assert kept.features.isfinite().all(), (kind, ratio)


def test_totals():
    assert FlashVid(1).total(4, 9) == FlashVid.released(1).total(4, 9) == 36
    assert FlashVid.released(0.5).total(4, 9) is None


def test_scale_changes_nothing():
    x = VIDEOS["shots"].float()
    kept = FlashVid(0.25).select(x)
    for scale in (1e-8, 1e8):
        scaled = FlashVid(0.25).select(x * scale)
        assert torch.equal(scaled.index, kept.index)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("flashvid:form=new", "form='new'"),
        ("flashvid:alpha=2", "alpha=2"),
        ("flashvid:link=-1", "link=-1"),
        ("flashvid:segments=0", "segments=0"),
        ("flashvid:neighbours=0", "neighbours=0"),
    ],
)
def test_bad_settings_raise_and_name_themselves(spec, message):
    with pytest.raises(ValueError, match=message):
        compressor(spec)
