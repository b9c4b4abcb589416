"""What the README shows must run."""

from __future__ import annotations

import re
from pathlib import Path

from eval.demo.benchmark import make_mvbench
from eval.demo.checkpoint import make_checkpoint

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()


def test_python_example(tmp_path, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    checkpoint = make_checkpoint(tmp_path, "onevision")
    video = next(make_mvbench(tmp_path / "data", tasks=["action_count"], per_task=1).rglob("*.mp4"))
    for shown, ours in (("lmms-lab/llava-onevision-qwen2-7b-ov", checkpoint), ("video.mp4", video)):
        assert code.count(shown) == 1
        code = code.replace(shown, str(ours))
    exec(compile(code, "README.md", "exec"), {})
    before, after = map(int, re.search(r"(\d+) -> (\d+)\n$", capsys.readouterr().out).groups())
    assert before == 32 * 16 + 1
    assert after < before / 2


def test_scripts_named_in_the_readme_exist():
    named = set(re.findall(r"scripts/\w+\.sh", README))
    assert named >= {"scripts/eval_mvbench.sh", "scripts/test.sh"}
    assert all((Path(__file__).resolve().parents[1] / script).is_file() for script in named)
