"""Watching a model and a method at work on one video: `watch` gives a `Look`, which the figures draw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from llava.video import read_video
from vidcom2 import Attachment, Compressor, Keep, Kept, VidCom2
from vidcom2.models.layers import LayerHooks

from ..models import Protocol, canary, load_engine
from ..models.base import Engine, require_kept
from ..models.llava import LlavaEngine
from ..models.packaged import model_title, saw_drawn_shapes_only
from ..models.qwen import QwenEngine
from ..run.setup import fitting, loading


@dataclass(frozen=True)
class Eyes:
    """Whose opinion a look is.

    Attributes:
        model: Title of the model.
        drawn_shapes_only: Whether its vision tower was trained on MiniBench's drawn shapes and on nothing else.
    """

    model: str
    drawn_shapes_only: bool = False

    @classmethod
    def of(cls, checkpoint: str) -> Eyes:
        """Name the eyes of a checkpoint, a directory or a name on the hub."""
        return cls(model_title(checkpoint), saw_drawn_shapes_only(checkpoint))

    @property
    def warning(self) -> str | None:
        """What a figure says of eyes that do not know real pictures; None for other eyes."""
        if not self.drawn_shapes_only:
            return None
        return (
            "Trained on drawn shapes only: of other videos this is the opinion of a tower that never saw such pictures."
            " Choose a real model with --model."
        )


@dataclass(frozen=True)
class Look:
    """What a model saw of a video, and what a method kept of it.

    Attributes:
        frames: uint8 [T, H, W, 3], the frames that the tokens come from. Where several frames share their tokens, the
            first of them.
        seconds: float [T], at which a player shows these frames.
        features: float [T, M, D], as the method got them.
        kept: bool [T, rows, columns], with rows · columns = M. True where the method keeps the token.
        uniqueness: u_t, float [T], the uniqueness of each frame (the method's own if it is VidCom², else the paper's).
        token_uniqueness: u_video, float [T, rows, columns], how unlike the video's mean token each token is.
        method: What the figures call the method: its spec, and what else decides what it keeps.
        eyes: Whose opinion this is.
        video: Name of the video's file.
        covered: Share of a frame's height and of its width that the tokens cover, from the top left.
    """

    frames: np.ndarray
    seconds: np.ndarray
    features: Tensor
    kept: np.ndarray
    uniqueness: np.ndarray
    token_uniqueness: np.ndarray
    method: str
    eyes: Eyes
    video: str
    covered: float = 1.0

    @property
    def shares(self) -> np.ndarray:
        """The share of each frame's tokens that is kept, float [T] in [0, 1]."""
        return self.kept.mean(axis=(1, 2))

    @property
    def facts(self) -> tuple[str, ...]:
        """What the figures say below: video, model, grid, frames, and what is kept."""
        frames, rows, columns = self.kept.shape
        return (
            self.video,
            f"seen by {self.eyes.model}",
            f"{frames} frame{'s' * (frames != 1)} of {rows} × {columns} tokens",
            f"{self.method} keeps {self.kept.sum()} of {self.kept.size} ({self.kept.mean():.1%})",
        )


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
    return look_at(engine, engine.see(engine.read(video_file)), video_file, question, method)


def look_at(engine: Engine, seen: Any, video_file: str, question: str, method: Compressor) -> Look:
    """Do as `watch` does, with a video that the engine has seen, so that several methods can share it.

    Args:
        engine: The model.
        seen: What `engine.see` made of the video.
        video_file: Path of the video.
        question: What is asked.
        method: The method.

    Raises:
        Unanswerable, ValueError, VideoError: As `watch`.
    """
    require_kept(engine, seen, video_file)
    times, together = engine.shown_at(seen)
    note = observed(engine, seen, question, method)
    frames, (rows, columns), covered = seen_by(engine, video_file, seen)
    kept = np.zeros(len(note.features) * rows * columns, dtype=bool)
    kept[note.index.cpu().numpy()] = True
    why = (method if isinstance(method, VidCom2) else VidCom2(method.retention)).explain(note.features)
    shape = (len(note.features), rows, columns)
    return Look(
        frames=frames,
        seconds=np.asarray(times[::together], dtype=float)[: len(frames)],
        features=note.features,
        kept=kept.reshape(shape),
        uniqueness=why.frame_uniqueness.float().cpu().numpy(),
        token_uniqueness=why.video.float().cpu().numpy().reshape(shape),
        method=called(method, engine.protocol.keep),
        eyes=Eyes.of(engine.checkpoint),
        video=Path(video_file).name.encode("utf-8", "backslashreplace").decode(),  # a name may hold bytes
        covered=covered,
    )


def called(method: Compressor, keep: Keep | None) -> str:
    """Return what figures call a method: its spec, where it is looked at, and the seconds that are kept by hand."""
    where = "" if method.stage == "before LLM" else ", last layer"
    return f"{method.spec}{where}{'' if keep is None else f' --keep {keep}'}"


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
