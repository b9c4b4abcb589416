"""python -m eval visualize VIDEO: which frames of a video are unique, and which tokens a method keeps, as figures."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from llava.video import FrameSampling, VideoError, open_video, read_video
from vidcom2 import METHODS, Attachment, Compressor, Kept, VidCom2, compressor
from vidcom2.methods.holitom import HoliTom
from vidcom2.models.layers import LayerHooks

from ..models import canary, load_engine, protocol_for
from ..models.base import Engine, Unanswerable
from ..models.llava import LlavaEngine
from ..models.qwen import QwenEngine
from ..results.files import prepare_directory
from ..run.pool import fitting, loading
from .figures import COLOURS, save

PER_LINE = 8
DIMMED = 0.2
"""Brightness of what was dropped."""


@dataclass(frozen=True)
class Look:
    """What a model saw of a video, and what a method kept of it.

    frames: uint8 [T, H, W, 3], those that tokens are made of; of frames that share their tokens, the first.
    features: float [T, M, D], as the method got them. kept: bool [T, rows, columns], M = rows · columns.
    covered: share of a frame's height and of its width, from the top left, that the tokens stand for.
    """

    frames: np.ndarray
    features: Tensor
    kept: np.ndarray
    covered: float = 1.0


def prepare_visualize(arguments: argparse.Namespace) -> Callable[[], int]:
    """Check everything that can be checked before the model is loaded; returns what answers and draws."""
    from ..demo.show import MODEL

    method = drawable(arguments.compressor)
    model = arguments.model or str(MODEL)
    protocol = protocol_for(model).sampled(FrameSampling("uniform", max_frames=arguments.frames))
    try:
        with open_video(arguments.video):
            pass
    except VideoError as error:
        raise ValueError(str(error)) from error
    output = arguments.output or Path("outputs/visualize") / arguments.video.stem
    prepare_directory("--output", output)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = "float32" if device == "cpu" else protocol.default_dtype

    def draw() -> int:
        canary.require_for(model, [method.spec])
        with loading(f"--model {model}"):
            engine = load_engine(model, protocol, device, dtype)
        with fitting(f"--model {model}"):
            engine.check(method)
        try:
            look = watch(engine, str(arguments.video), arguments.question, method)
        except (VideoError, Unanswerable, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        budgets = look.kept.sum(axis=(1, 2))
        why = (method if isinstance(method, VidCom2) else VidCom2(method.retention)).explain(look.features)
        uniqueness = why.frame_uniqueness.float().cpu().numpy()
        shares = budgets / look.kept[0].size
        title = method.spec if method.stage == "before LLM" else f"{method.spec}, last layer"
        files = [
            *draw_uniqueness(look.frames, uniqueness, shares, output / "uniqueness", title),
            *draw_kept(look.frames, look.kept, output / "kept", title, look.covered),
        ]
        for file in files:
            print(file)
        return 0

    return draw


def drawable(spec: str) -> Compressor:
    """The method of a spec; ValueError where nothing is dropped, or where nobody knows what is."""
    method = compressor(spec)
    if not method.drops:
        raise ValueError(f"--compressor {spec} drops no token; to be drawn are {', '.join(METHODS)}")
    if isinstance(method, HoliTom) and method.form == "released":
        raise ValueError(
            f"{method.spec} makes the places of its tokens up, so they cannot be drawn; to be drawn are "
            f"{', '.join(METHODS)}, this one as holitom without .released"
        )
    return method


# ---- what a model and a method do


@dataclass(frozen=True, eq=False)
class Watched(Compressor):
    """`method` with its own settings, and notes of each video: features [T, M, D], and what it kept of their T·M
    tokens, int64 [N]. Those merged inside the LLM are no longer at any place and left out."""

    method: Compressor = field(kw_only=True)
    notes: list[tuple[Tensor, Tensor]] = field(default_factory=list, kw_only=True)

    @classmethod
    def of(cls, method: Compressor) -> Watched:
        return cls(method.retention, positions=method.positions, newlines=method.newlines, method=method)

    @property
    def spec(self) -> str:
        return self.method.spec

    def select(self, x: Tensor) -> Kept:
        kept = self.method.select(x)
        self.notes.append((x, kept.index))
        return kept

    def attach(self, model: nn.Module) -> Attachment:
        if self.method.stage == "before LLM":
            return super().attach(model)
        attachment = self.method.attach(model)
        hooks = layer_hooks(model)
        find, report = hooks.find, hooks.report
        embeds: list[Tensor] = []

        def found(kwargs: dict[str, Any]) -> Any:
            embeds[:] = [kwargs["inputs_embeds"]] if kwargs.get("inputs_embeds") is not None else []
            return find(kwargs)

        def reported(visuals: Any) -> None:
            for visual in visuals:
                place = visual.place
                features = embeds[0][place.row, place.columns].unflatten(0, (place.frames, -1))
                self.notes.append((features, visual.ids[visual.ids < len(place.columns)]))
            report(visuals)

        hooks.find, hooks.report = found, reported
        return attachment


def layer_hooks(model: nn.Module) -> LayerHooks:
    """What drops rows between the layers of a model that a method inside the LLM is attached to."""
    owners = (getattr(hook, "__self__", None) for part in model.modules() for hook in part._forward_hooks.values())
    return next(owner for owner in owners if isinstance(owner, LayerHooks))


def watch(engine: Engine, video_file: str, question: str, method: Compressor) -> Look:
    """Have a question about a video answered under `method`, and see what becomes of the video.

    Raises VideoError, Unanswerable, and ValueError where the method cannot serve this model or this video.
    """
    engine.check(method)
    watched = Watched.of(method)
    seen = engine.see(engine.read(video_file))
    engine.answer(seen, question, {"max_new_tokens": 1}, watched)
    features, index = watched.notes[0]
    frames, (rows, columns), covered = seen_by(engine, video_file, seen)
    kept = np.zeros(len(features) * rows * columns, dtype=bool)
    kept[index.cpu().numpy()] = True
    return Look(frames, features, kept.reshape(len(features), rows, columns), covered)


def seen_by(engine: Engine, video_file: str, seen: Any) -> tuple[np.ndarray, tuple[int, int], float]:
    """A video's frames, the grid of tokens in each, and the share of their sides that it covers: see `Look`.

    seen: the engine's, after an answer.
    """
    if isinstance(engine, LlavaEngine):
        frames, tower = read_video(video_file, engine.protocol.sampling).frames, engine.model.get_vision_tower()
        if getattr(tower.image_processor, "do_center_crop", False):
            frames = central_square(frames)
        side = tower.num_patches_per_side
        stride = getattr(engine.model.config, "mm_spatial_pool_stride", None) or 2
        # Bilinear pooling stretches over all of a frame; the others leave out what does not fill a stride.
        bilinear = engine.model.config.mm_spatial_pool_mode == "bilinear"
        pooled = math.ceil(side / stride) if bilinear else side // stride
        return frames, (pooled, pooled), 1.0 if bilinear else pooled * stride / side
    if isinstance(engine, QwenEngine):
        t, height, width = seen.inputs[2]["video_grid_thw"][0].tolist()
        merged = engine.model.model.visual.spatial_merge_size
        together = engine.model.config.vision_config.temporal_patch_size
        frames = seen.read.frames[::together][:t].permute(0, 2, 3, 1).round().clamp(0, 255).byte().cpu().numpy()
        return frames, (height // merged, width // merged), 1.0
    raise ValueError(f"{type(engine).__name__} does not say how it lays out a frame's tokens")


def central_square(frames: np.ndarray) -> np.ndarray:
    """What CLIP's processor leaves of [T, H, W, 3] at the edges of the longer side: nothing."""
    height, width = frames.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return frames[:, top : top + side, left : left + side]


