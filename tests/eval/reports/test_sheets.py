"""Sheets and moving pictures: what is drawn is what a look says, and it can be read."""

from __future__ import annotations

import itertools
import re
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from eval.reports.animation import CODECS, animate, durations
from eval.reports.drawing import DIMMED, OUTLINE, THEMES, Scale, height_of, kept_picture, pixels, token_picture
from eval.reports.layout import DPI, shortened, text_width, ticks, wrapped
from eval.reports.look import Eyes, Look
from eval.reports.sheets import Style, draw_look, kept_sheet, token_sheet, uniqueness_sheet
from llava.video import FrameSampling, read_video
from vidcom2 import VidCom2

SHEETS = (uniqueness_sheet, kept_sheet, token_sheet)
DEMO = Eyes("demo model llava-onevision", drawn_shapes_only=True)
SQUARE, PORTRAIT, WIDE = (60, 60), (54, 96), (126, 54)
"""Width and height."""


def made(count: int = 5, size: tuple[int, int] = SQUARE, grid: tuple[int, int] = (6, 6), **other) -> Look:
    """A look at random features, with white frames."""
    generator = torch.Generator().manual_seed(count)
    x = 2 + torch.randn(count, grid[0] * grid[1], 16, generator=generator)
    method = VidCom2(0.3)
    kept, why = np.zeros(x.shape[0] * x.shape[1], dtype=bool), method.explain(x)
    kept[method.select(x).index.numpy()] = True
    values = {
        "frames": np.full((count, size[1], size[0], 3), 255, dtype=np.uint8),
        "seconds": np.arange(count) * 0.5,
        "features": x,
        "kept": kept.reshape(count, *grid),
        "uniqueness": why.frame_uniqueness.numpy(),
        "token_uniqueness": why.video.numpy().reshape(count, *grid),
        "method": method.spec,
        "eyes": DEMO,
        "video": "street.mp4",
    }
    return Look(**(values | other))


# ---- pictures


@pytest.mark.parametrize("covered", [1.0, 0.75])
@pytest.mark.parametrize(("size", "width"), [(SQUARE, 240), (PORTRAIT, 130), (WIDE, 301)])
def test_kept_tokens_are_bright_and_outlined(size, width, covered):
    """In white frames, the middles of kept tokens are white, those of dropped ones and what no token covers dark."""
    look = made(3, size, covered=covered)
    _, rows, columns = look.kept.shape
    for t in range(3):
        picture = kept_picture(look, t, width)
        height = round(width * size[1] / size[0])
        assert picture.shape == (height, width, 3)
        assert picture.dtype == np.uint8
        for r, c in itertools.product(range(rows), range(columns)):
            y, x = int((r + 0.5) * height * covered / rows), int((c + 0.5) * width * covered / columns)
            assert (picture[y, x] == (255 if look.kept[t, r, c] else int(255 * DIMMED))).all()
        if covered < 1:
            assert (picture[-1] == int(255 * DIMMED)).all()
        outline = (picture == pixels(OUTLINE)).all(axis=2)
        assert outline.any()
        dark = (picture == int(255 * DIMMED)).all(axis=2)
        white = (picture == 255).all(axis=2)
        assert (outline | dark | white).all()
        assert not (white[:, 1:] & dark[:, :-1]).any(), "a line is between them"


def test_tokens_that_are_too_small_have_no_outline():
    look = made(1, SQUARE, (24, 24))
    picture = kept_picture(look, 0, 72)
    assert set(np.unique(picture)) == {int(255 * DIMMED), 255}
    assert (picture[1::3, 1::3, 0] == 255).tolist() == look.kept[0].tolist()


def test_token_pictures_have_the_colours_of_the_scale():
    look = made(2)
    scale = Scale.of(look)
    picture = token_picture(look, 1, scale, 240)
    assert height_of(look, 240) == 240
    expected = scale.colour(look.token_uniqueness[1])
    assert np.array_equal(picture[20::40, 20::40], expected)
    white = (picture == 255).all(axis=2)
    assert white.any()
    lit = np.kron(look.kept[1], np.ones((40, 40), dtype=bool)).astype(bool)
    assert not (white & ~lit).any(), "only kept tokens are outlined"


