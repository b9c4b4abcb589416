"""Flags of the commands `compare`, `report`, `see` and `analyse`. Imports no heavy library."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..run.flags import FAILED_QUESTIONS, add_demo, add_keep, spec_help

FRAMES, VIDEOS = 6, 200
"""Frames that a report shows of a video, and videos that it shows frames of."""
QUESTION = "What happens in this video?"
ANIMATIONS = ("mp4", "gif")
"""Kinds of moving pictures."""
RETENTIONS = "0.4,0.25,0.15,0.1,0.05"
"""Those of `analyse`, GleanVID's authors'."""


def add_compare(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `compare`."""
    what = parser.add_argument_group("what is compared")
    what.add_argument(
        "a", metavar="A", help="directory of a finished run, such as the dense one; with --demo, a spec, such as none"
    )
    what.add_argument("b", metavar="B", help="another; differences are its accuracy minus that of the first")
    add_demo(what, "compare", "compare two compressors on a small model that comes along")
    to = parser.add_argument_group("how and where to")
    to.add_argument("--flips", action="store_true", help="list every question that only one of them has right")
    to.add_argument("--json", type=Path, metavar="FILE", help="write the numbers and the flips to this file, too")
    demo = parser.add_argument_group("which demo, for --demo only")
    demo.add_argument("--model", help="a small model of this package (default: llava-onevision)")
    demo.add_argument("--tasks", help="a benchmark that MiniBench has, such as videomme (default: mvbench)")
    demo.add_argument("--limit", metavar="N", type=int, help="questions of each task (default: as many as are there)")
    demo.add_argument("--output", metavar="DIR", type=Path, help="its directory (default: of run --demo)")
    parser.set_defaults(start="reports.compare:prepare_compare", default_of=parser.get_default)
    parser.epilog = """\
Both runs must have answered the same questions. The interval is a paired
bootstrap, the test is McNemar's.

With --demo, settings that its directory does not have yet are run first. The
help of the command run says more of it.

examples:
  %(prog)s --demo vidcom2@0.25 random@0.25
  %(prog)s outputs/mvbench/MODEL/none \\
      outputs/mvbench/MODEL/vidcom2@0.25"""


def add_analyse(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `analyse`."""
    what = parser.add_argument_group("what is measured")
    what.add_argument(
        "what",
        type=Path,
        metavar="VIDEO",
        help="video file; or a directory: of a finished run, whose videos are taken, of several runs over the same "
        "questions, such as a demo's, or of videos",
    )
    what.add_argument(
        "--compressors",
        metavar="SPEC,...",
        default="vidcom2,random",
        help="the methods before the LLM to measure; a spec may have a retention of its own (default: %(default)s)",
    )
    what.add_argument(
        "--retentions",
        metavar="R,...",
        help=f"what specs without a retention are measured at (default: {RETENTIONS})",
    )
    what.add_argument(
        "--limit", type=int, metavar="N", help="the most videos, evenly taken from all (default: all of the directory)"
    )
    what.add_argument(
        "--still",
        action="store_true",
        help="hold every video still: its first frame takes the place of all frames",
    )
    what.add_argument("--model", help="checkpoint directory or hub name (default: the small model that comes along)")
    what.add_argument(
        "--frames", type=int, metavar="T", default=32, help="frames to take from each video (default: %(default)s)"
    )
    to = parser.add_argument_group("where to")
    to.add_argument("--json", type=Path, metavar="FILE", help="write all measures of every video to this file, too")
    to.add_argument(
        "--figures", type=Path, metavar="DIR", help="draw the measures over retention there (default: no figure)"
    )
    parser.set_defaults(start="reports.analyse:prepare_analyse")
    parser.epilog = f"""\
Nothing is asked: what counts is how much of each video the kept tokens still
show. docs/analysing.md says what each measure means. Exit status: 0 if all was
measured, {FAILED_QUESTIONS} if some videos or methods failed (they are listed).

{spec_help()}
examples:
  %(prog)s video.mp4
  %(prog)s outputs/demo/mvbench --limit 50 \\
      --compressors vidcom2,dycoke,random --figures outputs/analysis"""


def add_report(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `report`."""
    what = parser.add_argument_group("what is reported")
    what.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="directory of a finished run; all over the same questions"
    )
    how = parser.add_argument_group("how much")
    how.add_argument(
        "--samples", type=int, metavar="N", help="questions to show, spread evenly over all (default: all)"
    )
    how.add_argument(
        "--videos",
        type=int,
        metavar="N",
        default=VIDEOS,
        help="videos to show frames of, spread evenly over all (default: %(default)s)",
    )
    how.add_argument(
        "--frames",
        type=int,
        metavar="T",
        default=FRAMES,
        help="frames to show of each of these videos; 0 shows none (default: %(default)s)",
    )
    to = parser.add_argument_group("where to")
    to.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        default=Path("report.html"),
        help="the file; it needs nothing besides itself (default: %(default)s)",
    )
    parser.set_defaults(start="reports.html:prepare_report")
    parser.epilog = """\
example:
  %(prog)s outputs/mvbench/MODEL/*/ --output mvbench.html"""


def add_see(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `see`."""
    what = parser.add_argument_group("what is drawn")
    what.add_argument("video", type=Path, metavar="VIDEO", help="video file")
    what.add_argument(
        "--compressor",
        metavar="SPEC",
        default="vidcom2@0.25",
        help="the method; of one inside the LLM, what is left after its last stage (default: %(default)s)",
    )
    what.add_argument("--model", help="checkpoint directory or hub name (default: the small model that comes along)")
    what.add_argument(
        "--question",
        default=QUESTION,
        help="the question that methods inside the LLM look at (default: %(default)r)",
    )
    what.add_argument(
        "--frames", type=int, metavar="T", default=16, help="frames to take from the video (default: %(default)s)"
    )
    add_keep(what)
    how = parser.add_argument_group("how it is drawn")
    how.add_argument(
        "--animate",
        choices=ANIMATIONS,
        action="append",
        help="write the frames as a moving picture, too, at the video's speed; may be given twice (default: none)",
    )
    how.add_argument("--theme", choices=("light", "dark"), default="light", help="colours (default: %(default)s)")
    how.add_argument(
        "--width",
        metavar="INCHES",
        default="page",
        help="width of the figures: column (3.3 inches), page (7), or inches (default: %(default)s)",
    )
    to = parser.add_argument_group("where to")
    to.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="directory for the figures (default: outputs/visualize/NAME, after the video's name)",
    )
    parser.set_defaults(start="reports.see:prepare_see")
    parser.epilog = f"""\
Writes three figures, each as PNG, PDF and SVG: uniqueness (of the frames, and
what each keeps), kept (frames with dropped tokens dark) and tokens (in the
colours of their uniqueness). --animate adds kept.mp4 or kept.gif.

The figures say whose eyes they show. The small model that comes along was
trained on drawn shapes only: for other videos, name a real one by --model.

{spec_help()}
examples:
  %(prog)s video.mp4 --compressor vidcom2@0.15
  %(prog)s video.mp4 --frames 64 --animate mp4 --theme dark
  %(prog)s video.mp4 --width column"""
