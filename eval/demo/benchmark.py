"""A mini MVBench of our own making: same layout as on the hub, short real clips, questions their pixels answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from ..benchmarks.mvbench import MVBENCH_FOLDERS

FPS = 24
SIZES = ((64, 48), (80, 48), (80, 64), (96, 64))  # width, height in pixels
COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 170, 60),
    "blue": (40, 60, 220),
    "yellow": (235, 215, 40),
    "purple": (140, 40, 170),
    "orange": (240, 140, 20),
    "white": (245, 245, 245),
    "black": (15, 15, 15),
}
DIRECTIONS = ("left", "right", "up", "down")


@dataclass(frozen=True)
class Scene:
    """One square crosses the picture, others stand still, and the background changes once; all colours differ."""

    width: int
    height: int
    length: int  # frames
    cut: int  # the first frame with the second background
    backgrounds: tuple[str, str]
    mover: str
    direction: str
    still: tuple[str, ...]  # 1 to 3 colours


def make_mvbench(root: Path, tasks: Sequence[str] = tuple(MVBENCH_FOLDERS), per_task: int = 2, seed: int = 0) -> Path:
    """Write root/json/<task>.json and root/video/<folder>/<video> (H.264, 2 to 5 s at 24 fps); returns root.

    A question depends on seed, task and number only, so a subset of the tasks has the files of the full set.
    ValueError for an unknown task.
    """
    if unknown := [task for task in tasks if task not in MVBENCH_FOLDERS]:
        raise ValueError(f"not MVBench tasks: {unknown}; there are {sorted(MVBENCH_FOLDERS)}")
    root = Path(root)
    (root / "json").mkdir(parents=True, exist_ok=True)
    for task in tasks:
        folder = root / "video" / MVBENCH_FOLDERS[task]
        folder.mkdir(parents=True, exist_ok=True)
        docs = []
        for number in range(per_task):
            rng = np.random.default_rng([seed, list(MVBENCH_FOLDERS).index(task), number])
            scene = draw_scene(rng)
            video = f"{task}_{number}.mp4"  # several tasks share a folder
            write_video(folder / video, render(scene), FPS)
            docs.append({"video": video, **ask(scene, rng)})
        (root / "json" / f"{task}.json").write_text(json.dumps(docs, indent=2) + "\n", encoding="utf-8")
    return root


def draw_scene(rng: np.random.Generator) -> Scene:
    width, height = SIZES[rng.integers(len(SIZES))]
    length = int(rng.integers(2 * FPS, 5 * FPS + 1))
    first, second, mover, *still = rng.permutation(list(COLOURS)).tolist()
    return Scene(
        width=width,
        height=height,
        length=length,
        cut=int(length * rng.uniform(0.4, 0.6)),
        backgrounds=(first, second),
        mover=mover,
        direction=DIRECTIONS[rng.integers(len(DIRECTIONS))],
        still=tuple(still[: rng.integers(1, 4)]),
    )


def render(scene: Scene) -> np.ndarray:
    """uint8 RGB frames [length, height, width, 3]."""
    side = scene.height // 4
    frames = np.empty((scene.length, scene.height, scene.width, 3), dtype=np.uint8)
    frames[: scene.cut] = COLOURS[scene.backgrounds[0]]
    frames[scene.cut :] = COLOURS[scene.backgrounds[1]]
    for k, colour in enumerate(scene.still):
        x, y = k * (side + 4), side // 2
        frames[:, y : y + side, x : x + side] = COLOURS[colour]
    for t, frame in enumerate(frames):
        done = t / (scene.length - 1)
        way = done if scene.direction in ("right", "down") else 1 - done
        # Along the bottom or the right edge: clear of the squares that stand still.
        x, y = scene.width - side, scene.height - side
        if scene.direction in ("left", "right"):
            x = round(way * x)
        else:
            y = round(way * y)
        frame[y : y + side, x : x + side] = COLOURS[scene.mover]
    return frames


def ask(scene: Scene, rng: np.random.Generator) -> dict[str, Any]:
    """A question about the scene with its options in random order: "question", "candidates" and "answer"."""
    others = [colour for colour in COLOURS if colour not in (scene.mover, scene.backgrounds[1])]
    question, answer, wrong = (
        ("Which colour is the square that moves?", scene.mover, [*scene.still, *others]),
        ("In which direction does the square move?", scene.direction, DIRECTIONS),
        ("Which colour does the background change to?", scene.backgrounds[1], [scene.backgrounds[0], *others]),
        ("How many squares stand still?", str(len(scene.still)), ("1", "2", "3")),
    )[rng.integers(4)]
    # The most tempting wrong options first: colours that are really to be seen.
    candidates = list(dict.fromkeys([answer, *wrong]))[:4]
    return {"question": question, "candidates": rng.permutation(candidates).tolist(), "answer": answer}


def write_video(
    path: Path, frames: np.ndarray, fps: int | Fraction, container_options: Mapping[str, str] | None = None
) -> None:
    """Encode uint8 RGB frames [N, H, W, 3] (H and W even) as H.264; the same frames give the same bytes."""
    with av.open(str(path), "w", options=dict(container_options or {})) as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        # x264's macroblock tree made the first video of a process differ from later ones of the same frames.
        stream.options = {"threads": "1", "x264-params": "mbtree=0"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
