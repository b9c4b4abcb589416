"""The compressor of an engine: where it is asked for, and what a server refuses. Needs no vLLM."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vidcom2 import METHODS, Dense, compressor
from vidcom2.vllm.refuses import check, refuse_others
from vidcom2.vllm.serving import asked_of, serving, serving_of


def config(spec: str | None = None) -> Any:
    """A model's config, with a spec as --hf-overrides leaves it."""
    return SimpleNamespace() if spec is None else SimpleNamespace(vidcom2=spec)


@pytest.mark.parametrize(
    ("env", "spec", "expected"),
    [
        ({}, None, "none"),
        ({"COMPRESSOR": "random", "R_RATIO": "0.5"}, None, "random@0.5"),
        ({"COMPRESSOR": ""}, "vidcom2@0.25", "vidcom2@0.25"),
        ({"COMPRESSOR": "vidcom2", "R_RATIO": "0.25"}, "vidcom2@0.25", "vidcom2@0.25"),
    ],
)
def test_asked(env, spec, expected):
    assert asked_of(config(spec), env) == compressor(expected)


def test_two_different_ones():
    with pytest.raises(
        ValueError, match=r"asks for random@0\.5, and COMPRESSOR and R_RATIO .* for vidcom2@0\.25: leave"
    ):
        asked_of(config("random@0.5"), {"COMPRESSOR": "vidcom2@0.25"})


@pytest.mark.parametrize("spec", ["vidcom2@0.25", "vidcom2.released@0.25"])
def test_vidcom2_gets_exact_totals(spec):
    found = serving_of(config(spec), "repack", {})
    assert found.compressor == compressor(f"{spec}:rounding=exact")
    x = torch.randn(8, 16, 12, generator=torch.Generator().manual_seed(0))
    assert len(found.keep(x)) == found.total(8, 16) == 8 * 16 / 4
    assert f"asked for: {compressor(spec).spec};" in str(found)


@pytest.mark.parametrize(
    ("spec", "numbering", "message"),
    [
        ("fastv@0.25", "repack", "drops tokens between the layers of the LLM"),
        ("fastvid.released@0.25", "repack", r"choose fastvid without \.released"),
        ("holitom.released@0.25", "repack", r"choose holitom without \.released"),
        ("dycoke.released@0.5", "repack", r"whether it can serve .* choose dycoke without \.released"),
        ("simplecluster.released@0.25", "repack", r"whether it can serve .* choose simplecluster without \.released"),
        ("flashvid-inside@0.5", "repack", "drops tokens between the layers of the LLM"),
        ("norm+fca@0.25:fca.rounding=ceil", "repack", r"leave fca\.rounding out"),
        ("vidcom2@0.25:positions=original", "repack", "positions=repack in vLLM"),
        ("vidcom2@0.25:positions=repack", "original", "positions=original in vLLM"),
    ],
)
def test_refused(spec, numbering, message):
    with pytest.raises(ValueError, match=message):
        serving(compressor(spec), numbering)


def test_the_page_names_every_method_on_the_right_line():
    page = Path(__file__).parents[2].joinpath("docs", "serving.md").read_text(encoding="utf-8")
    lines = page.split("| method | in vLLM |")[1].split("\n\n")[0].splitlines()[2:]
    said = {
        name: answer.strip().startswith("yes")
        for _, names, answer, _ in (line.split("|") for line in lines)
        for name in re.findall("`([^`]+)`", names)
    }
    served = {}
    for name, method in METHODS.items():
        for form in (name, *(f"{name}.{preset}" for preset in method.presets)):
            if method.drops and (form == name or method.stage == "before LLM"):
                with_ratio = compressor(f"{form}@0.5")
                try:
                    served[form] = bool(serving(with_ratio, "repack"))
                except ValueError:
                    served[form] = False
    assert {name: answer for name, answer in said.items() if name in served} == served


def test_dense_says_so():
    found = serving(Dense(), "repack")
    assert found.total(3, 4) == 12
    assert "compresses nothing" in str(found)


class Ours:
    """A model that compresses."""

    compresses_videos = supports_multimodal = True


class Others:
    """A model of vLLM with videos."""

    supports_multimodal = True


class Text:
    """An LLM."""


def model_config(spec: str | None, multimodal: bool = True, runner: str = "generate") -> Any:
    """What vLLM knows of a model."""
    return SimpleNamespace(
        hf_config=config(spec), multimodal_config=object() if multimodal else None, runner_type=runner
    )


@pytest.mark.parametrize(
    ("found", "settings"),
    [
        (Ours, model_config("vidcom2@0.25")),
        (Others, model_config(None)),
        (Others, model_config("none")),
        (Text, model_config("vidcom2@0.25")),  # inside a multimodal model
        (Text, model_config("vidcom2@0.25", multimodal=False, runner="draft")),
    ],
)
def test_models_that_may_answer(found, settings, monkeypatch):
    monkeypatch.delenv("COMPRESSOR", raising=False)
    monkeypatch.delenv("R_RATIO", raising=False)
    check(found, "SomeModel", settings)


@pytest.mark.parametrize(("found", "multimodal"), [(Others, True), (Text, False)])
def test_models_that_would_answer_about_whole_videos(found, multimodal, monkeypatch):
    monkeypatch.delenv("R_RATIO", raising=False)
    monkeypatch.setenv("COMPRESSOR", "vidcom2@0.25")
    registry: Any = SimpleNamespace(resolve_model_cls=lambda architectures, settings: (found, architectures[0]))
    refuse_others(registry)
    once = registry.resolve_model_cls
    refuse_others(registry)
    assert registry.resolve_model_cls is once
    with pytest.raises(ValueError, match=r"vidcom2@0\.25 is asked for, and vidcom2 has no SomeModel for vLLM"):
        registry.resolve_model_cls(["SomeModel"], model_config(None, multimodal))
