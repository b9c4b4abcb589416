"""The page in a browser, and its queue."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from urllib.parse import urlsplit

import httpx
import pytest

from eval.web.parts import WAITING as WAITING_CARD
from eval.web.talk import Shown
from tests.eval.web.conftest import WAITING, Server

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SIZES = (1400, 400)
HOSTILE = "<script>document.title = 'broken'</script><img src=x onerror=\"document.title = 'broken'\">"
UNLABELLED = """() => [...document.querySelectorAll("input, textarea, button, [role=listbox]")].filter(one =>
  one.offsetParent && !one.innerText.trim() && !one.labels?.length && !one.closest("label")
  && !["aria-label", "aria-labelledby", "title"].some(name => one.getAttribute(name))).map(one => one.outerHTML)"""


@pytest.fixture(scope="module")
def browser():
    sync = pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright")
    if CHROMIUM is None:
        pytest.skip("the browser tests need chromium, chromium-browser or google-chrome on the path")
    with sync.sync_playwright() as playwright:
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium's sandbox does not work for root
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield made
        made.close()


@contextmanager
def opened(browser, server: Server, width: int, **settings) -> Iterator[Page]:
    """The page in a window of this width. At the end nothing has gone wrong in it, and it has asked no other server."""
    context = browser.new_context(viewport={"width": width, "height": 900}, accept_downloads=True, **settings)
    window = context.new_page()
    window.set_default_timeout(20_000)
    wrong: list[str] = []
    window.on("request", lambda one: wrong.append(one.url) if elsewhere(one.url, server) else None)
    window.on("console", lambda one: wrong.append(one.text) if one.type == "error" else None)
    window.on("pageerror", lambda error: wrong.append(str(error)))
    window.on("response", lambda one: wrong.append(f"{one.status} {one.url}") if one.status >= 400 else None)
    window.goto(server.url)
    window.get_by_role("button", name="Ask", exact=True).wait_for()
    yield Page(window)
    assert wrong == []
    assert window.evaluate("document.documentElement.scrollWidth") <= width
    assert "broken" not in window.title()
    context.close()


def elsewhere(url: str, server: Server) -> bool:
    return urlsplit(url).scheme not in ("data", "blob") and urlsplit(url).netloc != urlsplit(server.url).netloc


class Page:
    """What a guest does with the page."""

    def __init__(self, window):
        self.window = window
        self.status, self.answers = window.locator("#status"), window.locator("#answers")

    def upload(self, name: str, content: bytes) -> None:
        file = {"name": name, "mimeType": "video/mp4", "buffer": content}
        self.window.locator("#video input[type=file]").set_input_files(file)

    def choose(self, label: str, option: str) -> None:
        self.window.get_by_label(label, exact=True).click()
        self.window.get_by_role("option", name=option, exact=True).click()

    def write(self, question: str) -> None:
        self.window.get_by_label("Question").first.fill(question)

    def ask(self) -> None:
        self.window.get_by_role("button", name="Ask", exact=True).click()

    def wait(self, script: str) -> None:
        self.window.wait_for_function(script)

    def finished(self) -> str:
        """Wait for the end of an answer, and return what the page says of it."""
        self.wait("document.querySelector('#save').matches(':not([disabled])')")
        return self.answers.inner_text()


@pytest.mark.parametrize("width", SIZES)
def test_a_question_from_upload_to_saved_report(browser, server, clip, width, tmp_path):
    before = set(server.files())
    with opened(browser, server, width, color_scheme="dark" if width == 400 else "light") as page:
        assert page.window.evaluate(UNLABELLED) == []
        page.upload("my <b>lamp.mp4", clip.read_bytes())
        page.wait("document.querySelector('#status').innerText.includes('4.0 s, 32 frames, 144×144')")
        slider = page.window.get_by_role("slider")
        slider.focus()
        for _ in range(5):
            page.window.keyboard.press("ArrowRight")
        page.choose("A second method beside it", "simplecluster")
        page.write(HOSTILE)
        page.window.keyboard.press("Shift+Enter")
        said = page.finished()
        assert HOSTILE in said
        assert re.findall(r"^(vidcom2, 30 %|dense: all tokens|simplecluster, 30 %)$", said, re.MULTILINE) == [
            *("vidcom2, 30 %", "dense: all tokens", "simplecluster, 30 %")
        ]
        assert said.count(" of 1,153 visual tokens") == 3
        assert page.window.locator("#films figure").count() == 2 * 32
        with page.window.expect_download() as download:
            page.window.get_by_role("button", name="Save as HTML").click()
        assert download.value.suggested_filename == "vidcom2-answers.html"
        download.value.save_as(tmp_path / "saved.html")
        assert len(set(server.files()) - before) == 2  # the video and the report
        sees_a_saved_report(page, tmp_path / "saved.html", width)
    until(lambda: set(server.files()) == before)  # the page is closed


def sees_a_saved_report(page: Page, file: Path, width: int) -> None:
    other = page.window.context.new_page()
    wrong: list[str] = []
    other.on("console", lambda one: wrong.append(one.text))
    other.on("request", lambda one: wrong.append(one.url) if urlsplit(one.url).scheme not in ("file", "data") else None)
    other.goto(file.as_uri())
    assert HOSTILE in other.locator("body").inner_text()
    assert other.locator("figure img").evaluate_all("all => all.every(one => one.naturalWidth > 0)")
    assert other.evaluate("document.documentElement.scrollWidth") <= width
    assert "broken" not in other.title()
    assert wrong == []
    other.close()


def until(true: Callable[[], bool]) -> None:
    """Wait until something is so."""
    for _ in range(400):
        if true():
            return
        time.sleep(0.05)
    raise AssertionError("it did not become so in 20 s")


def test_what_goes_wrong_is_a_line_and_the_next_question_works(browser, server, clip):
    before = set(server.files())
    with opened(browser, server, 1400) as page:
        page.ask()
        page.wait("document.querySelector('#answers').innerText.includes('there is no video')")
        page.upload("broken.mp4", clip.read_bytes()[:700])
        page.wait("document.querySelector('#status').innerText.includes('broken.mp4: cannot be read')")
        page.window.get_by_label("Clear").or_(page.window.get_by_label("Remove")).first.click()
        until(lambda: set(server.files()) == before)
        page.choose("Or choose an example", "What does the background change to?")
        page.wait("document.querySelector('#status').innerText.includes('4.0 s')")
        page.write("  ")
        page.ask()
        page.wait("document.querySelector('#answers').innerText.includes('there is no question')")
        page.write("Why?")
        page.choose("Method", "fastv")
        page.ask()
        assert "fastv cannot reach retention=0.25" in page.finished()
        page.choose("Method", "vidcom2")
        page.ask()
        page.wait("document.querySelector('#answers').innerText.includes('Earlier questions')")
        assert page.finished().count(" of 1,153 visual tokens") == 2


def test_waiting_and_stopping(browser, server, clip, monkeypatch):
    running, go, ended = Event(), Event(), Event()

    def slow(wanted):
        running.set()
        go.wait(20)
        yield Shown("done")

    def endless(wanted):
        try:
            while True:
                time.sleep(0.02)
                yield Shown(f"<p>and so on</p>{WAITING_CARD}")
        finally:
            ended.set()

    with opened(browser, server, 400) as page:
        page.upload("v.mp4", clip.read_bytes())
        page.wait("document.querySelector('#status').innerText.includes('4.0 s')")
        page.write("Why?")
        with monkeypatch.context() as patched:
            patched.setattr(server.talk, "answer", slow)
            files = {"files": ("v.mp4", clip.read_bytes())}
            (path,) = httpx.post(f"{server.url}/gradio_api/upload", files=files).json()
            assert join(server, "other", path).status_code == 200
            assert running.wait(20)  # or the other question would be the endless one
            page.ask()
            page.wait("document.querySelector('#answers').innerText.includes('queue: 1/1')")
            patched.setattr(server.talk, "answer", endless)
            go.set()
            page.wait("document.querySelector('#answers').innerText.includes('and so on')")
            page.window.get_by_role("button", name="Stop").click()
            assert ended.wait(20)
            page.wait("document.querySelector('#status').innerText.includes('stopped')")
            page.wait("!document.querySelector('#answers').innerText.includes('waiting')")
        page.ask()
        page.wait("document.querySelector('#answers').innerText.includes(' of 1,153 visual tokens')")
        page.finished()


# ---- the queue


def join(server: Server, session: str, video: str) -> httpx.Response:
    """Ask as the page does."""
    config = httpx.get(f"{server.url}/config").json()
    (ask,) = [one["id"] for one in config["dependencies"] if len(one["inputs"]) == 8]
    file = {"path": video, "meta": {"_type": "gradio.FileData"}}
    data = [file, server.talk.models[0], "vidcom2", 25, "none", "Why?", False, None]
    said = {"data": data, "fn_index": ask, "session_hash": session, "trigger_id": None}
    return httpx.post(f"{server.url}/gradio_api/queue/join", json=said)


def events(server: Server, session: str) -> Iterator[dict[str, object]]:
    address = f"{server.url}/gradio_api/queue/data?session_hash={session}"
    with httpx.stream("GET", address, timeout=20) as lines:
        yield from (json.loads(line[6:]) for line in lines.iter_lines() if line.startswith("data: "))


def test_guests_wait_in_a_queue_with_a_limit(server, clip, monkeypatch):
    running, go = Event(), Event()
    order: list[str] = []

    def slow(wanted):
        order.append(wanted.question)
        running.set()
        go.wait(20)
        yield Shown("done")

    monkeypatch.setattr(server.talk, "answer", slow)
    files = {"files": ("v.mp4", clip.read_bytes())}
    (path,) = httpx.post(f"{server.url}/gradio_api/upload", files=files).json()
    assert join(server, "s0", path).status_code == 200
    first = events(server, "s0")
    next(first)
    assert running.wait(20)
    answers = [join(server, f"s{i + 1}", path) for i in range(WAITING + 1)]
    assert [one.status_code for one in answers[:-1]] == WAITING * [200]
    assert "full" in answers[-1].text
    assert len(order) == 1
    waiting = [events(server, f"s{i + 1}") for i in range(WAITING)]
    for rank, one in enumerate(waiting):
        told = next(event for event in one if event["msg"] == "estimation")
        assert told["rank"] == rank
    go.set()
    for one in (first, *waiting):
        assert [event["success"] for event in one if event["msg"] == "process_completed"] == [True]
    assert len(order) == 1 + WAITING
