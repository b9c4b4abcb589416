"""vidcom2 see VIDEO: draw how unique a video's frames are, and which tokens a method keeps."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from llava.video import FrameSampling, VideoError, open_video, read_video
from vidcom2 import Attachment, Compressor, Dense, Keep, Kept, VidCom2, compressor, method_names
from vidcom2.models.layers import LayerHooks

from ..models import Protocol, canary, load_engine, protocol_for
from ..models.base import Engine, Unanswerable
from ..models.llava import LlavaEngine
from ..models.packaged import DEMO_MODEL
from ..models.qwen import QwenEngine
from ..results.files import prepare_directory
from ..run.setup import fitting, loading
from .figures import COLOURS, save

PER_LINE = 8
"""Frames in a line of the figure."""
DRAWABLE = ", ".join(name for name in method_names() if name != Dense.name)
"""The methods that drop tokens."""
DIMMED = 0.2
"""Brightness of dropped tokens, 1 being that of the frame."""


@dataclass(frozen=True)
class Look:
    """What a model saw of a video, and what a method kept of it.

    Attributes:
        frames: uint8 [T, H, W, 3], the frames that the tokens come from. Where several frames share their tokens, the
            first of them.
        features: float [T, M, D], as the method got them.
        kept: bool [T, rows, columns], with rows · columns = M. True where the method keeps the token.
        covered: Share of a frame's height and of its width that the tokens cover, from the top left.
    """

    frames: np.ndarray
    features: Tensor
    kept: np.ndarray
    covered: float = 1.0


def prepare_visualize(arguments: argparse.Namespace) -> Callable[[], int]:
    """Check everything that can be checked before the model is loaded. Return a function that answers and draws."""
    method = drawable(arguments.compressor)
    model = arguments.model or str(DEMO_MODEL)
    protocol = protocol_for(model).sampled(FrameSampling("uniform", max_frames=arguments.frames))
    if arguments.keep:
        protocol = replace(protocol, keep=Keep.parse(",".join(arguments.keep)))
        method.with_budgets(lambda frames, m: None)  # raises ValueError if it takes none
    try:
        with open_video(arguments.video):
            pass
    except VideoError as error:
        raise ValueError(str(error)) from error
    output = arguments.output or Path("outputs/visualize") / arguments.video.stem
    prepare_directory("--output", output)

    def draw() -> int:
        engine = opened(model, protocol, [method])
        try:
            look = watch(engine, str(arguments.video), arguments.question, method)
        except (VideoError, Unanswerable, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        for file in draw_look(look, method, output):
            print(file)
        return 0

    return draw


def opened(model: str, protocol: Protocol, methods: Sequence[Compressor]) -> Engine:
    """Load a model that is to be looked at under some methods, on the GPU if there is one.

    Raises:
        Unsuitable: It cannot be loaded, or a method cannot serve it.
    """
    canary.require_for(model, methods)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with loading(f"--model {model}"):
        engine = load_engine(model, protocol, device, "float32" if device == "cpu" else protocol.default_dtype)
    with fitting(f"--model {model}"):
        for method in methods:
            engine.check(method)
    return engine


def drawable(spec: str) -> Compressor:
    """Return the compressor of a spec.

    Raises:
        ValueError: It drops nothing, or it does not say which tokens it drops.
    """
    method = compressor(spec)
    if not method.drops:
        raise ValueError(f"--compressor {spec} drops no token; draw one of {DRAWABLE}")
    if not method.tells_places:
        raise ValueError(
            f"{method.spec} gives its tokens positions that are not their own, so they cannot be drawn; draw "
            f"one of {DRAWABLE}, this one as {method.name} without .released"
        )
    return method


# ---- observing a model and a method


@dataclass(frozen=True)
class Note:
    """What a method got of a video, and what it kept.

    Attributes:
        features: [T, M, D].
        index: int64 [N], the kept ones among the T·M tokens. Tokens that a method inside the LLM merged have no index
            and are left out.
        grid: Rows and columns of a frame, where the model tells them to methods.
    """

    features: Tensor
    index: Tensor
    grid: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False)
class Watched(Compressor):
    """A method that notes what it gets and what it keeps.

    Attributes:
        method: The method.
        notes: One for each video.
    """

    method: Compressor = field(kw_only=True)
    notes: list[Note] = field(default_factory=list, kw_only=True)

    uses_grid: ClassVar[bool] = True  # so that models tell the grid, for methods that need it

    @classmethod
    def of(cls, method: Compressor) -> Watched:
        """Watch a method, with its own settings."""
        return cls(method.retention, positions=method.positions, newlines=method.newlines, method=method)

    @property
    def spec(self) -> str:
        """The method's spec."""
        return self.method.spec

    def with_budgets(self, budgets: Any) -> Watched:
        """Watch the method with a caller's budgets; the notes go into the same list."""
        return replace(self, method=self.method.with_budgets(budgets))

    def select(self, x: Tensor, grid: tuple[int, int] | None = None) -> Kept:
        """Select as the method does, and note what it keeps of x, [T, M, D]."""
        kept = self.method.select(x, grid)
        self.notes.append(Note(x, kept.index, grid))
        return kept

    def attach(self, model: nn.Module) -> Attachment:
        """Attach the method, and note what is left of each video after the last layer."""
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
                self.notes.append(Note(features, visual.ids[visual.ids < len(place.columns)]))
            report(visuals)

        hooks.find, hooks.report = found, reported
        return attachment


