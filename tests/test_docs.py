"""What README and docs/ print must be so: Python runs as printed, commands have their flags, numbers are measured."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version

from eval.cli import main
from tests.eval.qwen_tiny import make_qwen
from tests.fixtures.checkpoint import make_checkpoint
from tests.fixtures.mvbench import make_mvbench
from tests.numbered import Encoding
from tests.vidcom2.omni_tiny import make_omni, released_model
from vidcom2 import METHODS, VidCom2, compressor
from vidcom2.models.transformers import LAYOUTS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
ENCODED = "mm_encoder_outputs"
SOUND = "load_audio_from_video"
"""Blocks with one of them are for transformers 5.23 and later, as the page says. Those with SOUND are run apart."""
QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
COMMAND = re.compile(r"(?:(?:^|`)vidcom2|-m (?:vidcom2_)?eval) ((?:bench )?[a-z][a-z-]*)((?: [^\n`#]*)?)", re.MULTILINE)
"""A subcommand that a page prints, and its arguments."""
SCRIPT = re.compile(r"\bbash scripts/(\w+)\.sh((?: [^\n`#]*)?)")
SCRIPTS = {
    "eval_": "run",
    "efficiency": "efficiency",
    "reproduce_table4": "efficiency",
    "reproduce_figure1": "frame-drop",
    "reproduce_": "table",
}
"""How a script's name begins, and the subcommand that takes its arguments."""

Run = Callable[..., dict[str, Any]]


def blocks(page: Path) -> list[str]:
    printed = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    old = Version(transformers.__version__) < Version("5.23")
    return [block for block in printed if not (old and (ENCODED in block or SOUND in block))]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs a page's blocks in a module; whatever they register is forgotten after the test."""
    registries: list[dict[str, Any]] = [METHODS, LAYOUTS]
    before = [dict(registry) for registry in registries]

    def run(
        page: str, stand_ins: dict[str, Path] | None = None, first: int | None = None, sound: bool = False, **given: Any
    ) -> dict[str, Any]:
        """first: so many blocks of the page only. sound: only those with SOUND."""
        module = ModuleType("printed")
        vars(module).update(given)
        monkeypatch.setitem(sys.modules, "printed", module)
        code = [block for block in blocks(ROOT / page) if (SOUND in block) == sound]
        for shown, ours in (stand_ins or {}).items():
            assert any(shown in block for block in code)
            code = [block.replace(f'"{shown}"', f'"{ours}"') for block in code]
        for i, block in enumerate(code[:first]):
            exec(compile(block, f"{page}, block {i + 1}", "exec"), vars(module))
        return vars(module)

    yield run
    for registry, content in zip(registries, before, strict=True):
        registry.clear()
        registry.update(content)


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


def qwen(run: Run, checkpoint: Path, video: Path, first: int | None = None) -> dict[str, Any]:
    """What the page about transformers' models leaves behind, on a small checkpoint."""
    return run("docs/transformers.md", {"Qwen/Qwen2-VL-7B-Instruct": checkpoint, "video.mp4": video}, first)


@pytest.mark.parametrize("kind", QWEN)
def test_readme(run, video, tmp_path, capsys, kind):
    """Its five lines, on a model and inputs of transformers."""
    made = qwen(run, make_qwen(tmp_path / "model", kind), video, first=1)
    tokens_before, tokens_after, _ = read_output(capsys.readouterr().out)
    shown = run("README.md", model=made["model"], inputs=made["inputs"])
    assert capsys.readouterr().out == f"{tokens_before} -> {tokens_after}\n"
    assert tokens_after < tokens_before / 2
    assert shown["tokens"].shape[1] > made["inputs"].input_ids.shape[1]


def table(text: str) -> dict[str, list[str]]:
    """The lines of a text's tables, by their first cell."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {name: cells for name, *cells in lines}


def test_readme_prints_measured_numbers():
    """Its table is a part of the first one of default positions in docs/demo-methods.md, which a command writes."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    page = (ROOT / "docs/demo-methods.md").read_text(encoding="utf-8")
    _, anew, *_ = re.split(r"^##+ .*numbered anew.*$", page, flags=re.MULTILINE)
    measured, shown = table(anew.partition("\n##")[0]), table(readme)
    newer = ("`fresh`, ours", "SimpleCluster", "EVS")
    for method in (*newer, "VidCom²", "DyCoke", "HoliTom", "VisionZip", "FastV", "random tokens", "norm"):
        name = "vidcom2" if method == "VidCom²" else method.split()[0].strip("`,").lower()
        assert shown[method] == [cell.partition(" at ")[0] for cell in measured[name]]
    dense = re.search(r"Dense: (.+) at", page)[1]
    assert f"Dense has {dense}" in readme
    kept = [cell.rpartition(" at ")[2] for cell in measured["vidcom2"]]
    assert f"VidCom² keeps {', '.join(kept[:-1])} and {kept[-1]}" in " ".join(readme.split())


