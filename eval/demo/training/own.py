"""Our own method against all others, on the same questions: a section of docs/demo-methods.md."""

from __future__ import annotations

from ...results.load import Run
from ...results.stats import paired_interval
from ...results.tables import markdown_table
from ..world import TASKS
from .comparison import POSITIONS, RETENTIONS, Comparison, lines, name_of

OWN = "fresh"
TASKS_AT = 0.25
"""The retention ratio of the table per task."""

HEAD = f"""### `{OWN}`, our own method, against the others

[How it works, and how its settings were chosen](fresh.md): on other questions than these. Each cell is the accuracy of
`{OWN}` less that of the other method, in percentage points, on the same questions, with its paired 95 % interval.
Intervals above 0 are bold. {{summary}}
"""


def section(comparison: Comparison) -> str:
    """The section about one demo model."""
    text = []
    better, cells = 0, 0
    for positions, words in POSITIONS.items():
        rows = [(words, *(f"{100 * r:.0f} %" for r in RETENTIONS))]
        for method, fca in lines():
            if method == OWN:
                continue
            row = []
            for r in RETENTIONS:
                own, other = comparison.run(OWN, r, positions), comparison.run(method, r, positions, fca)
                if own is None or other is None:
                    row.append("cannot")
                    continue
                found = difference(other, own)
                row.append(cell(found))
                if r < TASKS_AT:
                    better, cells = better + (found[1] > 0), cells + 1
            rows.append((name_of(method, fca), *row))
        text.append(markdown_table(rows))
    summary = f"At 15 and 10 %, {better} of {cells} are."
    return "\n".join([HEAD.format(summary=summary), *text, per_task(comparison)])


def per_task(comparison: Comparison) -> str:
    """The differences from VidCom² in each task, at TASKS_AT."""
    rows = [(f"less vidcom2, at {100 * TASKS_AT:.0f} %", *POSITIONS.values())]
    for task in TASKS:
        cells = []
        for positions in POSITIONS:
            own, other = (comparison.run(method, TASKS_AT, positions) for method in (OWN, "vidcom2"))
            assert own is not None, "methods before the LLM reach every ratio"
            assert other is not None, "methods before the LLM reach every ratio"
            cells.append(cell(difference(other, own, task)))
        rows.append((task, *cells))
    return markdown_table(rows)


def difference(other: Run, own: Run, task: str | None = None) -> tuple[float, float, float]:
    """The difference of two runs' accuracies and its interval, in percentage points, of one task or of all."""
    asked = [i for i, category in enumerate(other.categories) if task in (None, category)]
    before, after = ([run.scores[i] for i in asked] for run in (other, own))
    return paired_interval(before, after, [other.categories[i] for i in asked], other.overall)


def cell(found: tuple[float, float, float]) -> str:
    """A difference with its interval."""
    text = f"{found[0]:+.1f} [{found[1]:+.1f}, {found[2]:+.1f}]"
    return f"**{text}**" if found[1] > 0 else text
