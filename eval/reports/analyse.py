"""vidcom2 analyse VIDEO: measure what methods keep of videos, without a question."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import track

from llava.video import FrameSampling, VideoError, open_video
from vidcom2 import Dense, VidCom2, compressor
from vidcom2.measures import measure

from ..models import Protocol, protocol_for
from ..models.base import Engine, Unanswerable
from ..models.cores import suit_threads
from ..models.packaged import DEMO_MODEL
from ..results.files import prepare_directory, prepare_json, write_json
from ..results.load import load_run
from ..results.tables import print_table
from ..results.terminal import say, stdout, table_width
from ..run.flags import require_at_least, status
from ..run.sweep import spec_texts
from .analysis import Analysed, Analysis, Failure, Setting, as_json, draw, notes, rows, title
from .figures import require_distinct
from .flags import QUESTION, RETENTIONS
from .html import spread
from .look import observed, opened

SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".flv", ".wmv", ".mpg", ".mpeg", ".ts", ".gif")
"""The endings of videos in a directory that is not a run's."""
CHEAP = VidCom2(0.05)
"""What the model answers under while its features are read. Nobody reads the answer."""


# ---- what is asked for


def prepare_analyse(arguments: argparse.Namespace) -> Callable[[], int]:
    """Check everything that can be checked before the model is loaded. Return a function that measures."""
    settings = settings_of(arguments.compressors, arguments.retentions)
    if arguments.figures is not None:
        require_distinct(len({setting.method for setting in settings[1:]}))
    require_at_least(1, arguments, "frames")
    model = arguments.model or str(DEMO_MODEL)
    protocol = protocol_for(model).sampled(FrameSampling("uniform", max_frames=arguments.frames))
    videos = videos_of(arguments.what, arguments.limit)
    prepare_json(arguments.json)
    if arguments.figures is not None:
        prepare_directory("--figures", arguments.figures)

    def analyse() -> int:
        analysis = Analysis(settings)
        with written(analysis, arguments, model):
            analyse_all(analysis, model, protocol, videos, arguments.still)
        return report(analysis, arguments, model)

    return analyse


def settings_of(specs: str, retentions: str | None) -> list[Setting]:
    """Return dense, and the settings of --compressors. Specs without a retention get all of --retentions.

    Args:
        specs: Specs, separated by commas.
        retentions: Retentions, separated by commas. None for RETENTIONS.

    Raises:
        ValueError: A spec or a retention is wrong, one is there twice, a method cannot be measured, or `retentions`
            would change nothing.
    """
    texts = spec_texts(specs)
    if retentions is not None and all("@" in text or not compressor(text).drops for text in texts):
        raise ValueError(f"--retentions {retentions}: every spec of --compressors {specs} has its own; leave it out")
    settings = [Setting("dense", Dense())]
    for text in texts:
        method = re.sub(r"@[^:]*", "", text)
        swept = "@" not in text and compressor(text).drops
        made = [compressor(text, retention=r) for r in shares(retentions)] if swept else [compressor(text)]
        settings += [Setting(method, one) for one in made if one.drops]
    every = [setting.compressor.spec for setting in settings]
    if twice := [spec for i, spec in enumerate(every) if spec in every[:i]]:
        raise ValueError(f"--compressors {specs!r} has {', '.join(twice)} twice")
    if len(settings) == 1:
        raise ValueError(f"--compressors {specs!r} names no method that drops tokens; write vidcom2,random@0.25")
    for setting in settings[1:]:
        if setting.compressor.stage == "inside LLM":
            raise ValueError(
                f"{setting.compressor.spec} drops tokens between the LLM's layers and keeps all of them before it, so "
                "there is no kept set to measure: name methods before the LLM (docs/methods.md)"
            )
        if not setting.compressor.tells_places:
            raise ValueError(
                f"{setting.compressor.spec} gives its tokens places that are not their own, so it cannot be measured: "
                "take it without .released"
            )
    return settings


def shares(retentions: str | None) -> list[float]:
    """Parse --retentions.

    Raises:
        ValueError: It is not numbers separated by commas. Their range is checked by the compressor.
    """
    try:
        return [float(text) for text in (RETENTIONS if retentions is None else retentions).split(",")]
    except ValueError as error:
        raise ValueError(f"--retentions {retentions!r} is not numbers between commas, such as {RETENTIONS}") from error