def test_python_page(run, video, tmp_path, capsys):
    checkpoint = make_checkpoint(tmp_path, "onevision")
    made = run("docs/python.md", {"lmms-lab/llava-onevision-qwen2-7b-ov": checkpoint, "video.mp4": video})
    before, after, more = read_output(capsys.readouterr().out)
    assert before == 32 * 16 + 1
    assert after < before / 2
    attached, methods, other = more
    for answer in (attached, other):
        assert re.fullmatch(r"'.*' in \d+\.\d\d s", answer)
    assert methods == str(sorted(METHODS))
    assert made["kept"].apply(made["x"]).shape == (len(made["kept"].index), 64)
    with VidCom2(retention=0.25)(made["model"]) as again:  # what the page attached is off
        made["answer"]()
    assert again.records[0].tokens_after == after


@pytest.mark.parametrize("kind", QWEN)
def test_transformers(run, video, tmp_path, capsys, kind):
    checkpoint = make_qwen(tmp_path / "model", kind)
    made = qwen(run, checkpoint, video)
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
    assert "my_video_llm" in LAYOUTS
    if Version(transformers.__version__) >= Version("5.23"):
        # Encoded once, answered as from pixels.
        assert [line.partition(":")[0] for line in more[1:]] == ["0.25", "0.15"]
        model, inputs = made["model"], made["inputs"]
        with VidCom2(retention=0.15)(model):
            from_pixels = model.generate(**inputs, max_new_tokens=64)
        assert torch.equal(made["new"], from_pixels)


@pytest.mark.skipif(Version(transformers.__version__) < Version("5.23"), reason="the processor has other arguments")
def test_transformers_with_sound(run, tmp_path, capsys):
    checkpoint, video = make_omni(tmp_path / "model"), tmp_path / "sound.mp4"
    Encoding(sound=True)(video)
    made = run("docs/transformers.md", {"Qwen/Qwen2.5-Omni-7B": checkpoint, "video.mp4": video}, sound=True)
    _, tokens = capsys.readouterr().out.splitlines()
    before, after = map(int, re.fullmatch(r"(\d+) -> (\d+)", tokens).groups())
    assert before == made["inputs"]["video_grid_thw"][0].prod() // 4
    assert len(made["video"].frames) == 2 * made["inputs"]["video_grid_thw"][0, 0] == 16
    assert after < before / 2
    assert len(made["sound"]) == pytest.approx(48000, abs=2048)  # AAC adds up to two blocks
    # What the thinker's class loads of the whole model's file is the thinker.
    thinker = released_model().thinker.state_dict()
    assert made["model"].state_dict().keys() == thinker.keys()
    for name, weight in made["model"].state_dict().items():
        assert torch.equal(weight, thinker[name]), name


def test_adding_a_method(run):
    made = run("docs/adding-a-method.md", features=torch.randn(4, 10, 6))
    assert isinstance(compressor("change@0.25"), made["Change"])  # tests/vidcom2/test_baselines.py has what it keeps


def test_every_page_with_python_is_run():
    assert {page.relative_to(ROOT).as_posix() for page in PAGES if blocks(page)} == {
        "README.md",
        "docs/adding-a-method.md",
        "docs/python.md",
        "docs/serving.md",  # tests/vllm/test_server.py runs it
        "docs/transformers.md",
    }


def documented() -> dict[str, set[str]]:
    """The subcommands that the pages print, each with all flags that stand behind it."""
    flags: dict[str, set[str]] = {}
    for page in PAGES:
        text = re.sub(r"\\\n\s*", " ", page.read_text(encoding="utf-8"))
        printed = COMMAND.findall(text)
        for script, arguments in SCRIPT.findall(text):
            printed += [(command, arguments) for start, command in SCRIPTS.items() if script.startswith(start)][:1]
        for command, arguments in printed:
            flags.setdefault(command, set()).update(re.findall(r"(?<= )--[a-z][a-z0-9-]*", arguments))
    return flags


def test_documented_commands_have_their_flags(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")  # no flag is cut
    found = documented()
    every = {"run", "sweep", "compare", "report", "doctor", "see", "analyse", "frame-drop", "table", "bench pipeline"}
    assert every <= set(found)
    for command, flags in found.items():
        with pytest.raises(SystemExit) as end:
            main([*command.split(), "--help"])
        assert end.value.code == 0, command
        known = set(re.findall(r"--[a-z][a-z0-9-]*", capsys.readouterr().out))
        assert flags <= known, (command, flags - known)


PATH = re.compile(r"`((?:eval|llava|vidcom2|scripts|tests|docs|findings)/[\w./-]*)`")
"""A file or folder of this repository that a page names."""


def test_files_named_in_the_pages_exist():
    named = {(page.name, path) for page in PAGES for path in PATH.findall(page.read_text(encoding="utf-8"))}
    assert named
    assert [pair for pair in sorted(named) if not (ROOT / pair[1]).exists()] == []


def test_tests_named_in_the_pages_exist():
    there = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    for page in PAGES:
        assert {*re.findall(r"\btest_\w+\.py", page.read_text(encoding="utf-8"))} <= there, page


def test_scripts_named_in_the_readme_exist():
    named = set(re.findall(r"scripts/\w+\.sh", (ROOT / "README.md").read_text()))
    assert named >= {"scripts/eval_mvbench.sh", "scripts/test.sh"}
    assert all((ROOT / script).is_file() for script in named)
