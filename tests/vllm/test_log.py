"""What the plug-in says in vLLM's log: what has no effect, and what cannot be compressed."""

from __future__ import annotations

from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest

from vidcom2 import compressor
from vidcom2.vllm.serving import serving

pytestmark = pytest.mark.skipif(find_spec("vllm") is None, reason="needs vLLM")


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is logged."""
    from vidcom2.vllm import serves

    lines: list[str] = []

    def note(text: str, *values: Any) -> None:
        lines.append(text % values if values else text)

    monkeypatch.setattr(serves, "logger", SimpleNamespace(info_once=note, warning_once=note))
    for name in ("COMPRESSOR", "R_RATIO"):
        monkeypatch.delenv(name, raising=False)
    return lines


class Prunes:
    """A model whose videos vLLM prunes."""

    supports_multimodal_pruning = True


class Ignores:
    """A model that accepts vLLM's flag for that, and does nothing."""


def settings(rate: float | None) -> Any:
    """vLLM's settings with --video-pruning-rate."""
    from vllm.config.multimodal import MultiModalConfig

    return SimpleNamespace(model_config=SimpleNamespace(multimodal_config=MultiModalConfig(video_pruning_rate=rate)))


def test_a_flag_without_an_effect(said):
    from vidcom2.vllm.serves import announce

    announce(serving(compressor("vidcom2@0.25"), "repack"), Ignores, settings(0.5))
    assert said[0].startswith("vidcom2 compresses videos with vidcom2@0.25:rounding=exact")
    assert said[-1] == "--video-pruning-rate 0.5 has no effect: vLLM does not prune videos of Ignores"


def test_two_that_would_prune(said):
    from vidcom2.vllm.serves import announce

    with pytest.raises(ValueError, match=r"--video-pruning-rate 0\.5 and vidcom2@0\.25 would both prune a video"):
        announce(serving(compressor("vidcom2@0.25"), "original"), Prunes, settings(0.5))
    announce(serving(compressor("none"), "original"), Prunes, settings(0.5))
    announce(serving(compressor("vidcom2@0.25"), "original"), Prunes, settings(None))
    assert not [line for line in said if "no effect" in line]


def test_an_untested_version(said, monkeypatch):
    from vidcom2.vllm.serves import announce

    announce(serving(compressor("none"), "repack"), Ignores, settings(None))
    assert len(said) == 1, "this version is tested"
    monkeypatch.setattr("vllm.__version__", "9.9.9")
    announce(serving(compressor("none"), "repack"), Ignores, settings(None))
    assert said[-1] == "vidcom2 was tested with vLLM 0.32.0, and this is 9.9.9"


@pytest.mark.parametrize(
    ("spec", "counts", "warns"),
    [
        ("vidcom2@0.25", {"image": 8}, True),
        ("vidcom2@0.25", {"image": 3}, False),
        ("vidcom2@0.25", {"image": 8, "video": 1}, False),
        ("none", {"image": 8}, False),
    ],
)
def test_frames_that_were_sent_as_images(spec, counts, warns, said):
    from vidcom2.vllm.serves import Watches

    class Base:
        """A processor of vLLM."""

        info = SimpleNamespace(get_hf_config=lambda: SimpleNamespace(vidcom2=spec))

        def apply(self, inputs: Any, timing_ctx: Any) -> str:
            return "processed"

    class Processor(Watches, Base):
        """With the plug-in."""

    inputs = SimpleNamespace(mm_data_items=SimpleNamespace(get_all_counts=lambda: counts))
    assert Processor().apply(inputs, None) == "processed"
    expected = ["A prompt has 8 images and no video. vidcom2 compresses videos only: send frames as one video"]
    assert said == (expected if warns else [])
