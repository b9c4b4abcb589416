"""MiniBench's world: short scripted scenes, their pixels, and questions that only the pixels answer.

A scene lasts some units of time, UNITS in the benchmark. Most of it is redundant: a textured background, bystanders
that do nothing, an object that changes its colour once. One object moves all the time, and a timer counts quarters. A
few single units differ from the rest and carry answers: two objects flash up for one unit each, and a lamp lights up.
So a method that keeps only unusual frames fails the tasks that need all frames, and a method that drops unusual frames
fails the other tasks. The bystanders are as colourful as the other objects, and texture and lighting differ from scene
to scene: a token that shows much need not tell much.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

UNITS = 32
"""Units of time in a scene of the benchmark. The demo model sees one frame per unit."""
SIZE = 72
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
QUARTERS = ("first", "second", "third", "fourth")
COUNTS = ("one", "two", "three", "four")

CELL = 12
"""Width and height of what one visual token covers, in pixels."""
OBJECT = 10  # width and height of an object, in pixels: at rest it is within one cell
LAMP = (slice(1, 11), slice(61, 71))  # rows and columns in pixels: the cell in the upper right corner
TIMER = (slice(1, 11), slice(49, 59))  # the cell beside it
LAMP_ON, LAMP_OFF = (255, 120, 200), (60, 60, 80)
TIMER_ON, TIMER_OFF = (20, 30, 0), (170, 240, 0)
CROWD = (0, 205, 215)  # the bystanders' colour: never an answer
PLACES = [(x, y) for y in range(0, SIZE - CELL, CELL) for x in range(CELL, SIZE, CELL) if y or x < 48]
"""Cells (x, y) that the mover never enters, without those of timer and lamp, in pixels."""

BYSTANDERS = 3
"""Bystanders in a scene."""

BACKGROUND, BYSTANDER, CHANGING, MOVER, FIRST, SECOND, LIT, UNLIT, CLOCK = range(9)
"""What a pixel shows: the numbers in `layers`."""


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
class Look:
    """How a scene's pictures look. Nothing of it carries an answer.

    Attributes:
        waves: Cycles per pixel (x, y) of the background's texture.
        texture: Height of its waves, in grey levels.
        slope: How much brighter (x, y) the right and the lower edge are than the middle, as a share.
        drift: How much brighter or darker it becomes on the way to the last unit, as a share.
    """

    waves: tuple[float, float]
    texture: float
    slope: tuple[float, float]
    drift: float


@dataclass(frozen=True)
class Scene:
    """A script of what happens.

    Attributes:
        units: Units of time T.
        backgrounds: First and second background, keys of BACKGROUNDS.
        quarter: One of QUARTERS, in which the background changes.
        cut: The first unit with the second background.
        mover: The object that moves.
        direction: Key of DIRECTIONS, in which it moves.
        crowd: The shape of the bystanders, one of SHAPES.
        bystanders: Upper left corners (x, y) of their boxes, in pixels.
        changing: The object that changes its colour.
        turned: The colour that it turns.
        turn: The first unit with that colour.
        flashes: Unit and object of the two flashes, in order of time.
        lit: Units in which the lamp is on.
        look: What the pictures look like.
    """

    units: int
    backgrounds: tuple[str, str]
    quarter: str
    cut: int
    mover: Thing
    direction: str
    crowd: str
    bystanders: tuple[tuple[int, int], ...]
    changing: Thing
    turned: str
    turn: int
    flashes: tuple[tuple[int, Thing], tuple[int, Thing]]
    lit: tuple[int, ...]
    look: Look


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


def draw_scene(rng: np.random.Generator, units: int = UNITS) -> Scene:
    """Draw a scene at random. Its objects have different colours, and every answer is equally likely.

    Args:
        rng: Draws the scene.
        units: Units of time T, a multiple of 4. The background changes within a quarter, so with 4 units there is none
            of the change's quarter to see before it.
    """
    mover, changing, turned, first, second, _ = rng.permutation(list(COLOURS)).tolist()
    shapes = rng.choice(SHAPES, 3).tolist()
    direction = str(rng.choice(list(DIRECTIONS)))
    number, half, quarter = int(rng.integers(4)), units // 2, units // 4
    cut = max(1, number * quarter + int(rng.integers(min(1, quarter - 1), quarter)))
    flash_shape = str(rng.choice(SHAPES))
    early, late = int(rng.integers(1, half)), int(rng.integers(half, units - 1))
    places = rng.choice(PLACES, 2 + BYSTANDERS, replace=False)
    spot, *at = map(tuple, (places + rng.integers(0, CELL - OBJECT + 1, places.shape)).tolist())
    odd = np.arange(1, units, 2)
    return Scene(
        units=units,
        backgrounds=tuple(rng.permutation(list(BACKGROUNDS))[:2].tolist()),
        quarter=QUARTERS[cut // quarter],
        cut=cut,
        mover=Thing(shapes[0], mover, (int(rng.integers(0, 3)), SIZE - CELL + int(rng.integers(0, 3)))),
        direction=direction,
        crowd=shapes[2],
        bystanders=tuple(at[1:]),
        changing=Thing(shapes[1], changing, at[0]),
        turned=turned,
        turn=int(rng.integers(max(1, units // 4), units * 3 // 4 + 1)),
        flashes=((early, Thing(flash_shape, first, spot)), (late, Thing(flash_shape, second, spot))),
        lit=tuple(sorted(rng.choice(odd, int(rng.integers(1, min(4, len(odd)) + 1)), replace=False).tolist())),
        look=Look(
            waves=tuple(rng.uniform(-0.2, 0.2, 2).tolist()),
            texture=float(rng.uniform(0, 12)),
            slope=tuple(rng.uniform(-0.12, 0.12, 2).tolist()),
            drift=float(rng.uniform(-0.1, 0.1)),
        ),
    )


def layers(scene: Scene) -> np.ndarray:
    """Say what each pixel shows: uint8 [T, SIZE, SIZE], one of BACKGROUND to CLOCK."""
    shown = np.full((scene.units, SIZE, SIZE), BACKGROUND, dtype=np.uint8)
    shown[:, LAMP[0], LAMP[1]] = UNLIT
    shown[list(scene.lit), LAMP[0], LAMP[1]] = LIT
    shown[:, TIMER[0], TIMER[1]] = CLOCK
    for unit, picture in enumerate(shown):
        for place in scene.bystanders:
            draw(picture, scene.crowd, place, BYSTANDER)
        draw(picture, scene.changing.shape, scene.changing.at, CHANGING)
        draw(picture, scene.mover.shape, mover_corner(scene, unit), MOVER)
    for (unit, thing), number in zip(scene.flashes, (FIRST, SECOND), strict=True):
        draw(shown[unit], thing.shape, thing.at, number)
    return shown


def render(scene: Scene, shown: np.ndarray | None = None) -> np.ndarray:
    """Draw one picture per unit.

    Args:
        scene: The scene.
        shown: Its `layers`, if they are known.

    Returns:
        RGB, uint8 [T, SIZE, SIZE, 3].
    """
    shown = layers(scene) if shown is None else shown
    look, units = scene.look, np.arange(scene.units)
    flat = np.zeros((scene.units, CLOCK + 1, 3), dtype=np.float32)
    flat[:, BACKGROUND] = np.where(
        (units < scene.cut)[:, None], BACKGROUNDS[scene.backgrounds[0]], BACKGROUNDS[scene.backgrounds[1]]
    )
    flat[:, CHANGING] = np.where((units < scene.turn)[:, None], COLOURS[scene.changing.colour], COLOURS[scene.turned])
    flat[:, BYSTANDER] = CROWD
    flat[:, MOVER] = COLOURS[scene.mover.colour]
    flat[:, FIRST], flat[:, SECOND] = (COLOURS[thing.colour] for _, thing in scene.flashes)
    flat[:, LIT], flat[:, UNLIT], flat[:, CLOCK] = LAMP_ON, LAMP_OFF, TIMER_OFF
    frames = flat[units[:, None, None], shown]

    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    wave = look.texture * np.sin(2 * np.pi * (look.waves[0] * x + look.waves[1] * y))
    frames += np.where(shown == BACKGROUND, wave, 0)[..., None]
    for unit in units:  # a bar more in every quarter
        rows, columns = TIMER
        for bar in range(unit * 4 // scene.units + 1):
            frames[unit, rows, columns.start + 1 + 2 * bar] = TIMER_ON
    middle = (SIZE - 1) / 2
    light = 1 + look.slope[0] * (x - middle) / middle + look.slope[1] * (y - middle) / middle
    frames *= light[..., None] * (1 + look.drift * units / (scene.units - 1))[:, None, None, None]
    return frames.clip(0, 255).astype(np.uint8)


def mover_corner(scene: Scene, unit: int) -> tuple[int, int]:
    """Upper left corner (x, y) of the mover. It crosses the picture along the lower or the left edge."""
    dx, dy = DIRECTIONS[scene.direction]
    done = unit / (scene.units - 1)
    along = round((done if dx + dy > 0 else 1 - done) * (SIZE - OBJECT))
    x, y = scene.mover.at
    return (along, y) if dx else (x, along)


def draw(picture: np.ndarray, shape: str, at: tuple[int, int], number: int) -> None:
    """Write a number into the pixels of a picture [SIZE, SIZE] that a shape at (x, y) covers."""
    x, y = at
    box = picture[y : y + OBJECT, x : x + OBJECT]
    box[_MASKS[shape]] = number


def _masks() -> dict[str, np.ndarray]:
    """The pixels of its box that each shape fills: bool [OBJECT, OBJECT]."""
    y, x = np.mgrid[:OBJECT, :OBJECT]
    centre = (OBJECT - 1) / 2
    return {
        "circle": (x - centre) ** 2 + (y - centre) ** 2 <= (OBJECT / 2) ** 2,
        "square": np.ones((OBJECT, OBJECT), dtype=bool),
        "triangle": abs(x - centre) <= y / 2 + 0.5,
        "cross": (abs(x - centre) < 1.6) | (abs(y - centre) < 1.6),
    }


_MASKS = _masks()


# Questions. Each function gives the text, the answer, and possible wrong options, the most tempting ones first.


def _moving_direction(s: Scene) -> tuple[str, str, list[str]]:
    return "In which direction does the moving object go?", s.direction, list(DIRECTIONS)


def _moving_attribute(s: Scene) -> tuple[str, str, list[str]]:
    return "Which colour is the moving object?", s.mover.colour, [s.changing.colour, s.turned, *COLOURS]


def _object_existence(s: Scene) -> tuple[str, str, list[str]]:
    return "Which shape is there only for a moment?", s.flashes[0][1].shape, list(SHAPES)


def _scene_transition(s: Scene) -> tuple[str, str, list[str]]:
    return "What does the background change to?", s.backgrounds[1], list(BACKGROUNDS)


def _state_change(s: Scene) -> tuple[str, str, list[str]]:
    return "Which colour does the changing object turn?", s.turned, [s.changing.colour, s.mover.colour, *COLOURS]


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


def _changing_colour(s: Scene) -> tuple[str, str, list[str]]:
    return "Which colour is the changing object at first?", s.changing.colour, [s.turned, s.mover.colour, *COLOURS]


def _changing_shape(s: Scene) -> tuple[str, str, list[str]]:
    return "Which shape is the changing object?", s.changing.shape, list(SHAPES)


def _moving_shape(s: Scene) -> tuple[str, str, list[str]]:
    return "Which shape is the moving object?", s.mover.shape, list(SHAPES)


def _flashing_colour(s: Scene) -> tuple[str, str, list[str]]:
    return "Which colour flashes up last?", s.flashes[1][1].colour, [s.flashes[0][1].colour, s.mover.colour, *COLOURS]


STEPPING_STONES = {
    "changing_colour": _changing_colour,
    "changing_shape": _changing_shape,
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