def layer_hooks(model: nn.Module) -> LayerHooks:
    """Return the hooks that drop rows between a model's layers. A method inside the LLM must be attached."""
    owners = (getattr(hook, "__self__", None) for part in model.modules() for hook in part._forward_hooks.values())
    return next(owner for owner in owners if isinstance(owner, LayerHooks))


def watch(engine: Engine, video_file: str, question: str, method: Compressor) -> Look:
    """Have a question about a video answered under a method, and watch what becomes of the video.

    Args:
        engine: The model.
        video_file: Path of the video.
        question: What is asked.
        method: The method.

    Raises:
        VideoError: The video cannot be read.
        Unanswerable: The model cannot answer.
        ValueError: The method does not suit this model or this video.
    """
    engine.check(method)
    seen = engine.see(engine.read(video_file))
    keep = engine.protocol.keep
    if keep is not None and not keep.at(*engine.shown_at(seen)).matched:
        times, _ = engine.shown_at(seen)
        raise ValueError(
            f"--keep {keep}: none of the {len(times)} frames taken from {video_file} lies there; they are shown from "
            f"{times[0]:g}s to {times[-1]:g}s: name other seconds, or take more --frames"
        )
    note = observed(engine, seen, question, method)
    frames, (rows, columns), covered = seen_by(engine, video_file, seen)
    kept = np.zeros(len(note.features) * rows * columns, dtype=bool)
    kept[note.index.cpu().numpy()] = True
    return Look(frames, note.features, kept.reshape(len(note.features), rows, columns), covered)


def observed(engine: Engine, seen: Any, question: str, method: Compressor) -> Note:
    """Have a question answered under a method, and return what it got and kept of the video `seen`."""
    watched = Watched.of(method)
    engine.answer(seen, question, {"max_new_tokens": 1}, watched)
    return watched.notes[0]