# ---- drawing


def draw_uniqueness(
    frames: np.ndarray, uniqueness: np.ndarray, shares: np.ndarray, path: Path, title: str
) -> tuple[Path, Path]:
    """Draw frames' uniqueness and what is kept of each, over the film; returns the files, png and pdf.

    frames: uint8 [T, H, W, 3]. uniqueness: u_t [T]. shares: of the frames' tokens, in [0, 1]. path: without ending.
    """
    count, height, width = frames.shape[:3]
    inches = max(7.0, 0.8 * count)
    film = inches / count * height / width
    figure = Figure(figsize=(inches, 3.6 + film), dpi=150, layout="constrained")
    # More height than the film needs, so that its width is that of the bars.
    upper, middle, lower = figure.subplots(3, sharex=True, height_ratios=[1.6, 1.2, film + 0.4])
    # Only differences count in the softmax over frames: bars begin a little below the lowest.
    low, high = float(uniqueness.min()), float(uniqueness.max())
    base = low - max(0.08 * (high - low), 1e-6)
    upper.bar(range(count), uniqueness - base, bottom=base, color=COLOURS[0], width=0.8)
    upper.set(ylabel="uniqueness $u_t$\n(cut axis)", title=title)
    middle.bar(range(count), 100 * shares, color=COLOURS[1], width=0.8)
    mean = 100 * shares.mean()
    middle.axhline(mean, color="black", linestyle="--", linewidth=0.8, label=f"mean: {mean:.1f} %")
    middle.set(ylabel="tokens kept, %")
    middle.legend(loc="lower right", fontsize=8)
    for t, frame in enumerate(frames):
        lower.imshow(frame, extent=(t - 0.47, t + 0.47, 0, 0.94 * height / width))
    lower.set(xlim=(-0.5, count - 0.5), ylim=(0, 0.94 * height / width), yticks=[], xlabel="frame", anchor="N")
    lower.set_xticks(range(count), [str(t + 1) for t in range(count)])
    for axes in (upper, middle):
        axes.tick_params(bottom=False)
    for axes in (upper, middle, lower):
        axes.spines[["top", "right"]].set_visible(False)
    lower.spines[:].set_visible(False)
    return save(figure, path)


