"""Each benchmark of `copies`, from its local copy to results, against lmms-eval's own scoring of the same answers."""

from __future__ import annotations

import importlib
import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from eval.benchmarks import BENCHMARKS, select_tasks
from eval.benchmarks.declared import declaration, leaves
from eval.cli import main
from eval.demo.minibench import WRITERS
from eval.run.lmms import load_tasks
from eval.run.questions import NoQuestions, require_scorable
from tests.eval.benchmarks.copies import COPIES, TVBENCH_OF, Asked, source

TASKS = {"tvbench": tuple(f"tvbench_{task}" for task in TVBENCH_OF)}
"""The tasks of a copy that has not all of its benchmark's."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Asked]]:
    folder = tmp_path_factory.mktemp("source")
    return folder, source(folder)


@pytest.fixture(scope="module")
def copies(root: tuple[Path, list[Asked]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    written = {}
    for name, write in COPIES.items():
        written[name] = tmp_path_factory.mktemp(name)
        write(*root, written[name])
    return written


def loaded(name: str, data: Path) -> dict[str, Any]:
    return load_tasks(BENCHMARKS[name], TASKS.get(name, BENCHMARKS[name].tasks), data, "llava_onevision")


FUNCTIONS = {
    "mlvu_test": "mlvu_process_results mlvu_aggregate_results_test",
    "videomme_w_subtitle": "videomme_process_results videomme_aggregate_results",
    "videomme_v2": "videomme_v2_process_results videomme_v2_aggregate_overall_score",
    "videomme_v2_w_subtitle": "videomme_v2_process_results videomme_v2_aggregate_overall_score",
    "longvideobench_val_i": "longvideobench_process_results longvideobench_aggregate_results",
    "lvbench": "lvbench_process_results -",
    "tempcompass_multi_choice": "tempcompass_process_results_multi_choice tempcompass_aggregate_rating",
    "tempcompass_yes_no": "tempcompass_process_results_yes_no tempcompass_aggregate_rating",
    "tempcompass_caption_matching": "tempcompass_process_results_caption_matching tempcompass_aggregate_rating",
    "motionbench_full": "motionbench_process_results motionbench_aggregate_acc",
    "tvbench_action_sequence": "tvbench_process_results -",
    "tvbench_scene_transition": "tvbench_process_results -",
    "tomato": "tomato_process_results tomato_aggregate_results",
    **dict.fromkeys(
        ("video_mmmu_perception", "video_mmmu_comprehension", "video_mmmu_adaptation"),
        "videommmu_process_results videommmu_aggregate_results",
    ),
}
"""lmms-eval's functions by task: one scores an answer, the other averages. -: the mean."""


def lmms_evals_score(task: str, docs: list[dict[str, Any]], answers: list[str]) -> float:
    """Score answers by lmms-eval's modules as they are, without its task objects."""
    theirs = importlib.import_module(f"lmms_eval.tasks.{leaves(task)[task].parent.name}.utils")
    process, aggregate = FUNCTIONS[task].split()
    metric = declaration(leaves(task)[task])["metric_list"][0]["metric"]
    scored = [getattr(theirs, process)(doc, [answer])[metric] for doc, answer in zip(docs, answers, strict=True)]
    if aggregate == "-":
        return sum(map(float, scored)) / len(scored)
    average = getattr(theirs, aggregate)
    return average(scored, None) if len(inspect.signature(average).parameters) == 2 else average(scored)


