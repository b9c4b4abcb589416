"""What README and docs/ print must be so: Python runs as printed, commands have their flags, numbers are measured."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import transformers
import yaml
from packaging.version import Version

from eval.cli import main
from eval.results.provenance import provenance
from tests.eval.qwen_tiny import make_qwen
from tests.eval.reports.test_compare import lines, write
from tests.fixtures.checkpoint import make_checkpoint
from tests.fixtures.mvbench import make_mvbench
from tests.numbered import Encoding
from tests.vidcom2.omni_tiny import make_omni, released_model
from vidcom2 import METHODS, VidCom2, __version__, compressor
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
    "web": "web",
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


def test_the_families_are_counted():
    """In the README and the FAQ, as the table of docs/transformers.md has them, a line each."""
    lines_of = table((ROOT / "docs/transformers.md").read_text(encoding="utf-8")).values()
    families = [cells for cells in lines_of if cells and cells[0].startswith("`")]
    assert len(families) == 15
    for page in ("README.md", "docs/faq.md"):
        assert "fifteen families" in (ROOT / page).read_text(encoding="utf-8"), page


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


def test_ask_page(run, video, tmp_path, capsys):
    checkpoint = make_checkpoint(tmp_path, "onevision")
    made = run("docs/ask.md", {"lmms-lab/llava-onevision-qwen2-7b-ov": checkpoint, "video.mp4": video})
    *answer, line = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"513 -> \d+, \d+\.\d\d s, \d+\.\d\d s", line)
    questions = ("What happens in this video?", "And at the end?")
    assert [question for question, _ in made["history"]] == [*questions]
    assert "".join(answer).endswith(made["history"][1][1])
    assert made["reply"].answer.prompt.count("<image>") == 1


def test_adding_a_method(run):
    made = run("docs/adding-a-method.md", features=torch.randn(4, 10, 6))
    assert isinstance(compressor("change@0.25"), made["Change"])  # tests/vidcom2/test_baselines.py has what it keeps


def test_for_speed(run, video, tmp_path, capsys):
    """Its clock, on a model and inputs of transformers."""
    made = qwen(run, make_qwen(tmp_path / "model", "qwen2_vl"), video, first=1)
    tokens_before, tokens_after, _ = read_output(capsys.readouterr().out)
    run("docs/for-speed.md", model=made["model"], inputs=made["inputs"])
    told = rf"{tokens_before} -> {tokens_after} visual tokens, \d+\.\d\d s -> \d+\.\d\d s\n"
    assert re.fullmatch(told, capsys.readouterr().out)


def test_for_speed_quotes_measured_numbers():
    """Every number of its table is on the page that the row names."""
    rows = table((ROOT / "docs/for-speed.md").read_text(encoding="utf-8"))
    quoted = {name: cells for name, cells in rows.items() if cells and re.fullmatch(r"\[\w+\]\(\w+\.md\)", cells[-1])}
    assert len(quoted) == 6
    for name, (*cells, link) in quoted.items():
        page = (ROOT / "docs" / re.search(r"\((.+)\)", link)[1]).read_text(encoding="utf-8")
        printed = [re.split(r"[\s|]+", line) for line in page.splitlines() if line[:1] == "|"]
        dense, compressed, *change = [cell.removesuffix(" %").removesuffix(" x") for cell in cells if cell]
        assert any(dense in line for line in printed), name
        assert any({compressed, *change} <= {*line} for line in printed), name


def test_for_reproducers(run, tmp_path, capsys):
    page = "docs/for-reproducers.md"
    text = (ROOT / page).read_text(encoding="utf-8")
    asked = lines({"mvbench_action_count": [1, 1, 0, 1]})
    (tmp_path / "run").mkdir()
    done = write(tmp_path / "run" / "vidcom2", asked) / "results.json"
    told = json.loads(done.read_text(encoding="utf-8")) | {"provenance": asdict(provenance())}
    done.write_text(json.dumps(told), encoding="utf-8")
    run(page, {"outputs/mvbench/M/vidcom2@0.25/results.json": done})
    *counted, scored, tokens, origin = capsys.readouterr().out.splitlines()
    assert "\n".join(counted) == re.search(r"```text\n(.*?)\n```", text, flags=re.DOTALL)[1]
    assert scored == "mvbench: 75.0 % of 4 questions"
    assert tokens == "vidcom2@0.25: 400 -> 100 visual tokens"
    assert re.fullmatch(r"commit \w+(-dirty)?, lmms-eval [\d.]+, 0 failures", origin)


def test_for_extenders(run, capsys):
    """Its method, and the entry point that it prints names the module that it prints."""
    made = run("docs/for-extenders.md")
    assert capsys.readouterr().out == "72 tokens, [9, 9, 9, 9, 9, 9, 9, 9]\n"
    assert isinstance(compressor("unusual+fca@0.1"), made["Unusual"])
    text = (ROOT / "docs/for-extenders.md").read_text(encoding="utf-8")
    method, module = re.search(r'entry-points."vidcom2.methods"\]\n(\w+) = "(\w+)"', text).groups()
    assert METHODS[method] is made["Unusual"]
    assert f'py-modules = ["{module}"]' in text
    assert f"`{module}.py`" in text


QUESTION = re.compile(
    r"^### ([^\n]+)\n\n(.+?)\n<br>\*Asked in\*\s(.+?)\.\s\*See\*\s(.+?)\.\n(?:\n|\Z)", re.MULTILINE | re.DOTALL
)
"""A question, its answer, who asked it, and what holds it."""


def test_the_questions_have_reports_and_something_that_holds():
    text = (ROOT / "docs/faq.md").read_text(encoding="utf-8")
    found = QUESTION.findall(text)
    assert len(found) == text.count("\n### ") > 20
    for question, answer, asked, held in found:
        assert question.endswith("?"), question
        assert len(answer.split()) < 100, question
        links = re.findall(r"\[([^\]]+)\]\((.+?)\)", asked)
        for shown, link in links:
            number = re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+/(?:issues|pull)/(\d+)", link)[1]
            assert shown.split()[-1] == number, (question, link)
        assert links, question
        assert re.search(r"\]\([\w-]+\.md|`tests/", held), question


def test_how_to_cite_agrees_with_the_citation_file():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    text = (ROOT / "docs/citing.md").read_text(encoding="utf-8")
    paper = cited["preferred-citation"]
    names = " and ".join(f"{author['family-names']}, {author['given-names']}" for author in paper["authors"])
    for said in (paper["title"], names, paper["url"], cited["title"], cited["authors"][0]["name"]):
        assert f"{{{said}}}" in text, said
    assert f"version = {{{cited['version']}}}" in text
    assert cited["version"] == __version__


def test_every_page_with_python_is_run():
    assert {page.relative_to(ROOT).as_posix() for page in PAGES if blocks(page)} == {
        "README.md",
        "docs/adding-a-method.md",
        "docs/ask.md",
        "docs/python.md",
        "docs/serving.md",  # tests/vllm/test_server.py runs it
        "docs/transformers.md",
        *("docs/for-extenders.md", "docs/for-reproducers.md", "docs/for-speed.md"),
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


PATH = re.compile(r"`((?:eval|llava|vidcom2|scripts|tests|docs|findings|notebooks)/[\w./-]*)`")
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
