from __future__ import annotations

import json
from dataclasses import replace

import pytest
from rich.console import Console

from eval.benchmarks import BENCHMARKS, select_tasks
from eval.benchmarks.mvbench import MVBENCH
from eval.results.records import record
from eval.results.sample import NO_ANSWER, STAGES, Sample
from eval.results.schema import CategoryScore, Failure, RunSettings, ScoredSample, Seconds, Summary
from eval.results.summary import join_samples, markdown, print_summary, summarise, write_results


def sample(task: str, doc_id: int, answer: str, error: str | None = None, after: int = 25) -> Sample:
    seconds = {} if error else dict.fromkeys(STAGES, 0.5)
    tokens = (0, 0) if error else (100, after)
    return Sample(task, doc_id, f"{doc_id}.mp4", "prompt", answer, error, 4, 2.0, *tokens, seconds)


def scored(doc_id: int, answer: str, target: str) -> dict:
    """What lmms-eval logs, by its own scorer."""
    doc = {"candidates": ["a", "b", "c", "d"], "answer": "abcd"["ABCD".index(target)]}
    return {"doc_id": doc_id, **MVBENCH.harness_utils().mvbench_process_results(doc, [answer])}


TOLD = RunSettings({"model": "m", "compressor": "c", "sampling": "s", "dtype": "d", "attention": "a"}, processes=1)


@pytest.fixture(scope="module")
def run() -> tuple[Summary, list[ScoredSample]]:
    answers = {
        "mvbench_action_count": [("A", "A", None), ("(B) b", "B", None), ("well", "C", None), ("A", "D", None)],
        "mvbench_state_change": [("D.", "D", None), (NO_ANSWER, "A", "0.mp4: gone")],
    }
    logged = {task: [scored(i, a, t) for i, (a, t, _) in enumerate(rows)] for task, rows in answers.items()}
    ours = [sample(task, i, a, e) for task, rows in answers.items() for i, (a, _, e) in enumerate(rows)]
    lines = join_samples(MVBENCH, logged, ours[::-1])
    return summarise(MVBENCH, lines, TOLD), lines


def test_scores_count_every_question(run):
    summary, lines = run
    assert [line.score for line in lines] == [1, 1, 0, 0, 1, 0]
    assert [line.parsed for line in lines] == ["A", "B", None, "A", "D", None]
    assert summary.scores.categories == {
        "action_count": CategoryScore(accuracy=50.0, samples=4, failed=0, unparsed=1),
        "state_change": CategoryScore(accuracy=50.0, samples=2, failed=1, unparsed=0),
    }
    assert summary.scores.overall == 50.0
    assert summary.visual_tokens.retention == 0.25
    assert summary.visual_tokens.after_per_sample == 25
    assert summary.seconds["vision"] == Seconds(total=2.5, mean=0.5, median=0.5)
    assert summary.failures == [Failure("mvbench_state_change", 1, "1.mp4", "0.mp4: gone")]


@pytest.mark.parametrize("target", "ABCDE")
def test_the_answer_to_an_unreadable_video_can_never_be_right(target):
    assert MVBENCH.harness_utils().mcq_acc(target, NO_ANSWER) == 0


def test_files_and_tables_tell_the_same(run, tmp_path):
    summary, lines = run
    write_results(tmp_path, summary, lines)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["results.json", "samples.jsonl", "table.md"]
    assert Summary.from_json(json.loads((tmp_path / "results.json").read_text())) == summary
    written = (tmp_path / "samples.jsonl").read_text().splitlines()
    assert [record(ScoredSample, json.loads(line)) for line in written] == lines
    console = Console(record=True, width=200)
    print_summary(console, summary)
    for text in (markdown(summary), console.export_text()):
        assert "100.0 -> 25.0" in text
        assert "FAILED mvbench_state_change question 1: 0.mp4: gone" in text
        # A dense run, which compresses nothing, has this step too.
        assert "vision 0.500, assemble + compress 0.500, prefill 0.500" in text


def test_all_failed_is_still_a_result():
    logged = {"mvbench_action_count": [scored(0, NO_ANSWER, "A")]}
    lines = join_samples(MVBENCH, logged, [sample("mvbench_action_count", 0, NO_ANSWER, "gone")])
    summary = summarise(MVBENCH, lines, TOLD)
    assert summary.scores.overall == 0
    assert summary.visual_tokens.retention is None