@pytest.mark.parametrize("name", COPIES)
def test_a_run_scores_as_lmms_eval_does(name, copies, onevision, tmp_path, monkeypatch):
    names = TASKS.get(name, BENCHMARKS[name].tasks)
    asked = name if names == BENCHMARKS[name].tasks else ",".join(names)
    flags = ("--tasks", asked, "--model", onevision, "--data", copies[name], "--sampling", "uniform:4")
    more = ("--device", "cpu", "--compressor", "vidcom2@0.5", "--output", tmp_path)
    assert main(["run", *map(str, (*flags, *more))]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert results["failures"] == []
    assert sorted({line["task"] for line in lines}) == sorted(names)
    if name == "tempcompass":  # as without a judge, but without waiting for one
        monkeypatch.setattr("lmms_eval.tasks.tempcompass.utils.get_eval_result", lambda prompt, **_: (None, 0))
    right = []
    for task, loaded_task in loaded(name, copies[name]).items():
        docs, own = list(loaded_task.eval_docs), [line for line in lines if line["task"] == task]
        expected = lmms_evals_score(task, docs, [line["answer"] for line in own])
        assert results["harness_scores"][task] == pytest.approx(expected)
        assert len(own) == len(docs)
        for line, doc in zip(own, docs, strict=True):
            assert loaded_task.doc_to_text(doc).strip().splitlines()[0] in line["prompt"]
            assert Path(line["video"]).is_file()
            if line["parsed"] is not None and name != "tempcompass":
                assert line["score"] == (line["parsed"] == line["target"])
        right += [line["score"] for line in own]
        scale = 1 if expected > 1 else 100
        if not task.startswith("videomme_v2"):  # whose own score is of groups
            assert 100 * sum(line["score"] for line in own) / len(own) == pytest.approx(scale * expected, abs=5.1e-4)
    assert results["scores"]["micro"] == pytest.approx(100 * sum(right) / len(right))
    assert 0 < sum(right) < len(right)


@pytest.mark.parametrize("name", COPIES)
def test_nothing_is_said_of_good_questions(name, copies):
    assert require_scorable(BENCHMARKS[name], loaded(name, copies[name]), copies[name]) == []


@pytest.mark.parametrize("name", COPIES)
def test_right_answers_score_and_are_read(name, copies):
    """Every option as an answer: one is right, and it is the target."""
    benchmark = BENCHMARKS[name]
    for task_name, task in loaded(name, copies[name]).items():
        for doc in task.eval_docs:
            options = ("yes", "no") if task_name.endswith("yes_no") else "ABC"
            logged = [
                {"doc": doc, "filtered_resps": [one], **task.config.process_results(doc, [one])} for one in options
            ]
            assert [benchmark.score(one) for one in logged].count(1.0) == 1
            (best,) = (one for one in logged if benchmark.score(one) == 1)
            assert benchmark.target(best) == benchmark.parsed(best) == best["filtered_resps"][0]
            nothing = "unreadable_video" if name != "motionbench" else "no"  # whose parser takes any letter it finds
            scored = task.config.process_results(doc, [nothing])
            assert benchmark.parsed({"doc": doc, "filtered_resps": [nothing], **scored}) is None


# ---- what is special in each


def test_mlvu_test_and_dev_are_told_apart(copies):
    assert select_tasks("mlvu_test") == (BENCHMARKS["mlvu_test"], ("mlvu_test",))
    assert select_tasks("mlvu")[1] == ("mlvu_dev",)
    (task,) = loaded("mlvu_test", copies["mlvu_test"]).values()
    doc = task.eval_docs[0]
    assert task.doc_to_text(doc) == doc["question"]  # lmms-eval adds nothing to a question of the test set


def test_mlvu_test_of_six_options(copies, tmp_path, root):
    """lmms-eval's parser reads no E or F, which the doctor and a run say before the first answer."""
    docs = json.loads((copies["mlvu_test"] / "test.json").read_text())
    docs[0]["question"] += "\n(D) one\n(E) two\n(F) three"
    docs[0]["answer"] = "F"
    (tmp_path / "test.json").write_text(json.dumps(docs))
    (doubt,) = require_scorable(BENCHMARKS["mlvu_test"], loaded("mlvu_test", tmp_path), tmp_path)
    assert "question 0: lmms-eval scores its own right answer 'F' as wrong" in str(doubt)


@pytest.mark.parametrize("name", ["videomme_w_subtitle", "videomme_v2_w_subtitle", "longvideobench_val_i"])
def test_subtitles_are_in_the_prompt(name, copies):
    (task,) = loaded(name, copies[name]).values()
    texts = [task.doc_to_text(doc) for doc in task.eval_docs]
    if name == "videomme_v2_w_subtitle":
        assert ["spoken here" in text for text in texts] == [False] * 4 + [True] * 4
        return
    last = [False] if name == "videomme_w_subtitle" else [True]
    assert [f"spoken {number}\n" in text for number, text in enumerate(texts)] == [True] * 8 + last
    assert ("No subtitles available" in texts[8]) == (name == "videomme_w_subtitle")
    assert not any("<image>" in text for text in texts)


def test_longvideobenchs_subtitles_are_those_of_lmms_eval(copies, monkeypatch):
    """The same prompt, but for its pictures."""
    data = copies["longvideobench_val_i"]
    (task,) = loaded("longvideobench_val_i", data).values()
    import lmms_eval.tasks.longvideobench.utils as theirs

    home = data.parent / "lvb_home" / "datasets"
    home.mkdir(parents=True)
    (home / "longvideobench").symlink_to(data)
    monkeypatch.setenv("HF_HOME", str(home.parent))
    for doc in task.eval_docs:
        expected = theirs.longvideobench_doc_to_text(doc, task.lmms_eval_specific_kwargs)
        assert expected.count("<image>\n") == 4
        assert task.doc_to_text(doc) == expected.replace("<image>\n", "")


def test_group_scores_of_videomme_v2(copies):
    """By hand: 100, 9/16 and 4/16 of relevance, and chains of logic in which 2 and 3 stand side by side."""
    (task,) = loaded("videomme_v2", copies["videomme_v2"]).values()
    average = task.aggregation()["videomme_v2_overall_score"]
    docs = list(task.eval_docs)

    def score(*right: bool) -> float:
        answers = [doc["answer"] if ok else "H" for doc, ok in zip(docs, right, strict=True)]
        metric = "videomme_v2_overall_score"
        asked = zip(docs, answers, strict=True)
        return average([task.config.process_results(doc, [answer])[metric] for doc, answer in asked])

    yes, no = True, False
    assert score(*[yes] * 8) == 100
    assert score(yes, yes, no, yes, *[yes] * 4) == pytest.approx((100 * 9 / 16 + 100) / 2)
    assert score(yes, no, no, yes, yes, yes, no, yes) == pytest.approx((100 * 4 / 16 + 100 * 4 / 12) / 2)
    assert score(*[no] * 4, yes, no, yes, no) == pytest.approx(100 * 4 / 12 / 2)
    assert score(*[no] * 4, no, yes, yes, yes) == 0


def test_groups_stay_whole(copies, onevision, tmp_path, capsys):
    flags = ("--tasks", "videomme_v2", "--model", onevision, "--data", copies["videomme_v2"], "--output", tmp_path)
    assert main(["run", *map(str, flags), "--limit", "6", "--device", "cpu"]) != 0
    assert "--limit 6 must be a multiple of 4, because videomme_v2 scores so many" in capsys.readouterr().err


def test_all_scores_of_lmms_eval_are_kept(copies, onevision, tmp_path):
    flags = ("--tasks", "videomme_v2", "--model", onevision, "--data", copies["videomme_v2"], "--sampling", "uniform:2")
    more = ("--device", "cpu", "--compressor", "none", "--output", tmp_path)
    assert main(["run", *map(str, (*flags, *more))]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    own = results["harness_metrics"]["videomme_v2"]
    assert {name.removeprefix("videomme_v2_") for name in own} == {
        f"{part}_{kind}"
        for part in ("overall", "relevance", "logic", "level_1", "level_2", "level_3")
        for kind in ("score", "acc")
    }
    assert own["videomme_v2_overall_acc"] == pytest.approx(results["scores"]["overall"])
    grouped = own["videomme_v2_overall_score"]
    assert grouped == pytest.approx((own["videomme_v2_relevance_score"] + own["videomme_v2_logic_score"]) / 2)
    assert f"lmms-eval's own score of videomme_v2: {grouped:g}" in (tmp_path / "table.md").read_text()


def test_no_judge_is_asked(copies, monkeypatch):
    """An answer that TempCompass's rules do not read is wrong at once."""
    import socket

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    monkeypatch.setattr(socket.socket, "connect", fail)
    for name, task in loaded("tempcompass", copies["tempcompass"]).items():
        doc = task.eval_docs[0]
        scored = task.config.process_results(doc, ["It seems to me that it is the first of them."])
        logged = {"doc": doc, "filtered_resps": ["It seems"], **scored}
        assert BENCHMARKS["tempcompass"].score(logged) == 0
        assert BENCHMARKS["tempcompass"].parsed(logged) is None
        assert BENCHMARKS["tempcompass"].category(name, logged).endswith(f", {doc['dim']}")


def test_numbers_among_tvbenchs_options(copies, tmp_path):
    """lmms-eval 0.7.3 takes the answer "1" of the options 3, 1, 2 for the option of that number, "1" being B."""
    doc = {"video": "a.mp4", "question": "How often?", "candidates": ["3", "1", "2"], "answer": "2"}
    (tmp_path / "json").mkdir()
    (tmp_path / "json/action_count.json").write_text(json.dumps([doc, {**doc, "candidates": ["2", "1", "3"]}]))
    benchmark, tasks = select_tasks("tvbench_action_count")
    (task,) = load_tasks(benchmark, tasks, tmp_path, "llava_onevision").values()
    for doc, letter in zip(task.eval_docs, "CA", strict=True):
        for answer in "ABC":
            logged = {"doc": doc, "filtered_resps": [answer], **task.config.process_results(doc, [answer])}
            assert benchmark.score(logged) == (answer == letter)
            assert benchmark.target(logged) == letter
    doubts = require_scorable(benchmark, {tasks[0]: task}, tmp_path)
    assert [str(doubt).endswith("so its own score differs from the accuracy here") for doubt in doubts] == [True]


def test_open_questions_of_videommmu_are_left_out(copies, tmp_path):
    tasks = loaded("video_mmmu", copies["video_mmmu"])
    assert [len(task.eval_docs) for task in tasks.values()] == [3, 3, 2]
    (tmp_path / "Adaptation").mkdir()
    docs = json.loads((copies["video_mmmu"] / "Adaptation/test.json").read_text())
    (tmp_path / "Adaptation/test.json").write_text(json.dumps([docs[1]]))
    with pytest.raises((NoQuestions, ValueError), match="no question of the question_type multiple-choice"):
        load_tasks(BENCHMARKS["video_mmmu"], ("video_mmmu_adaptation",), tmp_path, "llava_onevision")


def test_motionbench_leaves_out_what_has_no_public_answer(copies):
    (task,) = loaded("motionbench", copies["motionbench"]).values()
    assert len(task.eval_docs) == 9


@pytest.mark.parametrize("name", ["tempcompass", "video_mmmu", "motionbench", "tvbench"])
def test_missing_questions_are_named(name, tmp_path):
    for task in BENCHMARKS[name].tasks:
        with pytest.raises(FileNotFoundError, match=r"is missing: --data must hold"):
            BENCHMARKS[name].local(task, tmp_path)


def test_every_benchmark_has_a_copy():
    assert {*WRITERS, *COPIES} == set(BENCHMARKS)
