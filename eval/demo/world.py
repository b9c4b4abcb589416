"""MiniBench's world: short scripted scenes, their pixels, and questions that only the pixels answer.

A scene lasts UNITS units of time. Most of it is redundant: a background and a resting object. One object moves all the
time. A few single units differ from the rest and carry answers: two objects flash up for one unit each, a lamp lights
up, and the background and the resting object change. So a method that keeps only unusual frames fails the tasks that
need all frames, and a method that drops unusual frames fails the other tasks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

UNITS = 16
"""Units of time in a scene. The demo model sees one frame per unit."""
SIZE = 56
"""Width and height of the demo model's frames, in pixels."""

COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 180, 70),
    "blue": (50, 80, 230),
    "yellow": (240, 220, 50),
    "purple": (150, 50, 180),
    "orange": (245, 140, 30),
}
BACKGROUNDS = {"black": (12, 12, 12), "white": (242, 242, 242), "grey": (125, 125, 125), "brown": (95, 58, 30)}
SHAPES = ("circle", "square", "triangle", "cross")
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
QUARTERS = {
    "first": range(1, 3),
    "second": range(5, 7),
    "third": range(9, 11),
    "fourth": range(13, 15),
}
COUNTS = ("one", "two", "three", "four")

OBJECT = 14  # width and height of an object, in pixels
LAMP_ROWS, LAMP_COLUMNS = slice(2, 12), slice(SIZE - 12, SIZE - 2)  # the upper right corner
LAMP_ON, LAMP_OFF = (255, 120, 200), (60, 60, 80)


@dataclass(frozen=True)
class Thing:
    """An object.

    Attributes:
        shape: One of SHAPES.
        colour: Key of COLOURS.
        at: Upper left corner (x, y) of its box, in pixels.
    """

    shape: str
    colour: str
    at: tuple[int, int]


@dataclass(frozen=True)
class Scene:
    """A script of what happens.

    Attributes:
        backgrounds: First and second background, keys of BACKGROUNDS.
        quarter: Key of QUARTERS, in which the background changes.
        cut: The first unit with the second background.
        mover: The object that moves.
        direction: Key of DIRECTIONS, in which it moves.
        resting: The object that stays in its place.
        turned: The colour that the resting object turns.
        turn: The first unit with that colour.
        flashes: Unit and object of the two flashes, in order of time.
        lit: Units in which the lamp is on.
    """

    backgrounds: tuple[str, str]
    quarter: str
    cut: int
    mover: Thing
    direction: str
    resting: Thing
    turned: str
    turn: int
    flashes: tuple[tuple[int, Thing], tuple[int, Thing]]
    lit: tuple[int, ...]


@dataclass(frozen=True)
class Question:
    """A multiple-choice question about a scene.

    Attributes:
        task: Key of TASKS (named after MVBench's) or of STEPPING_STONES.
        text: The question.
        options: Four options in random order; one of them is the answer.
        answer: The right option.
    """

    task: str
    text: str
    options: tuple[str, str, str, str]
    answer: str

    @property
    def letter(self) -> str:
        """The right option's letter, A to D."""
        return "ABCD"[self.options.index(self.answer)]


