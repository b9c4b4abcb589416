"""Measure what methods keep of MiniBench's videos, moving and held still: write tables and figures into docs/.

    python -m eval.demo.training.analysis

What stands between two marks in docs/analysing.md is replaced, and so are the page's figures and its JSON file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any

from llava.video import FrameSampling
from vidcom2.measures import FAR

from ...models import protocol_for
from ...models.packaged import DEMO_MODEL, model_title
from ...reports.analyse import analyse_all, settings_of, videos_of
from ...reports.analysis import COLUMNS, Analysis, as_json, cell, draw, title
from ...reports.flags import RETENTIONS
from ...results.files import prepare_file, write_json, write_whole
from ...results.tables import markdown_table
from ...run.flags import status
from ..minibench import write_mvbench
from ..world import UNITS

METHODS = "vidcom2,fresh,random,uniform,norm,grid,dycoke,evs,simplecluster,flashvid,aot,gleanvid"
"""What is measured, each at RETENTIONS."""
PER_TASK = 10
"""Videos of each of MiniBench's tasks."""
PAGE, NAME = "analysing.md", "demo-analysis"
BEGIN, END = "<!-- measured: begin -->\n", "<!-- measured: end -->\n"


@dataclass(frozen=True)
class Part:
    """A part of the page.

    Attributes:
        heading: Its heading.
        file: Name of its figure, without ending.
        still: Whether videos are held still.
        measures: Its tables, by measure the sentence above.
    """

    heading: str
    file: str
    still: bool
    measures: dict[str, str]


DIMENSION = "Effective dimension of the kept tokens"
PARTS = (
    Part(
        "Videos as they are",
        NAME,
        False,
        {
            "dimension": f"{DIMENSION}, about the mean of all tokens:",
            "dimension_raw": f"{DIMENSION}, about zero:",
            "overlap": "Overlap of the places that neighbouring frames keep, in percent:",
            "overlap_far": f"The same of all frames that are 1 to {FAR} apart, in percent:",
            "seen": "Places of the picture that at least one frame keeps, in percent:",
            "gini": "Gini coefficient of the frames' budgets:",
            "nqe": "L2-NQE, smaller is nearer:",
            "coverage": "Coverage@0.90, in percent:",
        },
    ),
    Part(
        "Videos held still",
        f"{NAME}-still",
        True,
        {
            "seen": "Places of the picture that at least one frame keeps, in percent:",
            "overlap": "Overlap of the places that neighbouring frames keep, in percent:",
            "dimension": f"{DIMENSION}, about the mean of all tokens:",
            "nqe": "L2-NQE, smaller is nearer:",
            "coverage": "Coverage@0.90, in percent:",
        },
    ),
)


def measured(part: Part, methods: str, data: Path) -> Analysis:
    """Measure all videos below a directory as a part has them.

    Args:
        part: The part.
        methods: Specs, separated by commas.
        data: The directory.
    """
    analysis = Analysis(settings_of(methods, None))
    protocol = protocol_for(str(DEMO_MODEL)).sampled(FrameSampling("uniform", max_frames=UNITS))
    analyse_all(analysis, str(DEMO_MODEL), protocol, videos_of(data, None), part.still)
    return analysis


def section(part: Part, analysis: Analysis, date: str) -> str:
    """Write a part of the page."""
    (frames, m, hidden) = analysis.videos[0].shape
    text = [
        f"### {part.heading}\n",
        f"{len(analysis.videos)} videos of MiniBench (MVBench's schema), {model_title(str(DEMO_MODEL))}, "
        f"{frames} frames of {m} tokens, hidden size {hidden},\nfloat32 on a CPU, {date}.\n",
    ]
    for name, sentence in part.measures.items():
        text += [f"{sentence}\n", table(analysis, name)]
    text.append(f"![measures over retention](figures/{part.file}.png)\n")
    return "\n".join(text)


def table(analysis: Analysis, name: str) -> str:
    """Write the table of one measure: methods by retention, and dense."""
    retentions = [float(r) for r in RETENTIONS.split(",")]
    lines: dict[str, dict[float, str]] = {}
    for setting in analysis.settings:
        videos, means = analysis.summary(setting)
        lines.setdefault(setting.method, {})[setting.compressor.retention] = cell(name, means, videos)
    rows = [("", *(f"{100 * r:g} %" for r in retentions))]
    rows += [(m, *(cells.get(r, "") for r in retentions)) for m, cells in lines.items() if m != "dense"]
    dense = analysis.summary(analysis.settings[0])[1][name][0]
    said = "" if isnan(dense) else f"\nOf all tokens it is {COLUMNS[name].cell(dense)}.\n"
    return markdown_table(rows) + said


def rounded(content: Any) -> Any:
    """Round all numbers in JSON to five digits."""
    if isinstance(content, dict):
        return {key: rounded(value) for key, value in content.items()}
    if isinstance(content, list):
        return [rounded(value) for value in content]
    return float(f"{content:.5g}") if isinstance(content, float) else content


def replaced(page: str, text: str) -> str:
    """Return a page with `text` between its marks.

    Raises:
        ValueError: It does not have both marks.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page lacks {BEGIN.strip()} or {END.strip()}: put both where the tables go")
    return before + begin + "\n" + text + "\n" + end + after


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--compressors", default=METHODS, help="what is measured (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("outputs/demo/analysis"), help="directory for the videos")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="directory of the page")
    parser.add_argument("--per-task", type=int, default=PER_TASK, help="videos per task")
    arguments = parser.parse_args(argv)
    page = arguments.docs / PAGE
    file = arguments.docs / "benchmarks" / f"{NAME}.json"
    replaced(page.read_text(encoding="utf-8"), "")  # raises now, not after the work
    prepare_file("--docs", file)
    data = arguments.output / "data"
    print(f"making the videos in {data}", file=sys.stderr)
    write_mvbench(data, arguments.per_task)
    texts: list[str] = []
    content: dict[str, Any] = {}
    for part in PARTS:
        analysis = measured(part, arguments.compressors, data)
        if analysis.failures:
            print(*analysis.failures, sep="\n", file=sys.stderr)
            return status(len(analysis.failures))
        draw(analysis, arguments.docs / "figures" / part.file, title(str(DEMO_MODEL), len(analysis.videos), part.still))
        content[part.heading] = as_json(analysis, str(DEMO_MODEL), UNITS, part.still, each=False)
        texts.append(section(part, analysis, content[part.heading]["date"][:10]))
    write_json(file, rounded(content))
    write_whole(page, replaced(page.read_text(encoding="utf-8"), "\n".join(texts)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
