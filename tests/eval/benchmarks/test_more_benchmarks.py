"""LongVideoBench, EgoSchema and Perception Test, against lmms-eval's own code."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import Dataset, load_dataset

from eval.benchmarks import BENCHMARKS, select_tasks
from eval.benchmarks.base import local_questions
from eval.benchmarks.mvbench import MVBENCH
from eval.cli import main
from eval.demo.minibench import FPS, PERCEPTION_AREAS, WRITERS, questions
from eval.demo.world import TASKS
from eval.results.sample import NO_ANSWER, STAGES, Sample
from eval.results.schema import RunSettings, ScoredSample, Summary
from eval.results.summary import join_samples, summarise
from eval.run.lmms import load_tasks
from llava.video import FrameSampling, read_video

NAMES = ("longvideobench", "egoschema", "perceptiontest")
SPLITS = {"longvideobench": "validation", "egoschema": "test", "perceptiontest": "validation"}
QUESTIONS = {
    "longvideobench": "validation.json",
    "egoschema": "Subset/test.json",
    "perceptiontest": "mc_question_val/validation.json",
}
VIDEO = {"longvideobench": "video_path", "egoschema": "video_idx", "perceptiontest": "video_name"}
PER_TASK = 3


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict[str, Path]:
    return {name: WRITERS[name](tmp_path_factory.mktemp(name), PER_TASK) for name in NAMES}


def the_task(name: str, data: Path) -> Any:
    (task,) = load_tasks(BENCHMARKS[name], BENCHMARKS[name].tasks, data, "llava_onevision").values()
    return task


def docs_of(name: str, data: Path) -> list[dict]:
    return json.loads((data / QUESTIONS[name]).read_text())


def right(name: str, doc: dict) -> int:
    """The index of the right option."""
    return int(doc[{"longvideobench": "correct_choice", "egoschema": "answer", "perceptiontest": "answer_id"}[name]])


# ---- through the launcher


@pytest.mark.parametrize(
    ("name", "categories"),
    [
        ("longvideobench", {"15 s": 18, "60 s": 9}),
        ("egoschema", {"subset": 27}),
        ("perceptiontest", {"abstraction": 3, "memory": 15, "physics": 3, "semantics": 6}),
    ],
)
def test_the_run_scores_as_lmms_eval_does(name, categories, data, onevision, tmp_path):
    flags = ("--tasks", name, "--model", onevision, "--data", data[name], "--sampling", "uniform:4", "--device", "cpu")
    assert main(["run", *map(str, flags), "--output", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    scores = results["scores"]
    (harness,) = results["harness_scores"].values()  # a fraction, which LongVideoBench rounds to five digits
    assert scores["overall"] == scores["micro"] == pytest.approx(100 * harness, abs=5.1e-4)
    assert 0 < scores["overall"] < 100
    assert {category: score["samples"] for category, score in scores["categories"].items()} == categories
    docs = docs_of(name, data[name])
    for line, doc in zip(lines, docs, strict=True):
        assert (line["frames"], line["error"]) == (4, None)
        assert Path(line["video"]).stem == Path(doc[VIDEO[name]]).stem
        assert line["target"] == "ABCDE"[right(name, doc)]
        assert line["parsed"] == re.sub(r"\W", "", line["answer"])  # the checkpoint says a letter, or "!" and a letter
        assert line["score"] == (line["parsed"] == line["target"])


# ---- answers and scores

ANSWERS = ("A", "B.", "(C)", "The answer is B", "D. that one", "E", "b", "", "none", NO_ANSWER)
PARSED = {
    "longvideobench": ["A", "B", "C", "B", "D", "E", None, None, None, None],
    "egoschema": ["A", "B", "C", "B", "D", "E", None, None, None, None],
    "perceptiontest": ["A", "B", "C", "B", "D", None, None, None, None, None],
}


def score_all(name: str, data: Path, answers: list[str]) -> tuple[list[dict], float]:
    """lmms-eval's samples for the questions, each with the next answer, and its overall score."""
    task, utils = the_task(name, data), BENCHMARKS[name].harness_utils()
    samples = []
    for number, (doc, answer) in enumerate(zip(task.eval_docs, answers, strict=True)):
        scored = task.config.process_results(doc, [answer])
        samples.append({"doc_id": number, "doc": doc, "filtered_resps": [answer], **scored})
    values = [sample[BENCHMARKS[name].metric] for sample in samples]
    overall = {
        "longvideobench": lambda: utils.longvideobench_aggregate_results(values),
        "egoschema": lambda: utils.egoschema_aggregate_score(values, None),
        "perceptiontest": lambda: utils.perceptiontest_val_aggregate_accuracy(values, None),
    }
    return samples, overall[name]()


