"""The page's HTML: every text is a text, bars have their lengths, a saved report needs nothing else."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from eval.reports.look import Eyes, Look
from eval.web.parts import Card, bars, duration, exchange, films_html, no_strip, strip_html
from eval.web.saved import earlier, saved_report
from eval.web.talk import Turn

HOSTILE = """<script>alert(1)</script>"'><img src=x onerror=alert(1)>&amp;{{body}}"""


class Reader(HTMLParser):
    """Notes tags, attributes and the text between them."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.said = [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.said += data


@pytest.fixture
def look():
    """Two frames of 2 × 3 tokens, of which one and five are kept."""
    kept = np.zeros((2, 2, 3), dtype=bool)
    kept[0, 0, 1] = True
    kept[1].flat[:5] = True
    frames = np.full((2, 40, 60, 3), 200, dtype=np.uint8)
    unique = np.array([-0.75, -0.25])
    name = "m" + HOSTILE
    return Look(
        frames=frames,
        seconds=np.arange(2.0),
        features=torch.zeros(2, 6, 4),
        kept=kept,
        uniqueness=unique,
        token_uniqueness=np.zeros((2, 2, 3)),
        method="vidcom2@0.5",
        eyes=Eyes(name, True),
        video=HOSTILE,
    )


def test_nothing_that_is_said_becomes_markup(look):
    card = Card(HOSTILE, HOSTILE, error=None, tokens=(10, 5), first=0.1, total=0.2, seconds={"prefill": 0.1})
    failed = Card(HOSTILE, error=HOSTILE)
    answered = exchange(HOSTILE, HOSTILE, HOSTILE, [card, failed])
    strips = films_html(strip_html(HOSTILE, look) + no_strip(HOSTILE, HOSTILE))
    turn = Turn(HOSTILE, HOSTILE, {}, answered, strips)
    for html in (answered, strips, earlier([turn]), saved_report([turn])):
        read = Reader(html)
        assert "script" not in read.tags
        assert not [name for name, _ in read.attributes if name.startswith("on")]
        assert {value.partition(";")[0] for name, value in read.attributes if name == "src"} <= {"data:image/jpeg"}
        assert HOSTILE in read.said


def test_bars_have_the_lengths_of_their_times():
    html = bars({"decode": 0.05, "vision": 0.2, "prefill": 0.0}, longest=0.4)
    assert re.findall(r"width:([\d.]+)%", html) == ["12.5", "50.0", "0.0"]
    assert re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", html) == [
        ("decode", "50 ms"),
        ("vision", "200 ms"),
        ("prefill", "0 ms"),
    ]
    assert [duration(seconds) for seconds in (0.0123456, 0.9994, 0.9996, 12.345, 100.4)] == [
        *("12.3 ms", "999 ms", "1 s", "12.3 s", "100 s")
    ]


def test_all_cards_have_one_scale():
    cards = [Card("a", "A", seconds={"prefill": 0.1}), Card("b", "B", seconds={"prefill": 0.4})]
    assert re.findall(r"width:([\d.]+)%", exchange("q", "v", "m", cards)) == ["25.0", "100.0"]


def test_a_card_says_how_far_it_is():
    texts = [
        Reader(exchange("q", "v", "m", [card])).said
        for card in (Card("t", running=True), Card("t", "An ans", running=True), Card("t", ""))
    ]
    for text, part in zip(texts, ("waiting", "An ans", "an empty answer"), strict=True):
        assert part in text
    done = Card("t", "B", tokens=(1153, 304), first=0.0444, total=0.054)
    said = Reader(exchange("q", "v", "m", [done])).said
    assert "304 of 1,153 visual tokens (26.4 %)first token after 44.4 ms, all after 54 ms" in said
    late = Card("t", "B", tokens=(1153, 304), first=None, total=0.054)
    assert "first token" not in exchange("q", "v", "m", [late])


def test_a_film_strip_shows_what_the_look_has(look):
    html = strip_html("title", look)
    assert re.findall(r'aria-label="(frame .*?)"', html) == [
        "frame 1: uniqueness -0.750, 1 of 6 tokens kept",
        "frame 2: uniqueness -0.250, 5 of 6 tokens kept",
    ]
    assert re.findall(r'bar (\w+)" style="width:([\d.]+)%', html) == [
        *(("unique", "0.0"), ("budget", "16.7"), ("unique", "100.0"), ("budget", "83.3"))
    ]
    for row, image in zip(look.kept, re.findall(r'src="data:image/jpeg;base64,(.*?)"', html), strict=True):
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(image))).convert("L"), dtype=float)
        height, width = picture.shape
        for r, c in np.ndindex(2, 3):  # the middle of each token is bright where it is kept
            assert (picture[(2 * r + 1) * height // 4, (2 * c + 1) * width // 6] > 120) == row[r, c]
    assert look.eyes.warning.partition(":")[0] in html


def test_a_saved_report_needs_nothing_else(look):
    turns = [Turn("v.mp4", f"q{i}", {}, exchange(f"q{i}", "v", "m", []), strip_html("t", look)) for i in range(2)]
    html = saved_report(turns)
    assert "default-src 'none'" in html
    read = Reader(html)
    assert {value.partition(":")[0] for name, value in read.attributes if name in ("src", "href", "srcset")} == {"data"}
    assert "link" not in read.tags
    assert not re.search(r"url\(|@import", html)
    assert html.index("q0") < html.index("q1")
    assert "<title>Questions about v.mp4</title>" in html


def test_earlier_questions_come_latest_first():
    turns = [Turn("v.mp4", f"q{i}", {}, f"<p>a{i}</p>", "") for i in range(2)]
    assert re.findall(r"<summary>(.*?)</summary><p>(.*?)</p>", earlier(turns)) == [("q1", "a1"), ("q0", "a0")]
    assert earlier([]) == ""
