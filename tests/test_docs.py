"""What the README and docs/ print as Python must run as printed, one block of a page after the other."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version

import vidcom2.models.transformers as layouts
from tests.eval.qwen_tiny import make_qwen
from tests.fixtures.checkpoint import make_checkpoint
from tests.fixtures.mvbench import make_mvbench
from vidcom2 import METHODS, VidCom2, compressor

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
ENCODED = "mm_encoder_outputs"
"""Blocks with it are for transformers 5.23 and later, as the page says."""
QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")

Run = Callable[..., dict[str, Any]]


def blocks(page: Path) -> list[str]:
    printed = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    old = Version(transformers.__version__) < Version("5.23")
    return [block for block in printed if not (old and ENCODED in block)]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a page's blocks in a module; whatever they register is forgotten after the test."""
    monkeypatch.setattr(layouts, "LAYOUTS", dict(layouts.LAYOUTS))
    monkeypatch.setattr(import_module("vidcom2.specs"), "METHODS", dict(METHODS))

    def run(page: str, stand_ins: dict[str, Path] | None = None, **given: Any) -> dict[str, Any]:
        module = ModuleType("printed")
        vars(module).update(given)
        monkeypatch.setitem(sys.modules, "printed", module)
        code = blocks(ROOT / page)
        for shown, ours in (stand_ins or {}).items():
            assert any(shown in block for block in code)
            code = [block.replace(f'"{shown}"', f'"{ours}"') for block in code]
        for i, block in enumerate(code):
            exec(compile(block, f"{page}, block {i + 1}", "exec"), vars(module))
        return vars(module)

    return run


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return next(make_mvbench(tmp_path / "data", tasks=["action_count"], per_task=1).rglob("*.mp4"))


def read_output(printed: str) -> tuple[int, int, list[str]]:
    """The tokens before and after that an example prints below its two answers, and the lines that follow."""
    dense, compressed, tokens, *more = printed.splitlines()
    for answer in (dense, compressed):
        assert re.fullmatch(r"'.*' in \d+\.\d\d s", answer)
    before, after = map(int, re.fullmatch(r"(\d+) -> (\d+)", tokens).groups())
    return before, after, more


def test_readme(run, video, tmp_path, capsys):
    checkpoint = make_checkpoint(tmp_path, "onevision")
    run("README.md", {"lmms-lab/llava-onevision-qwen2-7b-ov": checkpoint, "video.mp4": video})
    before, after, more = read_output(capsys.readouterr().out)
    assert before == 32 * 16 + 1
    assert after < before / 2
    assert not more


@pytest.mark.parametrize("kind", QWEN)
def test_transformers(run, video, tmp_path, capsys, kind):
    checkpoint = make_qwen(tmp_path / "model", kind)
    made = run("docs/transformers.md", {"Qwen/Qwen2-VL-7B-Instruct": checkpoint, "video.mp4": video})
    before, after, more = read_output(capsys.readouterr().out)
    assert len(made["video"].frames) == 16
    # Sixteen pictures, two to a frame; without the metadata Qwen3-VL's processor keeps four.
    assert before == 8 * (2 * 2 if kind == "qwen3_vl" else 2 * 3)
    assert after < before / 2
    assert re.fullmatch(r"'.*' in \d+\.\d\d s", more[0])  # by qwen_vl_utils
    assert made["inputs"]["video_grid_thw"][0, 0] == 8
    if kind == "qwen3_vl":
        stamps = re.findall(r"<([\d.]+) seconds>", made["processor"].decode(made["inputs"].input_ids[0]))
        assert float(stamps[-1]) == pytest.approx(made["video"].duration, abs=0.2)
    assert "my_video_llm" in layouts.LAYOUTS
    if Version(transformers.__version__) >= Version("5.23"):
        # Encoded once, answered as from pixels.
        assert [line.partition(":")[0] for line in more[1:]] == ["0.25", "0.15"]
        model, inputs = made["model"], made["inputs"]
        with VidCom2(retention=0.15)(model):
            from_pixels = model.generate(**inputs, max_new_tokens=64)
        assert torch.equal(made["new"], from_pixels)


def test_adding_a_method(run):
    made = run("docs/adding-a-method.md", features=torch.randn(4, 10, 6))
    assert isinstance(compressor("change@0.25"), made["Change"])  # tests/vidcom2/test_baselines.py has what it keeps


def test_every_page_with_python_is_run():
    assert {page.relative_to(ROOT).as_posix() for page in PAGES if blocks(page)} == {
        "README.md",
        "docs/adding-a-method.md",
        "docs/transformers.md",
    }


def test_scripts_named_in_the_readme_exist():
    named = set(re.findall(r"scripts/\w+\.sh", (ROOT / "README.md").read_text()))
    assert named >= {"scripts/eval_mvbench.sh", "scripts/test.sh"}
    assert all((ROOT / script).is_file() for script in named)