def seen_by(engine: Engine, video_file: str, seen: Any) -> tuple[np.ndarray, tuple[int, int], float]:
    """Return a video's frames, the rows and columns of tokens in each, and `Look.covered`.

    Args:
        engine: The model.
        video_file: Path of the video.
        seen: What the engine made of the video, after an answer.

    Raises:
        ValueError: The engine is of an unknown kind.
    """
    if isinstance(engine, LlavaEngine):
        frames, tower = read_video(video_file, engine.protocol.sampling).frames, engine.model.get_vision_tower()
        if getattr(tower.image_processor, "do_center_crop", False):
            frames = central_square(frames)
        side = tower.num_patches_per_side
        stride = getattr(engine.model.config, "mm_spatial_pool_stride", None) or 2
        # Bilinear pooling covers the whole frame. The other kinds leave out what does not fill a stride.
        bilinear = engine.model.config.mm_spatial_pool_mode == "bilinear"
        pooled = math.ceil(side / stride) if bilinear else side // stride
        return frames, (pooled, pooled), 1.0 if bilinear else pooled * stride / side
    if isinstance(engine, QwenEngine):
        t, height, width = seen.inputs[2]["video_grid_thw"][0].tolist()
        merged = engine.model.model.visual.spatial_merge_size
        together = engine.model.config.vision_config.temporal_patch_size
        frames = seen.read.frames[::together][:t].permute(0, 2, 3, 1).round().clamp(0, 255).byte().cpu().numpy()
        return frames, (height // merged, width // merged), 1.0
    raise ValueError(f"{type(engine).__name__} has an unknown layout of a frame's tokens: draw with LLaVA or Qwen")


def central_square(frames: np.ndarray) -> np.ndarray:
    """Cut [T, H, W, 3] to its central square, as CLIP's processor does."""
    height, width = frames.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return frames[:, top : top + side, left : left + side]


# ---- drawing


def draw_look(look: Look, method: Compressor, output: Path) -> list[Path]:
    """Draw both figures into a directory, and return their files."""
    why = (method if isinstance(method, VidCom2) else VidCom2(method.retention)).explain(look.features)
    uniqueness = why.frame_uniqueness.float().cpu().numpy()
    shares = look.kept.sum(axis=(1, 2)) / look.kept[0].size
    title = method.spec if method.stage == "before LLM" else f"{method.spec}, last layer"
    return [
        *draw_uniqueness(look.frames, uniqueness, shares, output / "uniqueness", title),
        *draw_kept(look.frames, look.kept, output / "kept", title, look.covered),
    ]


def draw_uniqueness(
    frames: np.ndarray, uniqueness: np.ndarray, shares: np.ndarray, path: Path, title: str
) -> tuple[Path, Path]:
    """Draw the frames' uniqueness and the share of each that is kept, above the frames.

    Args:
        frames: uint8 [T, H, W, 3].
        uniqueness: u_t, float [T].
        shares: Share of each frame's tokens that is kept, float [T] in [0, 1].
        path: Path of the files, without ending.
        title: Title of the figure.

    Returns:
        The files, png and pdf.
    """
    count, height, width = frames.shape[:3]
    inches = max(7.0, 0.8 * count)
    film = inches / count * height / width
    figure = Figure(figsize=(inches, 3.6 + film), dpi=150, layout="constrained")
    # The film gets more height than it needs, so that it becomes as wide as the bars.
    upper, middle, lower = figure.subplots(3, sharex=True, height_ratios=[1.6, 1.2, film + 0.4])
    # Only differences count in the softmax over frames. The bars begin a little below the lowest value.
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
    """Draw the frames, dark where tokens were dropped. Kept tokens are outlined.

    Args:
        frames: As in `Look`.
        kept: As in `Look`.
        path: Path of the files, without ending.
        title: Title of the figure.
        covered: As in `Look`.

    Returns:
        The files, png and pdf.
    """
    count, height, width = frames.shape[:3]
    cell = np.array([width / kept.shape[2], height / kept.shape[1]]) * covered  # width and height of a token in pixels
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
    """Return the frames, uint8 [T, H, W, 3], dark at each pixel that no kept token covers. Arguments as in `Look`."""
    rows, columns = kept.shape[1:]
    lit = np.pad(kept, ((0, 0), (0, 1), (0, 1)))  # no token covers the pixels beyond the last row and column
    row, column = (
        np.minimum((np.arange(size) + 0.5) / size / covered * cells, cells).astype(int)
        for size, cells in zip(frames.shape[1:3], (rows, columns), strict=True)
    )
    return np.where(lit[:, row][:, :, column][..., None], frames, DIMMED * frames).astype(np.uint8)