@pytest.mark.parametrize(("name", "kind"), [("mvbench", "macro"), ("videomme", "micro")])
def test_the_average_is_called_what_it_is(name, kind, run):
    """Also where the two are equal."""
    scores = replace(run[0].scores, macro=50.0, micro=50.0, overall=50.0)
    summary = replace(run[0], benchmark=name, scores=scores)
    assert f"overall: {kind} average" in markdown(summary)


def test_select_tasks():
    assert select_tasks("mvbench") == (BENCHMARKS["mvbench"], MVBENCH.tasks)
    assert len(MVBENCH.tasks) == 20
    assert select_tasks("mvbench_state_change, mvbench_action_count")[1] == (
        "mvbench_state_change",
        "mvbench_action_count",
    )


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("", "'' is no benchmark: give one, such as mvbench"),
        (",", "',' is no benchmark"),
        ("mvbench_action_count,an other", "--tasks an other is no benchmark, and no task .*--help lists benchmarks"),
        ("mvbnch", "--tasks mvbnch is no benchmark.*did you mean mvbench or"),
        ("mmlu_generative", r"--tasks mmlu_generative is a group without tasks that have names .*yaml\): name tasks"),
        ("MVBench", "did you mean mvbench or"),
        ("lvbench,worldsens", "--tasks worldsens is no benchmark.*did you mean worldsense"),
        ("mvbench,mvbench_action_count", "run mvbench and mvbench_action_count one by one"),
        ("mvbench,x.yaml", r"run mvbench and x\.yaml one by one"),
    ],
)
def test_wrong_tasks_are_one_short_line(wrong, said):
    with pytest.raises(ValueError, match=said) as error:
        select_tasks(wrong)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("benchmark", "answer", "legacy", "current"),
    [
        ("mlvu", "A", "A", "A"),
        ("mlvu", "A) red", "A", "A"),
        ("mlvu", "A.", None, "A"),
        ("mlvu", "The answer is C", None, "C"),
        ("mlvu", "B, because (A) is wrong", "A", "B"),
        ("videomme", "D", "D", "D"),
        ("videomme", "The best answer is: B.", "B", "B"),
        ("videomme", "Answer: D", "A", "D"),
        ("videomme", "none of them", None, None),
    ],
)
def test_both_harnesses_readings(benchmark, answer, legacy, current):
    """Old and new as recorded from lmms-eval 0.5.0 and 0.7.3."""
    one = BENCHMARKS[benchmark]
    logged = {
        "mlvu": lambda doc: one.harness_utils().mlvu_process_results(doc, [answer]),
        "videomme": lambda doc: one.harness_utils().videomme_process_results(doc, [answer]),
    }[benchmark]
    doc = {"question": "?", "answer": "C", "task_type": "order", "video_id": "1", "question_id": "1"}
    doc |= {"duration": "short", "domain": "d", "sub_category": "s", "videoID": "v"}
    readings = one.readings({"filtered_resps": [answer], **logged(doc)})
    assert readings == {"current": (current, float(current == "C")), "legacy": (legacy, float(legacy == "C"))}


def test_the_parser_is_chosen_and_both_are_reported():
    one = BENCHMARKS["mlvu"]
    answers = [("A.", "A"), ("B", "B"), ("C)", "D")]
    logged = []
    for i, (answer, target) in enumerate(answers):
        doc = {"question": "?", "answer": target, "task_type": "order"}
        logged.append(
            {"doc_id": i, "filtered_resps": [answer], **one.harness_utils().mlvu_process_results(doc, [answer])}
        )
    ours = [sample("mlvu_dev", i, answer) for i, (answer, _) in enumerate(answers)]
    for parser, right in (("current", 2), ("legacy", 1)):
        summary = summarise(one, join_samples(one, {"mlvu_dev": logged}, ours, parser), TOLD)
        assert summary.scores.overall == pytest.approx(100 * right / 3)
        assert summary.parsers.overall == {
            "current": pytest.approx(200 / 3),
            "legacy": pytest.approx(100 / 3),
        }
        assert summary.parsers.differ == 1
    assert set(MVBENCH.readings({"filtered_resps": ["A"], **scored(0, "A", "A")})) == {"current"}