def ours(name: str, samples: list[dict], errors: dict[int, str] | None = None) -> tuple[Summary, list[ScoredSample]]:
    """Our summary and lines of lmms-eval's samples, those in `errors` without a readable video."""
    (task,) = BENCHMARKS[name].tasks
    seconds = dict.fromkeys(STAGES, 0.0)
    answered = []
    for sample in samples:
        (answer,), error = sample["filtered_resps"], (errors or {}).get(sample["doc_id"])
        answered.append(Sample(task, sample["doc_id"], "a.mp4", "prompt", answer, error, 4, 2.0, 100, 25, seconds))
    lines = join_samples(BENCHMARKS[name], {task: samples}, answered)
    return summarise(BENCHMARKS[name], lines, RunSettings({"model": "m", "compressor": "c"})), lines


@pytest.mark.parametrize("name", NAMES)
def test_overall_is_lmms_evals_and_guesses_are_told(name, data):
    answers = [ANSWERS[n % len(ANSWERS)] for n in range(PER_TASK * len(TASKS))]
    random.seed(1)  # EgoSchema and LongVideoBench guess
    samples, overall = score_all(name, data[name], answers)
    summary, lines = ours(name, samples)
    assert summary.scores.overall == pytest.approx(100 * overall, abs=5.1e-4)
    assert [line.parsed for line in lines] == [PARSED[name][n % len(ANSWERS)] for n in range(len(lines))]
    unparsed = sum(score.unparsed for score in summary.scores.categories.values())
    assert unparsed == sum(line.parsed is None for line in lines) > 5
    for line in lines:
        if line.parsed is not None:
            assert line.score == (line.parsed == line.target)
    guessed = sum(line.score for line in lines if line.parsed is None)
    assert (guessed > 0) == (name != "perceptiontest")


def test_groups_are_longvideobenchs(data):
    samples, _ = score_all("longvideobench", data["longvideobench"], ["A"] * PER_TASK * len(TASKS))
    summary, _ = ours("longvideobench", samples)
    values = [sample["lvb_acc"] for sample in samples]
    for group in (15, 60):
        mine = [value for value in values if value["duration_group"] == group]
        _, expected = BENCHMARKS["longvideobench"].harness_utils().evaluate_longvideobench(mine)
        assert summary.scores.categories[f"{group} s"].accuracy == pytest.approx(100 * expected["acc"])


@pytest.mark.parametrize("name", NAMES)
def test_unreadable_videos_are_wrong_however_lucky_the_guess(name, data):
    for seed in range(5):
        random.seed(seed)
        samples, _ = score_all(name, data[name], [NO_ANSWER] * PER_TASK * len(TASKS))
        summary, lines = ours(name, samples, dict.fromkeys(range(len(samples)), "gone"))
        assert summary.scores.overall == 0
        assert {line.parsed for line in lines} == {None}


