"""vidcom2 report RUN [RUN ...]: finished runs in one HTML file that needs no other file and no network."""

from __future__ import annotations

import argparse
import json
import re
import sys
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from html import escape
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from llava.video import FrameSampling, VideoError, read_video

from ..models.packaged import model_title
from ..results.files import prepare_file, write_whole
from ..results.load import Run, load_run
from ..results.schema import ScoredSample
from ..results.side_by_side import called, side_by_side
from ..results.summary import notes
from ..results.tables import Rows
from ..run.flags import require_at_least
from .compare import differing_settings, pair
from .figures import Point, accuracy_retention, point
from .flags import FRAMES, VIDEOS

PAGE, REPORT = (Path(__file__).with_name(name) for name in ("page.html", "report.html"))
SIDE = 160
"""Pixels of a frame's longer side."""


def prepare_report(arguments: argparse.Namespace) -> Callable[[], int]:
    """Read and check the runs. Return a function that reads the videos and writes the file."""
    require_at_least(1, arguments, "samples", "videos")
    if arguments.frames < 0:
        raise ValueError(f"--frames {arguments.frames} must not be negative; 0 shows none")
    runs = load_runs(runs_among(arguments.runs))
    output: Path = arguments.output
    prepare_file("--output", output)

    def finish() -> int:
        write_whole(output, report(runs, arguments.samples, arguments.videos, arguments.frames))
        print(output)
        return 0

    return finish


def runs_among(directories: Sequence[Path]) -> list[Path]:
    """Return the directories that hold a run. Each that is left out gets a note on standard error.

    DIR/*/ also names the videos beside the runs of a demo. Paths that are no directories stay, and all stay where none
    holds a run: `load_run` says what is wrong with them.
    """
    signs = ("results.json", "samples.jsonl", "settings.json", "answers*.jsonl")
    runs = [d for d in directories if not d.is_dir() or any(path for sign in signs for path in d.glob(sign))]
    if not runs:
        return list(directories)
    for directory in directories:
        if directory not in runs:
            print(f"left out, as it holds no run: {directory}", file=sys.stderr)
    return runs


def load_runs(directories: Sequence[Path]) -> dict[str, Run]:
    """Load runs over the same questions.

    Returns:
        The runs by name: their compressor, or their directory where two have the same compressor. Their questions are
        in the first run's order.

    Raises:
        FileNotFoundError: A directory holds no finished run.
        ValueError: A directory is given twice, a file is damaged, or the questions are not the same.
    """
    if twice := [str(d) for i, d in enumerate(directories) if d in directories[:i]]:
        raise ValueError(f"{', '.join(twice)} is given twice")
    first, *others = [load_run(directory) for directory in directories]
    runs = [first, *(Run(o.directory, o.summary, [sample for _, sample in pair(first, o)]) for o in others)]
    specs = [run.summary.run.compressor for run in runs]
    compressors = [called(spec) for spec in specs]
    names = compressors if len(set(specs)) == len(specs) else [str(run.directory) for run in runs]
    return dict(zip(names, runs, strict=True))


def report(runs: Mapping[str, Run], samples: int | None = None, videos: int = VIDEOS, frames: int = FRAMES) -> str:
    """Write the page.

    Args:
        runs: By name.
        samples: Number of questions to show. None for all.
        videos: Number of videos to show frames of.
        frames: Number of frames to show of each of these videos.

    Returns:
        The HTML.
    """
    names, every = list(runs), list(runs.values())
    first = every[0]
    models = list(dict.fromkeys(run.summary.run.model for run in every))
    title = f"{first.summary.title}, {', '.join(map(model_title, models))}"
    differences = [
        f"{names[i]} is not set as {names[0]}: {difference}"
        for i in range(1, len(every))
        for difference in differing_settings(first, every[i], (names[0], names[i]))
    ]
    total = len(first.samples)
    chosen = spread(samples or total, total)
    data = browser_data(runs, chosen, videos, frames)
    shown = f"{len(chosen)} of {total} questions are in this file"
    shown += ", evenly taken from all." if len(chosen) < total else "."
    if frames and videos < len(data["videos"]):
        shown += (
            f" Frames are shown of {videos} of their {len(data['videos'])} videos, evenly taken from all (--videos)."
        )
    parts = {
        "intro": f"{total} questions, overall the {first.overall} average.",
        "warnings": "".join(f'<p class="wrong">{escape(difference)}</p>\n' for difference in differences),
        "table": html_table(side_by_side({name: run.summary for name, run in runs.items()})),
        "curve": curve(runs, title),
        "runs": "\n".join(html_notes(name, run) for name, run in runs.items()),
        "shown": shown,
        "data": for_script(data),
    }
    return page(title, filled(REPORT, parts))


def page(title: str, body: str, style: str = "") -> str:
    """Write an HTML file that needs no other file and no network.

    Args:
        title: Its title, as text.
        body: What is below the title, as HTML.
        style: CSS beside that of all reports.
    """
    return filled(PAGE, {"title": escape(title), "style": style, "body": body})


def filled(template: Path, parts: Mapping[str, str]) -> str:
    """Fill the slots {{name}} of a template."""
    return re.sub(r"\{\{(\w+)\}\}", lambda slot: parts[slot[1]], template.read_text(encoding="utf-8"))


def spread(count: int, total: int) -> list[int]:
    """Return `count` evenly spaced numbers from 0 to total - 1, ascending, or all of them where there are fewer."""
    return np.unique(np.linspace(0, total - 1, min(count, total), dtype=int)).tolist()


