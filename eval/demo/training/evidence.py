"""What the visual tokens show, and which questions can still be answered when some of them are missing."""

from __future__ import annotations

import numpy as np

from ..world import (
    BACKGROUND,
    CHANGING,
    CLOCK,
    FIRST,
    LIT,
    MOVER,
    QUARTERS,
    SECOND,
    SIZE,
    STEPPING_STONES,
    TASKS,
    Scene,
    mover_corner,
)

MOVED = SIZE // 8
"""How far the mover must be seen to go, in pixels, to tell its direction."""


def cells(shown: np.ndarray, cell: int) -> np.ndarray:
    """Say what each cell of a picture shows.

    Args:
        shown: What the pixels show, as `layers` gives it, uint8 [T, SIZE, SIZE].
        cell: Width and height of a cell, in pixels.

    Returns:
        One of BACKGROUND to CLOCK for every cell, int64 [T, (SIZE / cell)²]: the thing with the most pixels, if it has
        a ninth of the cell, else BACKGROUND.
    """
    side = SIZE // cell
    blocks = shown.reshape(len(shown), side, cell, side, cell)
    counts = np.stack([(blocks == number).sum((2, 4), dtype=np.int64) for number in range(1, CLOCK + 1)], -1)
    most = np.where(counts.max(-1) * 9 >= cell * cell, counts.argmax(-1) + 1, BACKGROUND)
    return most.reshape(len(shown), side * side)


def answerable(scene: Scene, units: np.ndarray, seen: np.ndarray) -> list[str]:
    """Name the questions that the remaining tokens answer.

    Args:
        scene: The scene.
        units: The unit of time of each frame, int [T].
        seen: What the tokens of each frame show, int [T, M]; -1 for tokens that are missing.

    Returns:
        Keys of TASKS and STEPPING_STONES.
    """
    units_seen = units[(seen >= 0).any(-1)]
    first, second = (seen == FIRST).any(), (seen == SECOND).any()
    mover = units[(seen == MOVER).any(-1)]
    changing = units[(seen == CHANGING).any(-1)]
    timer = units[(seen == CLOCK).any(-1)]
    quarter = timer[timer * 4 // scene.units == QUARTERS.index(scene.quarter)]
    places = np.array([mover_corner(scene, unit) for unit in mover]).reshape(-1, 2)
    moved = int(np.ptp(places, axis=0).max()) if len(places) else 0
    turned = (changing < scene.turn).any() and (changing >= scene.turn).any()
    known = {
        "action_count": (seen == LIT).any(),
        "action_localization": (quarter < scene.cut).any() and (quarter >= scene.cut).any(),
        "action_prediction": first and second,
        "action_sequence": first and second,
        "moving_attribute": moved > 0,
        "moving_direction": moved >= MOVED,
        "object_existence": first or second,
        "scene_transition": (units_seen < scene.cut).any() and (units_seen >= scene.cut).any(),
        "state_change": turned,
        "changing_colour": (changing < scene.turn).any(),
        "changing_shape": len(changing) > 0,
        "moving_shape": moved > 0,
        "flashing_colour": second,
    }
    assert known.keys() == TASKS.keys() | STEPPING_STONES.keys(), "every question has its evidence"
    return [task for task, is_known in known.items() if is_known]
