"""The comparison of all methods on a demo model: its specs, and the finished runs.

`methods` writes a page about it. `order` compares the order of the methods with the published one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from vidcom2 import Compressor, InsideLLM, compressor

from ...reports.figures import Point, point
from ...results.load import Run

RETENTIONS = (0.5, 0.25, 0.15, 0.1)
"""The retention ratios to compare."""
METHODS = {
    "vidcom2": "",
    "fresh": "",
    **dict.fromkeys(("random", "uniform", "grid", "grid.time", "pool", "pool.time", "norm"), ""),
    **dict.fromkeys(("dycoke", "evs", "visionzip", "fastvid", "holitom", "vcast"), ""),
    **dict.fromkeys(("simplecluster", "flashvid", "aot", "unicomp", "gleanvid"), ""),
    "fastv": ":k=1",
    "pdrop": ":layers=(1,2,4)",
    "sparsevlm": "",
    "flashvid-inside": "",
}
"""Settings by method. With their defaults, FastV and PDrop cannot reach 25 % in an LLM of 8 layers."""
ADJUSTABLE = (
    *("random", "uniform", "norm", "dycoke", "evs", "visionzip", "vcast", "aot", "unicomp", "gleanvid"),
    *("fastv", "pdrop", "sparsevlm", "flashvid-inside"),
)
"""The methods that can take VidCom²'s frame budgets ("+fca")."""
DRAWN = (
    *("fresh", "vidcom2", "dycoke", "evs", "holitom", "simplecluster", "flashvid", "aot", "unicomp", "gleanvid"),
    *("random", "grid"),
)
"""The methods in the figures, which can tell 12 apart. The tables have all."""
POSITIONS = {"original": "original positions", "repack": "numbered anew"}
"""Whether kept tokens keep their position ids or are numbered anew, and how the page says it."""


def name_of(method: str, fca: bool) -> str:
    """A method's name, with "+fca" if it takes VidCom²'s frame budgets."""
    return f"{method}+fca" if fca else method


def spec(method: str, retention: float, positions: str, fca: bool = False) -> str:
    """The spec of a method in the comparison."""
    return compressor(f"{name_of(method, fca)}@{retention}{METHODS[method]}:positions={positions}").spec


def lines() -> Iterator[tuple[str, bool]]:
    """Every method, without and, where it can, with VidCom²'s frame budgets: the lines of a table."""
    for method in METHODS:
        yield method, False
        if method in ADJUSTABLE:
            yield method, True


def specs() -> list[str]:
    """All specs of the comparison, dense first."""
    every = [spec(method, r, positions, fca) for r in RETENTIONS for positions in POSITIONS for method, fca in lines()]
    return ["none", *every]


def layers_of(model: Path) -> int:
    """Return the number of layers of a checkpoint's LLM."""
    return json.loads((model / "config.json").read_text(encoding="utf-8"))["num_hidden_layers"]


def why_not(method: Compressor, layers: int) -> str | None:
    """Return the error of a method that cannot serve an LLM of so many layers. None if it can."""
    if not isinstance(method, InsideLLM):
        return None
    try:
        method.check(layers)
    except ValueError as error:
        return str(error)
    return None


@dataclass(frozen=True)
class Comparison:
    """The finished runs of one demo model.

    Attributes:
        model: The name of the model, a key of DEMO_MODELS.
        layers: The number of layers of its LLM.
        runs: By spec, for all of `specs` that the model's layers allow.

    Raises:
        ValueError: A run is missing.
    """

    model: str
    layers: int
    runs: Mapping[str, Run]

    def __post_init__(self) -> None:
        if missing := [one for one in specs() if one not in self.runs and one not in self.cannot]:
            raise ValueError(f"{self.model} lacks the runs of {', '.join(missing)}: run the sweep to its end")

    @property
    def dense(self) -> Run:
        """The run without compression."""
        return self.runs["none"]

    @cached_property
    def cannot(self) -> dict[str, str]:
        """The errors of the `specs` that the model's layers do not allow, by spec."""
        reasons = {one: why_not(compressor(one), self.layers) for one in specs()}
        return {one: reason for one, reason in reasons.items() if reason}

    @cached_property
    def points(self) -> dict[str, Point]:
        """The actual retention and the accuracy with its interval, by spec."""
        return {one: point(run) for one, run in self.runs.items()}

    def run(self, method: str, retention: float, positions: str, fca: bool = False) -> Run | None:
        """Return a run. None if the method cannot reach the retention in this LLM."""
        one = spec(method, retention, positions, fca)
        return None if one in self.cannot else self.runs[one]

    def point(self, method: str, retention: float, positions: str, fca: bool = False) -> Point | None:
        """Return a run's point in a figure. None as in `run`."""
        one = spec(method, retention, positions, fca)
        return None if one in self.cannot else self.points[one]
