"""The HTML report: complete, self-contained, and safe against what models and benchmarks put into it."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eval.benchmarks.mvbench import MVBENCH
from eval.cli import parse
from eval.demo.encode import write_video
from eval.reports.html import for_script, method_name, prepare_report
from eval.results.load import read_results
from eval.results.schema import ScoredSample
from eval.results.side_by_side import side_by_side
from tests.eval.reports.test_compare import COMPRESSED, DENSE, line, write
from tests.llava.test_video import noisy_frames

NASTY = 'x</script><script>alert("{{title}}")</script><!-- <img src=x onerror=alert(1)> & \u2028 "quoted"'
CHROME = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


class Page(HTMLParser):
    """A page's tags with their attributes, and its text by tag; an error for tags that do not close in order."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.text: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "input", "wbr"):
            self.open.append(tag)
            self.text.setdefault(tag, []).append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.text[self.open[-1]][-1] += data

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(self.text["script"][0])


def lines(scores: dict[str, list[int]], tokens: int, videos: dict[str, Path]) -> list[ScoredSample]:
    return [
        line(
            task,
            i,
            score,
            scores={"current": float(score)},
            tokens_after=tokens,
            video=str(videos.get(f"{task}{i}", f"/nowhere/{task}_{i}.mp4")),
            **({"prompt": NASTY, "answer": NASTY} if i == 0 else {}),
        )
        for task, mine in scores.items()
        for i, score in enumerate(mine)
    ]


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("video") / "v.mp4"
    write_video(file, noisy_frames(12), 24)
    return file


@pytest.fixture
def runs(tmp_path, video) -> tuple[Path, Path]:
    videos = {"mvbench_action_count0": video, "mvbench_action_count1": video}
    dense = write(tmp_path / "dense", lines(DENSE, 100, videos), compressor="none")
    quarter = lines(COMPRESSED, 25, videos)
    failed = {"error": "gone", "answer": None, "parsed": None, "prompt": None, "score": 0.0}
    failed |= {"scores": {"current": 0.0}, "tokens_before": 0, "tokens_after": 0}
    quarter[-1] = replace(quarter[-1], **failed)
    return dense, write(tmp_path / "quarter", quarter)


def call(*arguments: object) -> int:
    """What the command line does."""
    return prepare_report(parse(["report", *map(str, arguments)]))()


def html_of(tmp_path: Path, *arguments: object) -> str:
    output = tmp_path / "new" / "report.html"
    assert call(*arguments, "--output", output) == 0
    return output.read_text()


def test_every_number_and_answer_is_there(runs, tmp_path):
    page = Page(html_of(tmp_path, *runs))
    results = {name: read_results(run) for name, run in zip(("none", "vidcom2@0.25"), runs, strict=True)}
    rows = side_by_side(results)
    heads, cells = page.text["th"], page.text["td"]
    assert heads == [*rows[0], *(row[0] for row in rows[1:])]
    assert cells == [cell for row in rows[1:] for cell in row[1:]]

    data = page.data
    assert data["runs"] == ["dense", "vidcom2@0.25"]
    stored = [[json.loads(text) for text in (run / "samples.jsonl").read_text().split("\n") if text] for run in runs]
    assert len(data["samples"]) == len(stored[0]) == 9
    for sample, *own in zip(data["samples"], *stored, strict=True):
        assert (sample["task"], sample["id"], sample["category"]) == tuple(
            own[0][k] for k in ("task", "doc_id", "category")
        )
        assert (sample["prompt"], sample["target"]) == (own[0]["prompt"], own[0]["target"])
        assert data["videos"][sample["video"]]["path"] == own[0]["video"]
        for answer, original in zip(sample["answers"], own, strict=True):
            assert all(answer[k] == original[k] for k in ("answer", "parsed", "score", "error"))
            assert (answer["before"], answer["after"]) == (original["tokens_before"], original["tokens_after"])
    assert sum(NASTY in sample["prompt"] for sample in data["samples"]) == 2


