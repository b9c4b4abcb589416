"""Runs that go on: with the answers that are theirs, and no others; as the same run, and as no other."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from eval.cli import main
from eval.models.llava import LlavaEngine
from eval.run import identity
from eval.run.flags import FAILED_QUESTIONS
from eval.run.identity import differences
from eval.run.store import Answers
from tests.eval.run.test_main_job import lines_of
from tests.fixtures.mvbench import make_mvbench

TASK = "mvbench_action_count"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Six questions."""
    return make_mvbench(tmp_path_factory.mktemp("six"), tasks=["action_count"], per_task=6)


@pytest.fixture
def data(whole, tmp_path) -> Path:
    """The same, to be changed."""
    return shutil.copytree(whole, tmp_path / "data")


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """The questions that the model gets."""
    texts: list[str] = []
    original = LlavaEngine.answer_all

    def spy(self: Any, asked: Any, *args: Any) -> Any:
        texts.extend(text for _, text in asked)
        return original(self, asked, *args)

    monkeypatch.setattr(LlavaEngine, "answer_all", spy)
    return texts


def evaluate(model: Path, data: Path, output: Path, *more: str) -> int:
    flags = ["--device", "cpu", "--tasks", TASK, "--model", str(model), "--data", str(data), "--output", str(output)]
    return main(["run", *flags, "--sampling", "uniform:4", *more])


def interrupted_after(count: int, model: Path, data: Path, output: Path) -> None:
    left = iter(range(count))
    add = Answers.add

    def killed(self: Any, sample: Any) -> None:
        add(self, sample)
        if next(left) == count - 1:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Answers, "add", killed)
        assert evaluate(model, data, output) == 130
    assert not (output / "results.json").exists()


def edit(data: Path, change: Any) -> None:
    file = data / "json" / "action_count.json"
    docs = json.loads(file.read_text())
    file.write_text(json.dumps(change(docs)))


def told(output: Path) -> list[dict]:
    """All but time."""
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines_of(output)]


def changed(docs: list[dict]) -> list[dict]:
    """Without 0; 2 before 1; 3 and 4 asked in another way."""
    other = {**docs[3], "question": f"Look closely. {docs[3]['question']}"}
    wrong = next(option for option in docs[4]["candidates"] if option != docs[4]["answer"])
    return [docs[2], docs[1], other, {**docs[4], "answer": wrong}, docs[5]]


def test_answers_go_with_what_was_asked_and_not_with_its_number(onevision, data, tmp_path, asked, capfd):
    interrupted_after(5, onevision, data, tmp_path / "out")
    asked.clear()
    edit(data, changed)
    assert evaluate(onevision, data, tmp_path / "out") == 0
    assert len(asked) == 3
    assert "Look closely." in asked[0]
    error = " ".join(capfd.readouterr().err.split())
    assert f"these answers are not used: {TASK} 0, 3, 4" in error
    assert "although questions was" in error
    assert evaluate(onevision, data, tmp_path / "fresh") == 0
    assert told(tmp_path / "out") == told(tmp_path / "fresh")
    assert len(told(tmp_path / "out")) == 5


def test_a_video_that_was_replaced_is_seen_again(onevision, data, tmp_path, asked, capfd):
    interrupted_after(3, onevision, data, tmp_path / "out")
    asked.clear()
    videos = sorted((data / "video").rglob("*.mp4"))
    shutil.copy(videos[5], videos[1])
    assert evaluate(onevision, data, tmp_path / "out") == 0
    assert len(asked) == 4
    assert f"not used: {TASK} 1" in " ".join(capfd.readouterr().err.split())
    assert evaluate(onevision, data, tmp_path / "fresh") == 0
    assert told(tmp_path / "out") == told(tmp_path / "fresh")


def test_failed_questions_are_asked_again_under_their_new_numbers(onevision, data, tmp_path, asked):
    broken = sorted((data / "video").rglob("*.mp4"))[5]
    content = broken.read_bytes()
    broken.write_bytes(b"")
    assert evaluate(onevision, data, tmp_path / "out") == FAILED_QUESTIONS
    broken.write_bytes(content)
    edit(data, changed)
    asked.clear()
    assert evaluate(onevision, data, tmp_path / "out", "--retry-failed") == 0
    assert len(asked) == 3
    assert evaluate(onevision, data, tmp_path / "fresh") == 0
    assert told(tmp_path / "out") == told(tmp_path / "fresh")


def test_other_weights_in_the_same_place_are_another_run(onevision, data, tmp_path, asked, capfd):
    model = shutil.copytree(onevision, tmp_path / "llava-qwen")
    interrupted_after(2, model, data, tmp_path / "out")
    file = next(model.glob("*.safetensors"))
    weights = load_file(file)
    save_file({name: torch.flip(one, [0]).contiguous() for name, one in weights.items()}, file, {"format": "pt"})
    asked.clear()
    assert evaluate(model, data, tmp_path / "out") == 1
    assert "holds a run of other settings (weights was '" in capfd.readouterr().err
    assert not asked
    save_file(weights, file, {"format": "pt"})
    os.utime(file, (1, 1))
    assert evaluate(model, data, tmp_path / "out") == 0
    assert len(asked) == 4