def draw_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene at random. Its objects have different colours, and every answer is equally likely."""
    mover, resting, turned, first, second, _ = rng.permutation(list(COLOURS)).tolist()
    shapes = rng.choice(SHAPES, 3).tolist()
    direction = str(rng.choice(list(DIRECTIONS)))
    quarter = str(rng.choice(list(QUARTERS)))
    flash_shape = str(rng.choice(SHAPES))
    early, late = int(rng.integers(1, 8)), int(rng.integers(9, 15))
    spot = (int(rng.integers(16, 26)), int(rng.integers(1, 6)))
    return Scene(
        backgrounds=tuple(rng.permutation(list(BACKGROUNDS))[:2].tolist()),
        quarter=quarter,
        cut=int(rng.choice(QUARTERS[quarter])),
        mover=Thing(shapes[0], mover, (int(rng.integers(0, 3)), int(rng.integers(SIZE - OBJECT - 3, SIZE - OBJECT)))),
        direction=direction,
        resting=Thing(shapes[1], resting, (int(rng.integers(32, 42)), int(rng.integers(18, 24)))),
        turned=turned,
        turn=int(rng.integers(5, 12)),
        flashes=((early, Thing(flash_shape, first, spot)), (late, Thing(flash_shape, second, spot))),
        lit=tuple(sorted(rng.choice(np.arange(1, UNITS, 2), int(rng.integers(1, 5)), replace=False).tolist())),
    )


def render(scene: Scene) -> np.ndarray:
    """Draw one picture per unit: RGB, uint8 [UNITS, SIZE, SIZE, 3]."""
    frames = np.empty((UNITS, SIZE, SIZE, 3), dtype=np.uint8)
    frames[: scene.cut] = BACKGROUNDS[scene.backgrounds[0]]
    frames[scene.cut :] = BACKGROUNDS[scene.backgrounds[1]]
    frames[:, LAMP_ROWS, LAMP_COLUMNS] = LAMP_OFF
    frames[list(scene.lit), LAMP_ROWS, LAMP_COLUMNS] = LAMP_ON
    for unit, frame in enumerate(frames):
        draw(frame, scene.resting, scene.resting.colour if unit < scene.turn else scene.turned)
        draw(frame, Thing(scene.mover.shape, scene.mover.colour, mover_corner(scene, unit)))
    for unit, thing in scene.flashes:
        draw(frames[unit], thing)
    return frames


def mover_corner(scene: Scene, unit: int) -> tuple[int, int]:
    """Upper left corner (x, y) of the mover. It crosses the picture along the lower or the left edge."""
    dx, dy = DIRECTIONS[scene.direction]
    done = unit / (UNITS - 1)
    along = round((done if dx + dy > 0 else 1 - done) * (SIZE - OBJECT))
    x, y = scene.mover.at
    return (along, y) if dx else (x, along)


def draw(frame: np.ndarray, thing: Thing, colour: str | None = None) -> None:
    """Draw an object into a picture, uint8 [SIZE, SIZE, 3], in its own colour or another."""
    x, y = thing.at
    box = frame[y : y + OBJECT, x : x + OBJECT]
    box[_MASKS[thing.shape]] = COLOURS[colour or thing.colour]


def _masks() -> dict[str, np.ndarray]:
    """The pixels of its box that each shape fills: bool [OBJECT, OBJECT]."""
    y, x = np.mgrid[:OBJECT, :OBJECT]
    centre = (OBJECT - 1) / 2
    return {
        "circle": (x - centre) ** 2 + (y - centre) ** 2 <= (OBJECT / 2) ** 2,
        "square": np.ones((OBJECT, OBJECT), dtype=bool),
        "triangle": abs(x - centre) <= y / 2 + 0.5,
        "cross": (abs(x - centre) < 2.6) | (abs(y - centre) < 2.6),
    }


_MASKS = _masks()


# Questions. Each function gives the text, the answer, and possible wrong options, the most tempting ones first.


def _moving_direction(s: Scene) -> tuple[str, str, list[str]]:
    return "In which direction does the moving object go?", s.direction, list(DIRECTIONS)


def _moving_attribute(s: Scene) -> tuple[str, str, list[str]]:
    return "Which colour is the moving object?", s.mover.colour, [s.resting.colour, s.turned, *COLOURS]


def _object_existence(s: Scene) -> tuple[str, str, list[str]]:
    return "Which shape is there only for a moment?", s.flashes[0][1].shape, list(SHAPES)


def _scene_transition(s: Scene) -> tuple[str, str, list[str]]:
    return "What does the background change to?", s.backgrounds[1], list(BACKGROUNDS)


def _state_change(s: Scene) -> tuple[str, str, list[str]]:
    return "Which colour does the resting object turn?", s.turned, [s.resting.colour, s.mover.colour, *COLOURS]


def _action_sequence(s: Scene) -> tuple[str, str, list[str]]:
    first, second = (thing.colour for _, thing in s.flashes)
    return "Which colour flashes up first?", first, [second, s.mover.colour, *COLOURS]


def _action_prediction(s: Scene) -> tuple[str, str, list[str]]:
    first, second = (thing.colour for _, thing in s.flashes)
    return f"Which colour flashes up after {first}?", second, [first, s.mover.colour, *COLOURS]


def _action_localization(s: Scene) -> tuple[str, str, list[str]]:
    return "In which quarter of the video does the background change?", s.quarter, list(QUARTERS)


def _action_count(s: Scene) -> tuple[str, str, list[str]]:
    return "How many times does the lamp light up?", COUNTS[len(s.lit) - 1], list(COUNTS)


TASKS = {
    "action_count": _action_count,
    "action_localization": _action_localization,
    "action_prediction": _action_prediction,
    "action_sequence": _action_sequence,
    "moving_attribute": _moving_attribute,
    "moving_direction": _moving_direction,
    "object_existence": _object_existence,
    "scene_transition": _scene_transition,
    "state_change": _state_change,
}
"""MiniBench's tasks, with the functions that ask."""


# Stepping stones: easier questions that are asked only in training. They need parts of what the tasks need.


def _resting_colour(s: Scene) -> tuple[str, str, list[str]]:
    return "Which colour is the resting object at first?", s.resting.colour, [s.turned, s.mover.colour, *COLOURS]


def _resting_shape(s: Scene) -> tuple[str, str, list[str]]:
    return "Which shape is the resting object?", s.resting.shape, list(SHAPES)


def _moving_shape(s: Scene) -> tuple[str, str, list[str]]:
    return "Which shape is the moving object?", s.mover.shape, list(SHAPES)


def _flashing_colour(s: Scene) -> tuple[str, str, list[str]]:
    return "Which colour flashes up last?", s.flashes[1][1].colour, [s.flashes[0][1].colour, s.mover.colour, *COLOURS]


STEPPING_STONES = {
    "resting_colour": _resting_colour,
    "resting_shape": _resting_shape,
    "moving_shape": _moving_shape,
    "flashing_colour": _flashing_colour,
}


def ask(scene: Scene, task: str, rng: np.random.Generator) -> Question:
    """Ask the question of a task or stepping stone about a scene, with four options in random order."""
    text, answer, wrong = (TASKS | STEPPING_STONES)[task](scene)
    options = list(dict.fromkeys([answer, *wrong]))
    # The two most tempting wrong options, and a random one.
    options = [*options[:3], str(rng.choice(options[3:]))]
    return Question(task, text, tuple(rng.permutation(options).tolist()), answer)