def test_the_scale_is_one_for_frames_and_tokens_and_even_to_the_eye():
    look = made(8)
    scale = Scale.of(look)
    assert scale.zero == look.uniqueness.min()
    assert scale.place(scale.low) == 0
    assert scale.place(scale.top) == 1
    assert scale.low == pytest.approx(look.token_uniqueness.min() - scale.zero)
    assert scale.top == pytest.approx(look.token_uniqueness.max() - scale.zero)
    ordered = scale.colour(np.sort(look.token_uniqueness.ravel())) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(ordered) >= -1).all(), "more unique is brighter, in grey, too"
    assert np.array_equal(scale.colour(float(look.uniqueness[3])), scale.colour(look.uniqueness)[3])
    values = scale.ticks(0.1)
    assert values == sorted(values)
    assert 0 in values
    assert np.diff([scale.place(value) for value in values]).min() >= 0.1


def test_equal_frames_have_a_scale():
    look = replace(made(3), uniqueness=np.full(3, -0.9), token_uniqueness=np.full((3, 6, 6), -0.9))
    assert Scale.of(look).colour(-0.9).shape == (3,)
    assert not [bar for bar in uniqueness_sheet(look, Style()).axes[1].patches if bar.get_height()]


# ---- sheets


def written(figure: Figure) -> list[Text]:
    """Every text that the sheet shows."""
    found = []
    for axes in figure.axes:
        found += axes.texts
        if axes.axison:
            found += [axes.xaxis.label, axes.yaxis.label]
            for axis in (axes.xaxis, axes.yaxis):
                low, high = sorted(axis.get_view_interval())
                found += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    return [text for text in found if text.get_text() and text.get_visible()]


def overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which boxes [N, 4] lie over which others [M, 4], by more than half a pixel: bool [N, M]."""
    (left, low, right, high), (l2, b2, r2, t2) = boxes.T[:, :, None], others.T[:, None]
    return (np.minimum(right, r2) - np.maximum(left, l2) > 0.5) & (np.minimum(high, t2) - np.maximum(low, b2) > 0.5)


CASES = [
    (1, SQUARE, 3.3),
    (1, PORTRAIT, 7.0),
    (2, WIDE, 7.0),
    (7, PORTRAIT, 7.0),
    (16, WIDE, 7.0),
    (16, SQUARE, 2.5),
    (64, PORTRAIT, 3.3),
    (128, SQUARE, 7.0),
    (300, WIDE, 7.0),
]


@pytest.mark.parametrize(("count", "size", "width"), CASES)
@pytest.mark.parametrize("sheet", SHEETS)
def test_a_sheet_of_any_number_of_frames_can_be_read(sheet, count, size, width):
    look = made(count, size, (3, 4), video="a_video_with_a_rather_long_name_$x$_" * 4 + ".mp4")
    figure = sheet(look, Style(width=width))
    figure.draw_without_rendering()
    texts = written(figure)
    page = np.array([[0, 0, *figure.bbox.size]])
    boxes = np.array([text.get_window_extent().extents for text in texts])
    assert (boxes[:, :2] >= page[:, :2] - 0.5).all(), "nothing is cut off"
    assert (boxes[:, 2:] <= page[:, 2:] + 0.5).all(), "nothing is cut off"
    pairs = overlaps(boxes, boxes) & ~np.eye(len(boxes), dtype=bool)
    assert not pairs.any(), [(texts[i].get_text(), texts[j].get_text()) for i, j in np.argwhere(pairs)]
    pictures = np.array([image.get_window_extent().extents for image in figure.axes[0].images])
    assert not overlaps(boxes, pictures).any()
    assert not (overlaps(pictures, pictures) & ~np.eye(len(pictures), dtype=bool)).any()
    frames = pictures[:count]
    assert len(pictures) == count + (sheet is not kept_sheet)
    width_of, height_of_frame = frames[0, 2:] - frames[0, :2]
    assert width_of / height_of_frame == pytest.approx(size[0] / size[1], rel=0.05), "undistorted"
    assert width_of >= 0.2 * DPI
    assert figure.get_figwidth() == width
    assert figure.get_figheight() <= (13 if count < 300 else 17)
    numbers = [text.get_text() for text in texts if re.match(r"\d+(:| ·|$)", text.get_text())]
    assert {int(re.match(r"\d+", text)[0]) for text in numbers} >= set(range(1, count + 1)), "each frame has its number"
    assert min(text.get_fontsize() for text in texts) >= 4.5


@pytest.mark.parametrize("sheet", SHEETS)
@pytest.mark.parametrize("theme", THEMES)
def test_a_sheet_says_whose_eyes_it_shows(sheet, theme):
    for eyes in (DEMO, Eyes("llava-onevision-qwen2-7b-ov")):
        look = made(3, eyes=eyes)
        figure = sheet(look, Style(THEMES[theme]))
        text = " ".join(text.get_text() for text in written(figure))
        assert " · ".join(look.facts) in text
        assert ("Trained on drawn shapes only" in text) is eyes.drawn_shapes_only
        assert figure.get_facecolor()[:3] == pytest.approx(pixels(THEMES[theme].paper) / 255)


def test_bars_are_uniqueness_above_its_minimum():
    look = made(6)
    figure = uniqueness_sheet(look, Style())
    axes, upper, lower = figure.axes
    heights = [bar.get_height() for bar in upper.patches]
    assert heights == pytest.approx((look.uniqueness - look.uniqueness.min()).tolist())
    assert upper.get_ylim()[0] == 0
    assert [bar.get_facecolor()[:3] for bar in upper.patches] == [
        pytest.approx(colour / 255) for colour in Scale.of(look).colour(look.uniqueness)
    ]
    assert [bar.get_height() for bar in lower.patches] == pytest.approx((100 * look.shares).tolist())
    least = int(look.uniqueness.argmin())
    said = f"frame {least + 1} with u = \N{MINUS SIGN}{abs(look.uniqueness[least]):.4f}, where the axis begins"
    assert said in " ".join(text.get_text() for text in axes.texts)
    middles = [image.get_window_extent().get_points()[:, 0].mean() for image in axes.images[:6]]
    bars = [bar.get_window_extent().get_points()[:, 0].mean() for bar in upper.patches]
    assert middles == pytest.approx(bars, abs=1), "bars stand above their frames"


def test_equally_unique_frames_have_no_most_unique_one():
    look = made(4, PORTRAIT)
    look = replace(look, uniqueness=np.full_like(look.uniqueness, -0.5))
    (axes, *_) = uniqueness_sheet(look, Style()).axes
    said = " ".join(text.get_text() for text in axes.texts)
    assert "All frames are equally unique: u = \N{MINUS SIGN}0.5000" in said


def test_the_files_hold_what_is_drawn(tmp_path):
    """Pixel by pixel in the PNG; PDF and SVG have text as text and few pictures, and the same look the same bytes."""
    look = made(12, PORTRAIT)
    files = draw_look(look, tmp_path / "one", Style(THEMES["dark"], 3.3))
    assert [file.name for file in files] == [
        f"{name}.{ending}" for name in ("uniqueness", "kept", "tokens") for ending in ("png", "pdf", "svg")
    ]
    again = draw_look(look, tmp_path / "two", Style(THEMES["dark"], 3.3))
    assert [file.read_bytes() for file in files] == [file.read_bytes() for file in again]
    figure = kept_sheet(look, Style(THEMES["dark"], 3.3))
    shown = np.asarray(Image.open(tmp_path / "one/kept.png").convert("RGB"))
    assert shown.shape[1] == round(3.3 * DPI)
    for t, image in enumerate(figure.axes[0].images):
        left, low, right, high = np.round(image.get_window_extent().extents).astype(int)
        part = shown[len(shown) - high : len(shown) - low, left:right]
        assert np.array_equal(part, kept_picture(look, t, right - left))
    pdf = (tmp_path / "one/kept.pdf").read_bytes()
    assert b"/FontFile2" in pdf, "TrueType"
    assert b"/Type3" not in pdf
    assert pdf.count(b"/Subtype /Image") <= 2 * 12
    streams = (zlib.decompress(part) for part in re.findall(rb"stream\r?\n(x.*?)\r?\nendstream", pdf, re.DOTALL))
    assert sum(stream.count(b" re\n") + stream.count(b" h\n") for stream in streams) < 60, "pictures are no patches"
    svg = (tmp_path / "one/kept.svg").read_text(encoding="utf-8")
    assert "street.mp4 · seen by demo model llava-onevision" in svg
    assert svg.count("<image") <= 12


# ---- moving pictures


@pytest.mark.parametrize("size", [PORTRAIT, WIDE, (61, 45)])
@pytest.mark.parametrize(("ending", "codec"), [("mp4", CODECS[0]), ("mp4", CODECS[1]), ("gif", None)])
def test_a_moving_picture_shows_what_is_kept_at_the_speed_of_the_video(ending, codec, size, tmp_path):
    seconds = np.array([0.0, 0.5, 0.75, 2.0])
    look = made(4, size, (3, 4), seconds=seconds)
    file = animate(look, tmp_path / f"kept.{ending}", THEMES["light"], codec)
    video = read_video(file, FrameSampling("uniform", max_frames=4))
    assert video.total_frames == 4
    assert video.shown_at == pytest.approx(seconds, abs=0.011)
    height, width = video.frames.shape[1:3]
    assert height % 2 == width % 2 == 0
    assert max(height, width) < 900
    tall = height_of(look, width)
    for t, frame in enumerate(video.frames):
        for r, c in itertools.product(range(3), range(4)):
            brightness = frame[int((r + 0.5) * tall / 3), int((c + 0.5) * width / 4)].mean()
            assert brightness > 225 if look.kept[t, r, c] else brightness < 80
        bar = (np.abs(frame[tall:].astype(int) - pixels(THEMES["light"].budget)).max(axis=2) < 60).sum(axis=1)
        assert bar.max() / (width - 16) == pytest.approx(look.shares[t], abs=0.03)


def test_durations():
    assert durations(np.array([3.0])).tolist() == [1000]
    assert durations(np.array([1.0, 1.5, 1.5, 3.0])).tolist() == [500, 1, 1500, 667]
    thirds = durations(np.arange(31) / 30)
    assert thirds[:30].sum() == 1000
    with pytest.raises(ValueError, match=r"x\.avi ends neither in \.mp4 nor in \.gif"):
        animate(made(1), Path("x.avi"))


# ---- text


@pytest.mark.filterwarnings("error")
def test_a_name_in_any_script_can_be_drawn(tmp_path):
    look = made(1, video="街 $x^2$ \\udcff.mp4")
    shown = " ".join(text.get_text() for text in written(kept_sheet(look, Style())))
    assert "\N{WHITE SQUARE} $x^2$ \\udcff.mp4 · seen by" in shown
    kept_sheet(look, Style()).savefig(tmp_path / "kept.png")
    animate(look, tmp_path / "kept.gif")


def test_text_wraps_and_ticks_thin_out():
    lines = wrapped("one two " + "x" * 200, 1.0)
    assert all(text_width(line) <= 1.0 for line in lines)
    assert "".join("".join(lines).split()) == "onetwo" + "x" * 200
    assert shortened("short.mp4", 2) == "short.mp4"
    short = shortened("a" * 90 + ".mp4", 1.5)
    assert text_width(short) <= 1.5
    assert re.fullmatch(r"a+….*\.mp4", short)
    assert ticks(1, 5) == [1]
    assert ticks(16, 6) == list(range(1, 17))
    found = ticks(300, 5)
    assert found[-1] <= 300
    assert np.diff(found).min() * 5 / 300 > text_width("300")
