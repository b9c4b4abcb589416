"""Clips: which frames and which visual tokens of a scene the model gets to see.

A large model has seen videos of many lengths and sizes. So the demo model gets clips of 4 to 32 frames, single images,
and clips without some frames, without some tokens, or without the edges of all frames. What is missing is drawn at
random and never depends on what the tokens show. No method takes part.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..world import CELL, LIT, SIZE, Scene, draw_scene, layers, render
from .evidence import answerable, cells
from .model import PATCH

WINDOWS = ((4, 4), (4, 6), (6, 4))
"""Rows and columns of tokens that stay if the edges of all frames are missing."""


@dataclass(frozen=True)
class View:
    """What the clips of a batch have in common, so that they have equally many tokens.

    Attributes:
        units: Units of time in the scene.
        frames: How many of them are seen.
        missing: "nothing", "tokens" (any) or "edges" (the same in all frames). With "nothing" all tokens of the frames
            are there.
        kept: Visual tokens that are seen.
        window: Rows and columns that stay, for "edges".
        newlines: As in `llava.model.visual_layout.video_newlines`: "one_token" or "grid".
        original: Whether tokens keep their position ids where some are missing. Else they are numbered anew.
        cell: Width and height of what a token covers, in pixels: PATCH in an image, CELL in a video.
    """

    units: int
    frames: int
    missing: str
    kept: int
    window: tuple[int, int] = (0, 0)
    newlines: str = "one_token"
    original: bool = False
    cell: int = CELL


FULL = View(units=32, frames=32, missing="nothing", kept=32 * (SIZE // CELL) ** 2)
"""The benchmark's videos as the dense model sees them."""


def draw_view(rng: np.random.Generator, longest: int = 32) -> View:
    """Draw what a batch's clips have in common.

    Args:
        rng: Draws it.
        longest: Most frames.
    """
    per_frame = (SIZE // CELL) ** 2
    units = int(rng.choice((4, 8, 16, 32), p=(0.15, 0.25, 0.3, 0.3)))
    units = min(units, longest)
    newlines = str(rng.choice(("one_token", "grid"), p=(0.75, 0.25)))
    full = View(units, units, "nothing", units * per_frame, newlines=newlines)
    original = bool(rng.integers(2))
    match rng.choice(("nothing", "tokens", "frames", "edges", "image"), p=(0.27, 0.45, 0.15, 0.1, 0.03)):
        case "tokens":
            share = rng.choice((0.125, 0.25, 0.5, 0.75), p=(0.2, 0.35, 0.25, 0.2))
            return replace(full, missing="tokens", kept=int(share * full.kept), original=original)
        case "frames":
            frames = int(rng.choice((0.5, 0.75)) * units)
            return replace(full, frames=frames, kept=frames * per_frame)
        case "edges":
            rows, columns = WINDOWS[int(rng.integers(len(WINDOWS)))]
            kept = units * rows * columns
            return replace(full, missing="edges", window=(rows, columns), kept=kept, original=original)
        case "image":
            return View(4, 1, "nothing", (SIZE // PATCH) ** 2, cell=PATCH)
        case _:
            return full


@dataclass(frozen=True)
class Clip:
    """A clip of one scene.

    Attributes:
        scene: The scene. Its lamp is lit only in frames in which the lamp is seen.
        units: The unit of time of each frame, int [T].
        frames: RGB, uint8 [T, SIZE, SIZE, 3].
        kept: Numbers of the tokens that are seen, in the flattened T·M, int [K], ascending.
        shows: What each of these tokens shows, int [K], one of BACKGROUND to POSTER.
        answerable: The questions that they answer.
    """

    scene: Scene
    units: np.ndarray
    frames: np.ndarray
    kept: np.ndarray
    shows: np.ndarray
    answerable: list[str]


def draw_clip(view: View, rng: np.random.Generator) -> Clip:
    """Draw a scene and what is seen of it."""
    while True:
        scene = draw_scene(rng, view.units)
        units = np.sort(rng.permutation(view.units)[: view.frames])
        shown = layers(scene)
        shows = cells(shown[units], view.cell)
        kept = draw_kept(view, shows.shape, rng)
        is_kept = np.zeros(shows.size, dtype=bool)
        is_kept[kept] = True
        seen = np.where(is_kept.reshape(shows.shape), shows, -1)
        lit = tuple(units[(seen == LIT).any(-1)].tolist())
        clip = Clip(
            scene=replace(scene, lit=lit),
            units=units,
            frames=render(scene, shown)[units],
            kept=kept,
            shows=shows.flatten()[kept],
            answerable=answerable(scene, units, seen),
        )
        if clip.answerable:
            return clip


def draw_kept(view: View, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Draw the numbers of the tokens that are seen, int [K], of a clip of `shape` (T, M)."""
    frames, per_frame = shape
    match view.missing:
        case "nothing":
            return np.arange(frames * per_frame)
        case "tokens":
            return np.sort(rng.permutation(frames * per_frame)[: view.kept])
        case _:
            side, (rows, columns) = SIZE // view.cell, view.window
            y, x = int(rng.integers(side - rows + 1)), int(rng.integers(side - columns + 1))
            grid = np.arange(frames * per_frame).reshape(frames, side, side)
            return grid[:, y : y + rows, x : x + columns].flatten()