def test_egoschema_reads_an_option_from_its_words(data):
    (doc, *_) = docs_of("egoschema", data["egoschema"])
    answer = f"from what is to be seen here it must be {doc['option'][2].lower()}"
    scored = BENCHMARKS["egoschema"].harness_utils().egoschema_process_results_generation(doc, [answer])
    assert scored["score"]["pred"] == 2
    assert BENCHMARKS["egoschema"].parsed({"doc": doc, "filtered_resps": [answer], **scored}) == "C"


# ---- local data


@pytest.mark.parametrize("name", NAMES)
def test_parquet_files_as_on_the_hub(name, data, tmp_path):
    file = (tmp_path / QUESTIONS[name]).with_name(f"{SPLITS[name]}-00000-of-00001.parquet")
    file.parent.mkdir(parents=True, exist_ok=True)
    docs = docs_of(name, data[name])
    Dataset.from_list(docs).to_parquet(file)
    decoy = file.with_name("other-00000-of-00001.parquet")
    Dataset.from_list(docs[:1]).to_parquet(decoy)
    (tmp_path / "videos").symlink_to(data[name] / "videos")
    task = the_task(name, tmp_path)
    assert list(task.eval_docs) == docs
    assert all(Path(*task.doc_to_visual(doc)).is_file() for doc in docs)

    file.unlink()
    with pytest.raises(FileNotFoundError, match=f"no questions of {name}: no {SPLITS[name]}-"):
        BENCHMARKS[name].local(task.config.task, tmp_path)


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "mvbench"])
def test_the_dataset_card_says_where_the_questions_are(name, tmp_path):
    """Against `datasets`' own reading of the card."""
    benchmark = BENCHMARKS[name]
    (task,) = benchmark.tasks
    config = {"videomme": "videomme", "egoschema": "Subset", "perceptiontest": "mc_question_val"}.get(name, "default")
    split = SPLITS.get(name, "test")
    other = "test" if split == "validation" else "train"
    cards: list[dict[str, Any]] = [
        {"config_name": config, "data_files": []},
        {"config_name": "other", "data_files": []},
    ]
    for number, card in enumerate(cards):
        for part in (split, other):
            folder = tmp_path / f"elsewhere{number}"
            folder.mkdir(exist_ok=True)
            for shard in range(2):
                rows = Dataset.from_list([{"row": f"{number} {part} {shard}"}])
                rows.to_parquet(folder / f"{part}-0000{shard}-of-00002.parquet")
            card["data_files"].append({"split": part, "path": f"elsewhere{number}/{part}-*"})
    (tmp_path / "README.md").write_text(f"---\n{yaml.safe_dump({'license': 'mit', 'configs': cards})}---\n# A set\n")
    settings = benchmark.local(task, tmp_path)
    ours = load_dataset(settings["dataset_path"], **settings["dataset_kwargs"], cache_dir=tmp_path / "cache")
    theirs = load_dataset(str(tmp_path), config, cache_dir=tmp_path / "cache")
    assert list(ours) == [split]
    assert list(ours[split]["row"]) == list(theirs[split]["row"]) == [f"0 {split} 0", f"0 {split} 1"]

    shutil.rmtree(tmp_path / "elsewhere0")
    (tmp_path / f"{split}.json").touch()
    assert benchmark.local(task, tmp_path)["dataset_kwargs"] == {
        "data_files": {split: [str(tmp_path / f"{split}.json")]}
    }


def test_mvbenchs_videos_in_every_layout(tmp_path):
    """In video/ or beside json/, and for some of them in a folder of another date."""
    task, doc = "mvbench_moving_count", {"video": "a.mp4"}
    file = tmp_path / "clevrer/video_validation/a.mp4"
    assert MVBENCH.local_video(task, tmp_path, doc) == file  # to be named as missing
    exchanged = tmp_path / "data0613/clevrer/video_validation/a.mp4"
    for path in (exchanged, file):
        path.parent.mkdir(parents=True)
        path.touch()
        assert MVBENCH.local_video(task, tmp_path, doc) == path
    (tmp_path / "video").mkdir()
    file = tmp_path / "video/clevrer/video_validation/a.mp4"
    assert MVBENCH.local_video(task, tmp_path, doc) == file