def test_nothing_gets_out_of_the_script_or_in_from_outside(runs, tmp_path):
    html = html_of(tmp_path, *runs)
    page = Page(html)
    assert not re.search(r"https?:|//\w+\.", html)
    tags = [tag for tag, _ in page.tags]
    assert tags.count("script") == 2
    assert not {"link", "iframe", "object", "base"} & set(tags)
    sources = [attributes.get("src") for _, attributes in page.tags if attributes.keys() & {"src", "href"}]
    assert sources
    assert all(source.startswith("data:image/") for source in sources)
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "innerHTML" not in page.text["script"][1]


def test_for_script_is_json_without_markup():
    text = for_script({"a": NASTY, "ü": [1, None]})
    assert json.loads(text) == {"a": NASTY, "ü": [1, None]}
    assert not set("<>&") & set(text)


def test_film_strips(runs, video, tmp_path):
    data = Page(html_of(tmp_path, *runs, "--frames", 3)).data
    found = {entry["path"]: entry for entry in data["videos"]}
    assert len(found) == len(data["videos"]) == 8, "two of nine questions share a video"
    pictures = found[str(video)]["frames"]
    assert len(pictures) == 3
    for picture, number in zip(pictures, (0, 5, 11), strict=True):
        head, _, body = picture.partition(",")
        assert head == "data:image/jpeg;base64"
        shown = Image.open(BytesIO(base64.b64decode(body)))
        assert max(shown.size) <= 160
        original = Image.fromarray(noisy_frames(12)[number]).resize(shown.size)
        distances = np.abs(np.asarray(shown, dtype=float) - np.asarray(original, dtype=float)).mean()
        other = np.asarray(Image.fromarray(noisy_frames(12)[3]).resize(shown.size), dtype=float)
        assert distances < np.abs(np.asarray(shown, dtype=float) - other).mean()
    missing = [entry for path, entry in found.items() if path != str(video)]
    assert {entry["error"] for entry in missing} == {"no such file"}
    without = Page(html_of(tmp_path, *runs, "--frames", 0)).data
    assert {entry["error"] for entry in without["videos"]} == {"left out (--frames 0)"}


def test_samples_are_spread_and_their_number_is_said(runs, tmp_path):
    html = html_of(tmp_path, *runs, "--samples", 3, "--frames", 0)
    page = Page(html)
    assert [(s["category"], s["id"]) for s in page.data["samples"]] == [
        ("action_count", 0),
        ("action_count", 4),
        ("state_change", 2),
    ]
    assert len(page.data["videos"]) == 3
    assert "3 of 9 questions are in this file, evenly taken from all." in html
    assert "9 of 9 questions are in this file." in html_of(tmp_path, *runs, "--frames", 0)


def test_every_answer_is_there_by_default_and_frames_of_some_videos(tmp_path, video):
    """Text is small; hundreds of megabytes of frames are no page."""
    many = [line("mvbench_action_count", i, 1, video=str(tmp_path / f"{i}.mp4")) for i in range(360)]
    for i in range(360):
        (tmp_path / f"{i}.mp4").symlink_to(video)
    html = html_of(tmp_path, write(tmp_path / "run", many), "--frames", 1, "--videos", 3)
    page = Page(html)
    assert [sample["id"] for sample in page.data["samples"]] == list(range(360))
    assert [i for i, entry in enumerate(page.data["videos"]) if "frames" in entry] == [0, 179, 359]
    assert page.data["videos"][1]["error"] == "left out (--videos 3)"
    assert "360 of 360 questions are in this file. Frames are shown of 3 of their 360 videos" in html


def test_directories_beside_the_runs_are_left_out_loudly(runs, tmp_path, capsys):
    """As `report DIR/*/` names the demo's own videos."""
    (tmp_path / "data" / "video").mkdir(parents=True)
    (tmp_path / "data" / "test.json").write_text("[]")  # MLVU's questions
    page = Page(html_of(tmp_path, *runs, tmp_path / "data", "--frames", 0))
    assert page.data["runs"] == ["dense", "vidcom2@0.25"]
    assert f"left out, as it holds no run: {tmp_path / 'data'}" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match=r"data holds no results\.json"):
        call(tmp_path / "data")
    (tmp_path / "data" / "answers.rank0.jsonl").touch()
    with pytest.raises(FileNotFoundError, match="its run is unfinished"):
        call(*runs, tmp_path / "data")


