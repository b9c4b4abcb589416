"""What the README and docs/ show must run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import vidcom2.models.transformers as layouts
from eval.demo.benchmark import make_mvbench
from eval.demo.checkpoint import make_checkpoint
from tests.eval.qwen_tiny import make_qwen

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
TRANSFORMERS = (ROOT / "docs" / "transformers.md").read_text()


def run_example(code: str, replacements: dict[str, Path], printed: Any) -> tuple[int, int]:
    """Run it on our files; returns the tokens before and after that it prints."""
    for shown, ours in replacements.items():
        assert code.count(shown) == 1
        code = code.replace(shown, str(ours))
    exec(compile(code, "example", "exec"), {})
    dense, compressed, tokens = printed.readouterr().out.splitlines()
    assert re.fullmatch(r".* in \d+\.\d\d s", dense)
    assert re.fullmatch(r".* in \d+\.\d\d s", compressed)
    before, after = map(int, re.fullmatch(r"(\d+) -> (\d+)", tokens).groups())
    return before, after


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return next(make_mvbench(tmp_path / "data", tasks=["action_count"], per_task=1).rglob("*.mp4"))


def test_readme_example(video, tmp_path, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    checkpoint = make_checkpoint(tmp_path, "onevision")
    before, after = run_example(code, {"lmms-lab/llava-onevision-qwen2-7b-ov": checkpoint, "video.mp4": video}, capsys)
    assert before == 32 * 16 + 1
    assert after < before / 2


def test_transformers_examples(video, tmp_path, capsys, monkeypatch):
    example, reuse, own = re.findall(r"```python\n(.*?)```", TRANSFORMERS, flags=re.DOTALL)
    checkpoint = make_qwen(tmp_path / "qwen", "qwen2_vl")
    before, after = run_example(example, {"Qwen/Qwen2-VL-7B-Instruct": checkpoint, "video.mp4": video}, capsys)
    assert before % 8 == 0  # sixteen pictures, two to a frame
    assert after < before / 2
    monkeypatch.setattr(layouts, "LAYOUTS", dict(layouts.LAYOUTS))
    exec(compile(own, "own layout", "exec"), {})
    assert "my_video_llm" in layouts.LAYOUTS
    assert "model.model.get_video_features" in reuse  # tested in tests/vidcom2/test_transformers.py


def test_scripts_named_in_the_readme_exist():
    named = set(re.findall(r"scripts/\w+\.sh", README))
    assert named >= {"scripts/eval_mvbench.sh", "scripts/test.sh"}
    assert all((ROOT / script).is_file() for script in named)