def test_questions_in_files_without_a_split(tmp_path):
    (tmp_path / "questions.parquet").touch()
    (tmp_path / "train-00000-of-00001.parquet").touch()
    found = local_questions(tmp_path, "test", "any")["dataset_kwargs"]["data_files"]
    assert found == {"test": [str(tmp_path / "questions.parquet")]}


@pytest.mark.parametrize("name", ["egoschema", "perceptiontest"])
def test_questions_beside_the_videos_and_capital_suffixes(name, data, tmp_path):
    docs = docs_of(name, data[name])
    shutil.copy(data[name] / QUESTIONS[name], tmp_path)
    benchmark = BENCHMARKS[name]
    assert benchmark.local(benchmark.tasks[0], tmp_path)["dataset_path"] == "json"
    path = benchmark.local_video(benchmark.tasks[0], tmp_path, docs[0])
    assert path == tmp_path / "videos" / f"{docs[0][VIDEO[name]]}.mp4"  # to be named as missing
    path.parent.mkdir()
    path.with_suffix(".MP4").touch()
    assert benchmark.local_video(benchmark.tasks[0], tmp_path, docs[0]) == path.with_suffix(".MP4")


def test_names():
    assert select_tasks("egoschema") == select_tasks("egoschema_subset")  # not lmms-eval's task that posts answers
    assert select_tasks("longvideobench")[1] == ("longvideobench_val_v",)
    assert select_tasks("perceptiontest_val_mc")[0] is BENCHMARKS["perceptiontest"]


# ---- MiniBench


@pytest.mark.parametrize("name", NAMES)
def test_prompts_show_every_option_once(name, data):
    task, docs = the_task(name, data[name]), docs_of(name, data[name])
    seed = {"longvideobench": 1_000_003, "egoschema": 1_000_004, "perceptiontest": 1_000_005}[name]
    scenes = [question for of in TASKS for _, question, _ in questions(of, PER_TASK, seed)]
    for doc, question in zip(docs, scenes, strict=True):
        first, *options, post = task.doc_to_text(doc).strip().split("\n")
        assert first == question.text
        letters, words = zip(*(option.split(". ") for option in options), strict=True)
        assert "".join(letters) == {"longvideobench": "ABCD", "egoschema": "ABCDE", "perceptiontest": "ABC"}[name]
        assert len(set(words)) == len(words)
        assert words[right(name, doc)] == question.answer
        assert len({*words} & {*question.options}) == min(len(words), 4)
        assert post == "Answer with the option's letter from the given choices directly."


def test_no_position_is_favoured_by_perceptiontest(data):
    docs = docs_of("perceptiontest", data["perceptiontest"])
    assert sorted(doc["answer_id"] for doc in docs) == sorted("012" * 9)


def test_durations_are_the_files(data):
    for doc in docs_of("longvideobench", data["longvideobench"])[:2]:
        video = read_video(
            data["longvideobench"] / "videos" / doc["video_path"], FrameSampling("uniform", max_frames=2)
        )
        assert video.duration == pytest.approx(doc["duration"], abs=1 / FPS)
        assert (0 if doc["duration_group"] == 15 else 15) < doc["duration"] <= doc["duration_group"]


def test_all_areas_occur():
    assert set(PERCEPTION_AREAS) == set(TASKS)
    assert set(PERCEPTION_AREAS.values()) == {"abstraction", "memory", "physics", "semantics"}


# ---- scripts


@pytest.mark.parametrize("name", NAMES)
def test_scripts(name, tmp_path):
    script = Path(__file__).resolve().parents[3] / "scripts" / f"eval_{name}.sh"
    assert os.access(script, os.X_OK)
    done = subprocess.run([script, "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, f"Evaluate a VideoLLM on {name} through lmms-eval.")
    assert f'evaluate {name} "$@"\n' in script.read_text()