def test_curve(runs, tmp_path):
    page = Page(html_of(tmp_path, *runs, "--frames", 0))
    (image,) = [attributes for tag, attributes in page.tags if tag == "img"]
    assert image["alt"] == "vidcom2: 50.0 % at 25.0 % of the tokens"  # mean of 2/6 and, one video unread, 2/3
    png = Image.open(BytesIO(base64.b64decode(image["src"].removeprefix("data:image/png;base64,"))))
    assert png.format == "PNG"
    assert min(png.size) > 500


def test_without_a_curve_the_report_says_why(runs, tmp_path):
    dense, quarter = runs
    for chosen, reason in (
        ((dense,), "one dense run and compressed ones, here are 1 and 0"),
        ((quarter,), "one dense run and compressed ones, here are 0 and 1"),
    ):
        assert reason in html_of(tmp_path, *chosen, "--frames", 0)
    other = write(tmp_path / "other", lines(COMPRESSED, 25, {}), model="another")
    dense = write(tmp_path / "again", lines(DENSE, 100, {}), compressor="none")
    html = html_of(tmp_path, dense, other, "--frames", 0)
    assert "the runs are of several models" in html
    assert "<title>mvbench, m, another</title>" in html
    assert (
        "vidcom2@0.25 is not set as dense: model differs: &#x27;m&#x27; in dense, &#x27;another&#x27; in vidcom2@0.25"
        in html
    )


def test_markup_in_settings_is_text(tmp_path):
    run = write(tmp_path / "a", lines(DENSE, 100, {}), model="<b>{{data}}</b>", compressor="<i>x</i>")
    html = html_of(tmp_path, run, "--frames", 0)
    assert "<b>" not in html
    assert "<i>" not in html
    assert "<title>mvbench, &lt;b&gt;{{data}}&lt;/b&gt;</title>" in html


def test_one_line_of_the_curve_per_method():
    assert method_name("vidcom2@0.25") == method_name("vidcom2@0.15") == "vidcom2"
    assert method_name("dycoke+fca@0.25:fca.tau=0.1") == "dycoke+fca:fca.tau=0.1"


def test_runs_of_one_compressor_go_by_their_directory(runs, tmp_path):
    again = write(tmp_path / "again", lines(COMPRESSED, 25, {}))
    first = write(tmp_path / "first", lines(DENSE, 25, {}))
    assert Page(html_of(tmp_path, first, again, "--frames", 0)).data["runs"] == [str(first), str(again)]


def test_bad_input(runs, tmp_path):
    dense, quarter = runs
    for arguments, error, message in (
        ((dense, dense), ValueError, "dense is given twice"),
        ((tmp_path / "no",), FileNotFoundError, "no is no directory"),
        ((dense, "--samples", 0), ValueError, "--samples 0 must be at least 1"),
        ((dense, "--videos", 0), ValueError, "--videos 0 must be at least 1"),
        ((dense, "--frames", -1), ValueError, "--frames -1 must not be negative"),
        ((dense, "--output", tmp_path), IsADirectoryError, "is a directory: name a file"),
    ):
        with pytest.raises(error, match=message):
            call(*arguments)
    fewer = write(tmp_path / "fewer", lines({"mvbench_action_count": [1]}, 25, {}))
    with pytest.raises(ValueError, match="do not answer the same questions"):
        call(quarter, fewer)


WATCH = """<body><script>
const wrong = [];
for (const kind of ["error", "securitypolicyviolation"])
  window.addEventListener(kind, event => wrong.push(event.message ?? event.blockedURI));
</script>"""
END = """<script>
{
const count = selector => document.querySelectorAll(selector).length;
const set = (id, value) => {
  const input = document.getElementById(id);
  input.value = value;
  input.dispatchEvent(new Event("input"));
};
const option = name => [...document.querySelectorAll("#outcome option")].find(o => o.text === name).value;
const fetched = () => performance.getEntriesByType("resource").filter(e => !e.name.startsWith("data:")).length;
const lines = node => {
  const range = document.createRange();
  range.selectNodeContents(node);
  return new Set([...range.getClientRects()].map(box => box.top)).size;
};
const seen = [];
%s
document.title = [...seen, wrong.length, fetched()].join(" ");
}
</script></body>"""