def videos_of(what: Path, limit: int | None) -> list[str]:
    """Return the videos that a path names: itself, those of a finished run, or those below a directory.

    Args:
        what: A video; the directory of a run, or one that holds runs of the same questions; or one that holds videos.
        limit: The most videos, evenly taken from all. None for all.

    Raises:
        ValueError: There are none, the file is no video, a run is damaged, or the limit is below 1.
        FileNotFoundError: There is no such path.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"--limit {limit} must be at least 1")
    if not what.exists():
        raise FileNotFoundError(f"{what} does not exist: name a video, or a directory of a run or of videos")
    if what.is_file():
        try:
            with open_video(what):
                return [str(what)]
        except VideoError as error:
            raise ValueError(str(error)) from error
    runs = [directory for directory in (what, *sorted(what.iterdir())) if (directory / "results.json").is_file()]
    if runs:
        videos = list(dict.fromkeys(sample.video for sample in load_run(runs[0]).samples))
    else:
        videos = [str(path) for path in sorted(what.rglob("*")) if path.suffix.lower() in SUFFIXES and path.is_file()]
    if not videos:
        raise ValueError(f"{what} holds neither a finished run nor a video ({', '.join(SUFFIXES)})")
    return [videos[i] for i in spread(len(videos) if limit is None else limit, len(videos))]


# ---- measuring


def analyse_all(analysis: Analysis, model: str, protocol: Protocol, videos: Sequence[str], still: bool = False) -> None:
    """Measure videos, one after the other, into `analysis`. One that cannot be measured becomes a failure.

    Args:
        analysis: What is measured, and where to.
        model: Checkpoint directory or hub name.
        protocol: Which frames the model sees, and how.
        videos: Files.
        still: Take the first frame in place of every frame.
    """
    engine = opened(model, protocol, [CHEAP, *(setting.compressor for setting in analysis.settings)])
    if engine.device.type == "cpu":
        suit_threads(engine.model)
    console = Console(stderr=True)
    for video in track(videos, "measuring", console=console, transient=True, disable=not console.is_terminal):
        try:
            analyse_video(analysis, engine, video, still)
        except (VideoError, Unanswerable, ValueError) as error:
            analysis.failures.append(Failure(video, str(error)))


def analyse_video(analysis: Analysis, engine: Engine, video: str, still: bool) -> None:
    """Measure a video. A compressor that cannot serve it becomes a failure.

    Raises:
        VideoError: It cannot be read.
        Unanswerable, ValueError: The model cannot take it.
    """
    note = observed(engine, engine.see(engine.read(video)), QUESTION, CHEAP)
    x = note.features[:1].expand_as(note.features).contiguous() if still else note.features
    measured = {}
    for setting in analysis.settings:
        spec = setting.compressor.spec
        try:
            measured[spec] = measure(x, setting.compressor.select(x, note.grid))
        except ValueError as error:
            analysis.failures.append(Failure(video, str(error), spec))
    frames, m, hidden = x.shape
    analysis.videos.append(Analysed(video, (frames, m, hidden), measured))


# ---- what is said of it


@contextmanager
def written(analysis: Analysis, arguments: argparse.Namespace, model: str) -> Iterator[None]:
    """Write --json at the end of the block, also where an error ends it after some videos."""
    try:
        yield
    finally:
        if arguments.json is not None and (analysis.videos or analysis.failures):
            write_json(arguments.json, as_json(analysis, model, arguments.frames, arguments.still))


def report(analysis: Analysis, arguments: argparse.Namespace, model: str) -> int:
    """Print the table and what failed, draw the figure, and return the exit status."""
    for failure in analysis.failures:
        print(f"error: {failure}", file=sys.stderr)
    if not any(video.measures for video in analysis.videos):
        return 1
    console = stdout()
    print_table(console, rows(analysis), width=table_width(console))
    for text in notes(analysis, arguments.still):
        say(console, text)
    if arguments.figures is not None:
        path = arguments.figures / ("analysis-still" if arguments.still else "analysis")
        for file in draw(analysis, path, title(model, len(analysis.videos), arguments.still)):
            print(file)
    return status(len(analysis.failures))