def draw_kept(frames: np.ndarray, kept: np.ndarray, path: Path, title: str, covered: float = 1.0) -> tuple[Path, Path]:
    """Draw the frames, dark where tokens were dropped, kept ones outlined; returns the files, png and pdf.

    Arguments as in `Look`.
    """
    count, height, width = frames.shape[:3]
    cell = np.array([width / kept.shape[2], height / kept.shape[1]]) * covered  # of a token, in pixels
    columns = min(count, PER_LINE)
    lines = math.ceil(count / columns)
    figure = Figure(figsize=(1.5 * columns, (1.5 * height / width + 0.25) * lines + 0.4), dpi=200, layout="constrained")
    figure.suptitle(f"{title}: {kept.sum()} of {kept.size} patch tokens", fontsize=9)
    grid = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes in grid:
        axes.axis("off")
    for t, (axes, frame) in enumerate(zip(grid, darkened(frames, kept, covered), strict=False)):
        axes.imshow(frame, extent=(0, width, height, 0))
        outlines = [Rectangle((c * cell[0], r * cell[1]), *cell) for r, c in np.argwhere(kept[t])]
        axes.add_collection(PatchCollection(outlines, facecolor="none", edgecolor=COLOURS[4], linewidth=0.4))
        axes.set_title(f"{t + 1}: {kept[t].sum()} of {kept[t].size}", fontsize=7, pad=2)
    return save(figure, path)


def darkened(frames: np.ndarray, kept: np.ndarray, covered: float = 1.0) -> np.ndarray:
    """The frames, uint8 [T, H, W, 3], dark wherever no kept token stands for a pixel. Arguments as in `Look`."""
    rows, columns = kept.shape[1:]
    lit = np.pad(kept, ((0, 0), (0, 1), (0, 1)))  # no token stands for what is behind the last row and column
    row, column = (
        np.minimum((np.arange(size) + 0.5) / size / covered * cells, cells).astype(int)
        for size, cells in zip(frames.shape[1:3], (rows, columns), strict=True)
    )
    return np.where(lit[:, row][:, :, column][..., None], frames, DIMMED * frames).astype(np.uint8)