@pytest.fixture
def browse(tmp_path):
    """Opens a report in Chromium at a width in pixels and runs JavaScript, which appends to `seen`.

    Returns what was seen, and that there were no errors and no requests.
    """
    if CHROME is None:
        pytest.skip("no Chromium on this machine")

    def look(html: str, width: int, script: str) -> tuple[list[int], str]:
        file = tmp_path / "watched.html"
        file.write_text(html.replace("<body>", WATCH).replace("</body>", END % script))
        quiet = ("quic", "background-networking", "component-update", "sync", "gpu")
        command = [
            str(CHROME),
            *("--headless", "--no-sandbox", "--no-first-run", f"--user-data-dir={tmp_path / f'profile{width}'}"),
            *(f"--disable-{what}" for what in quiet),
            *(f"--window-size={width},900", "--dump-dom", file.as_uri()),
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        except subprocess.TimeoutExpired:
            pytest.skip(f"{CHROME} does not finish --dump-dom")  # as builds made for remote control only
        (title,) = re.findall("<title>(.*?)</title>", done.stdout)
        *seen, wrong, fetched = map(int, title.split())
        assert (wrong, fetched) == (0, 0)
        return seen, done.stdout

    return look


FILTERS = """
seen.push(count("article"));
for (const [id, value] of [
  ["category", "state_change"], ["category", ""],
  ["outcome", option("flipped: runs disagree")], ["outcome", option("failed in a run")],
  ["outcome", option("right in every run")], ["outcome", option("wrong in every run")],
  ["outcome", option("vidcom2@0.25: lost (dense has it right)")],
  ["outcome", option("vidcom2@0.25: won (dense has it wrong)")],
  ["outcome", option("all")], ["search", "what is in 3"], ["search", "no such thing"], ["search", ""],
]) {
  set(id, value);
  seen.push(count("article"));
}
seen.push(count("img[src^='data:image/jpeg']"), count("script"));
"""


def test_filters_in_a_browser(runs, tmp_path, browse):
    seen, dom = browse(html_of(tmp_path, *runs, "--frames", 2), 1280, FILTERS)
    dense, quarter = ([s for mine in scores.values() for s in mine] for scores in (DENSE, COMPRESSED))
    quarter[-1] = 0  # its video was not read
    pairs = list(zip(dense, quarter, strict=True))
    lost, won = pairs.count((1, 0)), pairs.count((0, 1))
    expected = [9, 3, 9, lost + won, 1, pairs.count((1, 1)), pairs.count((0, 0)), lost, won, 9, 1, 0, 9]
    assert seen == [*expected, 4, 4]  # images, and the page's two scripts beside ours
    assert MVBENCH.short_name("mvbench_state_change") in dom


NARROW = """
const more = document.getElementById("more");
for (let i = 0; i < 3; i++) {
  seen.push(count("article"), more.hidden ? 0 : 1);
  more.click();
}
seen.push(document.documentElement.scrollWidth - document.documentElement.clientWidth);
seen.push(Math.max(...[...document.querySelectorAll(".overview td, .overview th[scope=row]")].map(lines)));
"""


def test_a_narrow_window_in_a_browser(runs, tmp_path, browse):
    """Questions come in portions, the page is as wide as the window, and no number is broken into lines."""
    specs = [f"uniform+fca@0.{i}:positions=original:fca.tau=0.02:fca.score=max" for i in range(1, 7)]
    others = [write(tmp_path / f"m{i}", lines(COMPRESSED, 25, {}), compressor=spec) for i, spec in enumerate(specs)]
    html = html_of(tmp_path, *runs, *others, "--frames", 2)
    assert html.count("STEP = 50") == 1
    seen, _ = browse(html.replace("STEP = 50", "STEP = 4"), 500, NARROW)
    assert seen == [4, 1, 8, 1, 9, 0, 0, 1]