def for_script(data: Any) -> str:
    """Write JSON for a script element. No text in it can end the element or begin another."""
    text = json.dumps(data, ensure_ascii=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def html_table(rows: Rows) -> str:
    """Write a table in HTML. Specs in its header may break at "@", ":" and "+"."""
    head, *body = rows
    titles = [re.sub("(?=[@:+])", "<wbr>", escape(cell)) for cell in head]
    lines = ["<tr>" + "".join(f'<th scope="col">{title}</th>' for title in titles) + "</tr>"]
    for name, *cells in body:
        total = ' class="total"' if name == "overall" else ""
        values = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        lines.append(f'<tr{total}><th scope="row">{escape(name)}</th>{values}</tr>')
    return "<table>\n<thead>" + lines[0] + "</thead>\n<tbody>\n" + "\n".join(lines[1:]) + "\n</tbody>\n</table>"


def html_notes(name: str, run: Run) -> str:
    """Write what was run, what it cost and what failed as a list that opens on a click."""
    facts = "".join(f"<li>{escape(note)}</li>" for note in [str(run.directory), *notes(run.summary)])
    return f"<details><summary>{escape(name)}</summary><ul>{facts}</ul></details>"


# ---- the curve


def curve(runs: Mapping[str, Run], title: str) -> str:
    """Draw accuracy over retention. Return an img element, or a sentence that says why there is no figure."""
    dense = [run for run in runs.values() if run.summary.run.compressor == "none"]
    others = [run for run in runs.values() if run.summary.run.compressor != "none"]
    if len(dense) != 1 or not others:
        return f"<p>No figure: it needs one dense run and compressed ones, here are {len(dense)} and {len(others)}.</p>"
    if len({run.summary.run.model for run in runs.values()}) > 1:
        return "<p>No figure: the runs are of several models.</p>"
    points: dict[str, list[Point]] = {}
    try:
        for run in others:
            points.setdefault(method_name(run.summary.run.compressor), []).append(point(run))
        with TemporaryDirectory() as folder:
            png, *_ = accuracy_retention(points, point(dense[0]), Path(folder) / "curve", title)
            return f'<img class="curve" alt="{escape(described(points))}" src="{data_url("png", png.read_bytes())}">'
    except ValueError as error:  # a run that answered no question, or more methods than a figure can tell apart
        return f"<p>No figure: {escape(str(error))}.</p>"


def method_name(spec: str) -> str:
    """Return a spec without its retention. Runs that differ in retention only are one line of the figure."""
    return re.sub(r"@[^:]*", "", spec)


def described(points: Mapping[str, Sequence[Point]]) -> str:
    """Describe the figure in words, for screen readers."""
    return "; ".join(
        f"{method}: " + ", ".join(f"{p.accuracy:.1f} % at {100 * p.retention:.1f} % of the tokens" for p in mine)
        for method, mine in points.items()
    )


# ---- single questions


def browser_data(runs: Mapping[str, Run], chosen: Sequence[int], filmed: int, frames: int) -> dict[str, Any]:
    """Return what the page's script shows, JSON-ready.

    Args:
        runs: By name, over the same questions in the same order.
        chosen: Indices of the questions to show.
        filmed: Number of videos to show frames of.
        frames: Number of frames to show of each.
    """
    every = list(runs.values())
    paths = list(dict.fromkeys(every[0].samples[i].video for i in chosen))
    with_frames = [paths[i] for i in spread(filmed, len(paths))] if frames else []
    films = {path: film(path, frames) for path in track(with_frames, "reading videos", console=Console(stderr=True))}
    why = f"left out (--videos {filmed})" if frames else "left out (--frames 0)"
    return {
        "runs": list(runs),
        "videos": [films.get(path, {"path": path, "error": why}) for path in paths],
        "samples": [question([run.samples[i] for run in every], paths) for i in chosen],
    }


def question(samples: Sequence[ScoredSample], paths: Sequence[str]) -> dict[str, Any]:
    """Return a question with the answer of each run. paths: of all videos, which the question's index points into."""
    first = samples[0]
    return {
        "task": first.task,
        "id": first.doc_id,
        "category": first.category,
        "video": paths.index(first.video),
        "prompt": next((sample.prompt for sample in samples if sample.prompt), None),
        "target": first.target,
        "answers": [
            {
                "answer": sample.answer,
                "parsed": sample.parsed,
                "score": sample.score,
                "error": sample.error,
                "before": sample.tokens_before,
                "after": round(sample.tokens_after, 1),
            }
            for sample in samples
        ],
    }


def film(path: str, frames: int) -> dict[str, Any]:
    """Return some frames of a video as data URLs of small JPEGs, or why there are none."""
    try:
        video = read_video(path, FrameSampling("uniform", max_frames=frames))
    except VideoError as error:
        return {"path": path, "error": error.cause}
    images = [data_url("jpeg", thumbnail(frame)) for frame in video.distinct]
    return {"path": path, "frames": [images[row] for row in video.rows]}


def thumbnail(frame: np.ndarray) -> bytes:
    """Encode a frame, uint8 [H, W, 3], as a JPEG of at most SIDE pixels."""
    image = Image.fromarray(frame)
    image.thumbnail((SIDE, SIDE))
    file = BytesIO()
    image.save(file, "JPEG", quality=60)
    return file.getvalue()


def data_url(kind: str, image: bytes) -> str:
    """Write an image file as a data URL. kind: "png" or "jpeg"."""
    return f"data:image/{kind};base64,{b64encode(image).decode()}"