def test_what_changes_no_answer_is_a_note(onevision, data, tmp_path, asked, monkeypatch, capfd):
    model = shutil.copytree(onevision, tmp_path / "llava-qwen")
    interrupted_after(2, model, data, tmp_path / "out")
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert settings["code"]["version"]
    settings["code"]["commit"] = "another"
    settings["versions"]["torchcodec"] = "0.0.1"
    (tmp_path / "out" / "settings.json").write_text(json.dumps(settings))
    monkeypatch.chdir(tmp_path)
    asked.clear()
    assert evaluate(Path("llava-qwen"), Path("data"), tmp_path / "out") == 0
    assert len(asked) == 4
    error = capfd.readouterr().err
    for name in ("model", "data", "code.commit", "versions.torchcodec"):
        assert error.count(f"note: {tmp_path / 'out'} goes with this run, although {name} was ") == 1
    assert evaluate(model, data, tmp_path / "fresh") == 0
    assert [{**line, "video": ""} for line in told(tmp_path / "out")] == [
        {**line, "video": ""} for line in told(tmp_path / "fresh")
    ]


@pytest.mark.parametrize(("part", "key"), [("versions", "torch"), ("code", "version"), ("code", "sources")])
def test_what_can_change_answers_is_another_run(part, key, onevision, data, tmp_path, capfd):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "answers.jsonl").write_text("{")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eval.run.setup.InProcess.answer", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert evaluate(onevision, data, tmp_path / "out") == 130
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    settings[part][key] = "0.0.1"
    (tmp_path / "out" / "settings.json").write_text(json.dumps(settings))
    (tmp_path / "out" / "answers.jsonl").write_text("{")
    assert evaluate(onevision, data, tmp_path / "out") == 1
    assert f"{part}.{key} was '0.0.1'" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("package", "where", "other"),
    [
        ("decord", {"decoder": "decord"}, {"decoder": "exact"}),
        ("flash-attn", {"attention": "flash_attention_2"}, {"attention": "sdpa"}),
        ("qwen-vl-utils", {"protocol": "qwen2_vl"}, {"protocol": "llava_vid"}),
        ("deepspeed", {"engine": "deepspeed"}, {"engine": "torch"}),
    ],
)
def test_a_package_counts_where_it_is_used(package, where, other):
    for setting, used in ((where, True), (other, False)):
        telling, noted = differences({**setting, "versions": {package: "1"}}, {**setting, "versions": {package: None}})
        assert (len(telling), len(noted)) == (int(used), int(not used))


def test_other_questions_count_where_nobody_compares_them():
    before, now = {"questions": "a"}, {"questions": "b"}
    assert differences(before, now) == ([], ["questions was 'a', is 'b'"])
    assert differences(before, now, finished=True) == (["questions was 'a', is 'b'"], [])


def test_pages_of_large_weights_count(tmp_path, monkeypatch):
    monkeypatch.setattr(identity, "WHOLE", 1 << 20)
    file = tmp_path / "model.safetensors"
    content = bytearray(5 * (1 << 20) + 17)
    digests = set()
    for at in (None, 0, 3 * (1 << 20) + 5, len(content) - 1):
        if at is not None:
            content[at] = 1
        file.write_bytes(content)
        os.utime(file, (len(digests), len(digests)))
        digests.add(identity.weights(str(tmp_path)))
    assert len(digests) == 4
    (tmp_path / "README.md").touch()
    assert identity.weights(str(tmp_path)) in digests


def test_the_hub_says_the_commit(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--owner--name"
    for commit in ("0" * 40, "1" * 40):
        (repository / "snapshots" / commit).mkdir(parents=True)
        (repository / "snapshots" / commit / "config.json").write_text("{}", encoding="utf-8")
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / "main").write_text(commit, encoding="utf-8")
        assert identity.weights("owner/name") == commit
    with pytest.raises(ValueError, match=r"--model owner/other: its config\.json is not in the hub's cache"):
        identity.weights("owner/other")


@pytest.fixture(scope="module")
def finished(onevision, whole, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("finished")
    assert evaluate(onevision, whole, output) == 0
    return output


def test_killed_after_the_results_were_written(onevision, whole, finished, tmp_path, monkeypatch, capfd):
    output = shutil.copytree(finished, tmp_path / "out")
    (output / "answers.rank0.jsonl").write_text("left behind\n")
    results = (output / "results.json").read_bytes()
    monkeypatch.setattr("eval.run.setup.WorkerSetup.load_worker", None)  # nothing is loaded
    assert evaluate(onevision, whole, output) == 0
    printed = capfd.readouterr()
    assert f"{output} is finished already; --overwrite begins anew" in printed.err
    assert "overall" in printed.out
    assert not list(output.glob("answers*"))
    assert (output / "results.json").read_bytes() == results


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--limit", "2"), "was made with no --limit, and now there is --limit 2"),
        (("--retention", "0.5"), "compressor was 'vidcom2@0.25', is 'vidcom2@0.5'"),
        (("--dtype", "bfloat16"), "dtype was 'float32', is 'bfloat16'"),
    ],
)
def test_finished_results_of_another_run(more, message, onevision, whole, finished, capfd):
    assert evaluate(onevision, whole, finished, *more) == 1
    assert message in capfd.readouterr().err


def test_finished_results_over_questions_that_have_changed(onevision, data, finished, capfd):
    assert evaluate(onevision, data, finished) == 0  # a copy elsewhere
    edit(data, changed)
    assert evaluate(onevision, data, finished) == 1
    assert "(questions was '" in capfd.readouterr().err
