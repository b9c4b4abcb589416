"""The notebook runs in a folder of its own, and what it prints is so."""

from __future__ import annotations

import base64
import io
import math
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

from eval.demo.world import TASKS, ask, draw_scene
from tests.notebook import ROOT, TOUR, execute, printed

FRAMES, TOKENS = 32, 36
"""T and M of the demo model."""
SEED = 1_000_086
"""The scene that the notebook draws first."""
PLACES = re.compile(r"(?:/(?:home|root|tmp|work|Users|mnt|var|opt|usr)/|[A-Z]:\\)[\w.-]+")
"""A path of somebody's machine."""


@pytest.fixture(scope="module")
def committed() -> nbformat.NotebookNode:
    notebook = nbformat.read(TOUR, 4)
    nbformat.validate(notebook)
    return notebook


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> nbformat.NotebookNode:
    """The notebook, run here. A cell that fails is an error."""
    return execute(nbformat.read(TOUR, 4), tmp_path_factory.mktemp("tour"))


def code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def rows(cell: nbformat.NotebookNode) -> list[list[str]]:
    """The cells of the table that a cell displays, without its head."""
    lines = [line for line in printed(cell).splitlines() if line[:1] == "|"]
    return [[part.strip() for part in line.strip("|").split("|")] for line in lines[2:]]


def test_select(fresh):
    kept, of, *budgets = map(int, re.findall(r"\d+", printed(code(fresh)[0])))
    assert (kept, of) == (round(0.25 * 8 * TOKENS), 8 * TOKENS)
    assert sum(budgets) == kept
    assert budgets.index(max(budgets)) == 5  # the frame that is unlike the others
    assert len(set(budgets[:5] + budgets[6:])) == 1


def test_questions_and_tokens(fresh):
    *asked, tokens = rows(code(fresh)[2])
    rng = np.random.default_rng(SEED)
    scene = draw_scene(rng)
    questions = [ask(scene, task, rng) for task in TASKS]
    assert [(text, right) for text, right, *_ in asked] == [(one.text, one.answer) for one in questions]
    for question, (_, right, *given) in zip(questions, asked, strict=True):
        assert {text.strip("*") for text in given} <= set(question.options)
        assert all(text.startswith("*") == (text != right) for text in given)
    assert sum(dense == right for _, right, dense, *_ in asked) >= 7
    dense, quarter, tenth = map(int, tokens[2:])
    assert dense == FRAMES * TOKENS + 1  # the newline at the end
    for kept, ratio in ((quarter, 0.25), (tenth, 0.1)):  # each frame is rounded up
        assert ratio * FRAMES * TOKENS <= kept - 1 < ratio * FRAMES * TOKENS + FRAMES


def test_methods_at_equal_tokens(fresh):
    table = {name: cells for name, *cells in rows(code(fresh)[4]) + rows(code(fresh)[5])}
    right, tokens, coverage, _ = table.pop("dense")
    assert (tokens, coverage) == (str(FRAMES * TOKENS), "100%")
    assert int(right.split()[0]) >= 22
    assert len(table) == 5
    for name, (right, tokens, _, budgets) in table.items():
        assert int(tokens) == round(0.1 * FRAMES * TOKENS), name
        least, most = map(int, budgets.split(" and "))
        mean = int(tokens) / FRAMES
        assert 1 <= least <= math.floor(mean) < math.ceil(mean) <= most <= TOKENS, name
        assert right.endswith(" of 27")
    # The world was made so that single tokens hold answers: they are what random tokens lack.
    assert int(table["fresh@0.1"][0].split()[0]) > int(table["random@0.1"][0].split()[0])


def test_what_is_committed_is_what_it_prints(committed, fresh):
    """As far as another processor cannot change it: all but a few answers."""
    for cell, again in zip(code(committed), code(fresh), strict=True):
        shown = [one.output_type for one in again.outputs if one.get("name") != "stderr"]
        assert [one.output_type for one in cell.outputs] == shown
        old, new = printed(cell).split(), printed(again).split()
        assert len(old) == len(new)
        assert sum(a != b for a, b in zip(old, new, strict=True)) <= 4


def test_committed_outputs_name_no_machine(committed):
    text = TOUR.read_text(encoding="utf-8")
    pictures = [
        one.data["image/png"] for cell in code(committed) for one in cell.outputs if "image/png" in one.get("data", {})
    ]
    for picture in pictures:
        text = text.replace(picture, "")
    assert len(pictures) == 3
    assert PLACES.findall(text) == []
    assert str(ROOT) not in text
    assert str(Path.home()) not in text


def test_committed_outputs_are_small_and_steady(committed):
    assert TOUR.stat().st_size < 200_000
    assert set(committed.metadata) == {"kernelspec"}
    assert [cell.execution_count for cell in code(committed)] == list(range(1, len(code(committed)) + 1))
    for cell in committed.cells:
        assert cell.metadata == {}
    for cell in code(committed):
        assert cell.outputs
        for one in cell.outputs:
            assert one.get("name") != "stderr"
            assert one.get("metadata", {}) == {}
            if picture := one.get("data", {}).get("image/png"):
                with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
                    assert image.width <= 1000
                    assert not image.info.keys() & {"Software", "date"}
