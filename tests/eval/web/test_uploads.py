"""What is accepted as a video, and when its file is deleted."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace

import pytest

from eval.web.uploads import Limits, Refused, Uploads, accept
from tests.eval.web.conftest import LIMITS, long_video


def test_a_good_video(clip):
    found = accept(clip, LIMITS)
    assert (found.name, found.seconds, found.frames, found.width, found.height) == ("lamp.mp4", 4.0, 32, 144, 144)
    assert str(found) == "lamp.mp4: 4.0 s, 32 frames, 144×144"
    assert str(replace(found, frames=1)) == "lamp.mp4: 4.0 s, 1 frame, 144×144"


def refused(path, limits=LIMITS):
    """The one line that says why, in which no folder of this machine is named."""
    with pytest.raises(Refused) as error:
        accept(path, limits)
    (line,) = str(error.value).splitlines()
    assert str(path.parent) not in line
    return line


def test_what_is_refused(clip, tmp_path, monkeypatch):
    small = replace(LIMITS, megabytes=clip.stat().st_size / 1e6 - 1e-6)
    assert re.fullmatch(r"lamp.mp4 has 0\.0\d+ MB, and at most [\d.]+ MB are accepted .*", refused(clip, small))
    accept(clip, replace(LIMITS, megabytes=clip.stat().st_size / 1e6))
    long = long_video(tmp_path / "long.mp4")
    assert refused(long) == "long.mp4 lasts 0.2 minutes, and at most 0.1 are accepted here: cut it"
    accept(long, Limits(1, 0.2))
    (tmp_path / "broken.mp4").write_bytes(clip.read_bytes()[:900])
    assert refused(tmp_path / "broken.mp4").startswith("broken.mp4: cannot be read by exact: it is")
    (tmp_path / "text.mp4").write_text("<script>alert(1)</script>")
    assert "text.mp4: cannot be read by exact: it is" in refused(tmp_path / "text.mp4")
    assert refused(tmp_path / "gone.mp4") == "gone.mp4 is no longer on the server: choose it again"
    assert refused(tmp_path / "folder.mp4").startswith("folder.mp4 is no longer")
    monkeypatch.setattr("eval.web.uploads.PIXELS", 144 * 144 - 1)
    assert "frames of 144×144 pixels, and at most 20,735" in refused(clip)


def test_the_size_is_looked_at_before_the_file_is_opened(clip, monkeypatch):
    monkeypatch.setattr("eval.web.uploads.open_video", None)
    assert " MB, and at most " in refused(clip, replace(LIMITS, megabytes=1e-5))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "uploads").mkdir()
    return tmp_path / "uploads"


def upload(folder, name="a"):
    (folder / name).mkdir()
    (folder / name / "v.mp4").write_text("")
    return folder / name / "v.mp4"


def test_a_file_goes_with_the_last_session_that_holds_it(folder):
    forgotten = []
    uploads, file = Uploads(folder, forgotten.append), upload(folder)
    uploads.hold("one", file)
    uploads.hold("two", file)
    uploads.leave("one")
    uploads.leave("three")
    assert file.exists()
    assert not forgotten
    uploads.leave("two")
    assert forgotten == [file]
    assert list(folder.iterdir()) == []


def test_a_new_video_takes_the_place_of_the_old_one(folder):
    uploads = Uploads(folder)
    old, new = upload(folder, "old"), upload(folder, "new")
    uploads.hold("one", old)
    uploads.hold("one", new)
    uploads.hold("one", new)
    assert not old.exists()
    assert new.exists()


def test_what_a_session_wrote_goes_with_it(folder):
    uploads = Uploads(folder)
    first, other = uploads.place("one", "answers.html"), uploads.place("two", "answers.html")
    first.write_text("1")
    other.write_text("2")
    second = uploads.place("one", "answers.html")
    second.write_text("3")
    assert not first.exists()
    uploads.leave("one")
    assert not second.exists()
    assert other.read_text() == "2"


def test_nothing_outside_the_folder_is_deleted(folder):
    uploads = Uploads(folder)
    outside = upload(folder.parent, "mine")
    uploads.hold("one", outside)
    uploads.hold("one", folder / ".." / "mine" / "v.mp4")
    uploads.leave("one")
    assert outside.exists()


def test_what_is_no_file_any_more_is_let_go(folder):
    uploads, file = Uploads(folder), upload(folder)
    uploads.hold("one", file)
    shutil.rmtree(file.parent)
    uploads.leave("one")
    for path in (folder, upload(folder, "other").parent):
        uploads.hold("one", path)
        uploads.leave("one")
        assert path.exists()
