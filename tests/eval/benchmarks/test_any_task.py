"""Tasks of lmms-eval by their names, without a file of ours: their own questions, prompts, scorers and averages."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from eval.benchmarks import AnyTask, benchmark_named, select_tasks
from eval.benchmarks.declared import all_names, declaration, leaves, task_folder
from eval.cli import main
from eval.reports.compare import compare
from eval.results.load import load_run
from eval.run.identity import questions
from eval.run.lmms import GuessesAlone, load_tasks
from eval.run.questions import NoQuestions, require_scorable
from tests.eval.benchmarks.copies import Asked, longvideobench_val_i, source

TASK = "longtimescope"
KINDS = ("QA", "OCR", "temporal")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Asked]]:
    """Nine videos, and a question on each."""
    folder = tmp_path_factory.mktemp("source")
    return folder, source(folder)


def text_of(one: Asked) -> str:
    return f"{one.question}\n{one.lines('{}. {}')}\nAnswer with the letter."


@pytest.fixture(scope="module")
def hub(made: tuple[Path, list[Asked]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """hub/, to work in, with the questions as lmms-eval's task wants them, and hf_home/ with the videos."""
    root = tmp_path_factory.mktemp("hub")
    declared = declaration(leaves(TASK)[TASK])
    repository = root / "hub" / declared["dataset_path"]
    repository.mkdir(parents=True)
    docs = [
        {
            "id": str(one.number),
            "video": f"{one.video}.mp4",
            "input": text_of(one),
            "answer": one.letter,
            "type": KINDS[one.number % 3],
            "length": "8" if one.number % 2 else "10",
        }
        for one in made[1]
    ]
    (repository / "test.json").write_text(json.dumps(docs))
    shutil.copytree(made[0] / "videos", root / "hf_home" / declared["dataset_kwargs"]["cache_dir"])
    return root


@pytest.fixture
def offline(hub: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import lmms_eval.api.task

    monkeypatch.setenv("HF_HOME", str(hub / "hf_home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(lmms_eval.api.task, "_resolve_hf_datasets_cache_dir", lambda: str(hub / "datasets"))
    monkeypatch.chdir(hub / "hub")
    return hub / "hub"


def run(model: Path, output: Path, tasks: object, *flags: str, compressor: str = "none") -> list[dict[str, Any]]:
    """Run, and return the lines of samples.jsonl."""
    common = ("--sampling", "uniform:4", "--device", "cpu", "--compressor", compressor, "--output", str(output))
    assert main(["run", "--tasks", str(tasks), "--model", str(model), *common, *flags]) == 0
    return [json.loads(line) for line in (output / "samples.jsonl").read_text().splitlines()]


# ---- by name


def test_a_task_by_its_name_scores_as_its_own_code_does(onevision, offline, tmp_path):
    lines = run(onevision, tmp_path / "none", TASK)
    results = json.loads((tmp_path / "none/results.json").read_text())
    import lmms_eval.tasks.longtimescope.utils as theirs

    docs = json.loads(next(offline.rglob("test.json")).read_text())
    values = [
        theirs.timescope_process_results(doc, [line["answer"]])["timescope_perception_score"]
        for doc, line in zip(docs, lines, strict=True)
    ]
    expected = theirs.timescope_aggregate_results(values)
    assert 0 < expected < 100
    assert results["harness_scores"] == {TASK: pytest.approx(expected)}
    assert results["harness_metrics"][TASK]["timescope_perception_score"] == pytest.approx(expected)
    assert results["scores"]["overall"] == pytest.approx(expected)
    assert results["benchmark"] == f"lmms_eval/{TASK}"
    for line, doc, value in zip(lines, docs, values, strict=True):
        assert doc["input"] in line["prompt"]
        assert (line["target"], line["error"], line["category"]) == (doc["answer"], None, TASK)
        assert line["score"] == (value["pred_answer"] == doc["answer"])
        assert Path(line["video"]).name == doc["video"]

    run(onevision, tmp_path / "half", TASK, compressor="vidcom2@0.5")
    compared = compare(tmp_path / "none", tmp_path / "half")
    assert compared.rows[-1].a == pytest.approx(expected)
    assert load_run(tmp_path / "half").overall == "micro"


def test_a_missing_video_fails_its_question_only(onevision, offline, hub, tmp_path, monkeypatch):
    home = shutil.copytree(hub / "hf_home", tmp_path / "hf_home")
    monkeypatch.setenv("HF_HOME", str(home))
    docs = json.loads(next(offline.rglob("test.json")).read_text())
    (home / TASK / docs[1]["video"]).unlink()
    flags = ("--tasks", TASK, "--model", str(onevision), "--sampling", "uniform:4", "--device", "cpu")
    assert main(["run", *flags, "--compressor", "none", "--output", str(tmp_path / "out")]) == 3
    lines = [json.loads(line) for line in (tmp_path / "out/samples.jsonl").read_text().splitlines()]
    assert [line["doc_id"] for line in lines if line["error"]] == [1]
    assert lines[1]["score"] == 0


# ---- a user's own task files

SCORERS = '''
import random
import requests


def visual(doc):
    return [doc["path"]]


def pictures(doc):
    from PIL import Image

    return [Image.new("RGB", (8, 8)), Image.new("RGB", (8, 8))]


def text(doc, lmms_eval_specific_kwargs=None):
    return lmms_eval_specific_kwargs["before"] + doc["asked"]


def letters(doc, results):
    """A dictionary per question, which only `macro` can make a number of."""
    found = [letter for letter in results[0] if letter in "ABC"]
    return {"by_kind": {"kind": doc["kind"], "read": found[0] if found else None, "right": doc["letter"]}}


def macro(results):
    kinds = {}
    for one in results:
        kinds.setdefault(one["kind"], []).append(one["read"] == one["right"])
    return 100 * sum(sum(own) / len(own) for own in kinds.values()) / 4  # of four kinds, one of which has no question


def guesses(doc, results):
    read = results[0] if results[0] in ("A", "B", "C") else random.choice("ABC")
    return {"acc": float(read == doc["letter"])}


def never(doc, results):
    return {"acc": 0.0}


def judged(doc, results):
    for _ in range(10):
        try:
            said = requests.post("https://judge.example/v1", json={"answer": results[0]}).json()["verdict"]
            return {"acc": float(said == "right")}
        except Exception:
            pass
    return {"acc": 0.0}


def long(doc, results):
    return {"acc": {"length": len(results[0])}}


def longest(results):
    return {"longest": max(one["length"] for one in results)}
'''
"""lmms-eval's side of these tasks, as their own folder would have it."""


@pytest.fixture
def own(made: tuple[Path, list[Asked]], tmp_path: Path) -> Path:
    """A folder of task files: utils.py, questions.json, and lines of settings that `write` adds."""
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "utils.py").write_text(SCORERS)
    docs = [
        {
            "path": str(made[0] / "videos" / f"{one.video}.mp4"),
            "asked": text_of(one),
            "letter": one.letter,
            "kind": KINDS[one.number // 4],
            "index": one.right,
        }
        for one in made[1]
    ]
    (folder / "questions.json").write_text(json.dumps(docs))
    return folder


def write(folder: Path, name: str, score: str, average: str = "mean", **changes: str) -> Path:
    """Write a task file. `score` and `average` are functions of SCORERS, or names of lmms-eval's."""
    lines = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": "{data_files: {test: questions.json}}",
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_visual": "!function utils.visual",
        "doc_to_text": "!function utils.text",
        "doc_to_target": "letter",
        "generation_kwargs": "{max_new_tokens: 8, temperature: 0, do_sample: false}",
        "process_results": f"!function utils.{score}",
        "metric_list": f"[{{metric: {'by_kind' if score == 'letters' else 'acc'}, aggregation: {average}, "
        "higher_is_better: true}]",
        "lmms_eval_specific_kwargs": "{default: {before: 'Look. '}, llava_onevision: {before: 'Watch. '}}",
    } | changes
    file = folder / f"{name}.yaml"
    file.write_text("".join(f"{key}: {value}\n" for key, value in lines.items() if value))
    return file


def test_a_task_file_of_ones_own(onevision, offline, own, tmp_path):
    """Its prompt for this model, its dictionaries, and an average in which one right answer of nine is no 1/9."""
    file = write(own, "mine", "letters", "!function utils.macro")
    lines = run(onevision, tmp_path / "out", file)
    docs = json.loads((own / "questions.json").read_text())
    right = [
        next((letter for letter in line["answer"] if letter in "ABC"), None) == doc["letter"]
        for line, doc in zip(lines, docs, strict=True)
    ]
    assert any(right)
    assert not all(right)
    assert [line["score"] for line in lines] == right
    by_kind = [[r for r, doc in zip(right, docs, strict=True) if doc["kind"] == kind] for kind in KINDS]
    macro = 100 * sum(sum(part) / len(part) for part in by_kind) / 4
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["harness_scores"] == {"mine": pytest.approx(macro)}
    assert results["scores"]["overall"] == pytest.approx(100 * sum(right) / len(right))
    assert f"- lmms-eval's own score of mine: {macro:g}\n" in (tmp_path / "out/table.md").read_text()
    assert all("Watch. " in line["prompt"] and "Look. " not in line["prompt"] for line in lines)


def test_a_task_that_one_of_lmms_evals_metrics_scores(onevision, offline, own, tmp_path):
    metric = "[{metric: exact_match, aggregation: mean, higher_is_better: true, ignore_punctuation: true}]"
    file = write(own, "plain", "", process_results="", metric_list=metric)
    lines = run(onevision, tmp_path / "out", file)
    docs = json.loads((own / "questions.json").read_text())
    exact = [line["answer"].strip("!. ") == doc["letter"] for line, doc in zip(lines, docs, strict=True)]
    assert [line["score"] for line in lines] == exact
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["harness_scores"] == {"plain": pytest.approx(sum(exact) / len(exact))}


def test_a_target_may_be_the_number_of_the_option(offline, own):
    file = write(own, "numbered", "letters", "!function utils.macro", doc_to_target="index")
    benchmark, names = select_tasks(str(file))
    (task,) = load_tasks(benchmark, names, None, "llava_onevision").values()
    for doc in task.eval_docs:
        for answer in "ABC":
            logged = {"filtered_resps": [answer], **task.config.process_results(doc, [answer])}
            assert benchmark.target(logged) == doc["letter"]
            assert benchmark.score(logged) == (answer == doc["letter"])
            assert benchmark.parsed(logged) == answer


# ---- several tasks


def test_several_tasks_answer_and_guess_as_each_alone(onevision, offline, own, tmp_path):
    """In one process: no state of a sample, of a task, or of a scorer that guesses reaches the next."""
    files = [
        write(own, "first", "guesses"),
        write(own, "second", "letters", "!function utils.macro"),
        write(own, "third", "guesses"),
    ]
    for compressor in ("vidcom2@0.25", "fastv@0.75:k=1"):
        together = run(
            onevision, tmp_path / "together", ",".join(map(str, files)), "--overwrite", compressor=compressor
        )
        alone = [
            line
            for file in files
            for line in run(onevision, tmp_path / "alone", file, "--overwrite", compressor=compressor)
        ]
        assert len(together) == len(alone) == 27
        for one, other in zip(together, alone, strict=True):
            assert {**one, "seconds": None} == {**other, "seconds": None}
    guessed = {name: [line["score"] for line in together if line["task"] == name] for name in ("first", "third")}
    assert guessed["first"] == guessed["third"]  # each from its own seed
    assert any(line["answer"] not in ("A", "B", "C") for line in together)
    assert 0 < sum(guessed["first"]) < 9
    results = json.loads((tmp_path / "together/results.json").read_text())
    assert set(results["harness_scores"]) == {"first", "second", "third"}
    assert set(results["scores"]["categories"]) == {"first", "second", "third"}


def test_guesses_are_those_of_a_process_that_scores_one_task():
    import random

    def guess(doc: Any, results: Any) -> dict[str, float]:
        return {"acc": random.random()}

    random.seed(0)
    alone = [guess(None, None) for _ in range(4)]
    random.seed(7)
    before = random.getstate()
    scorer = GuessesAlone(guess)
    assert [scorer(None, None) for _ in range(4)] == alone
    assert random.getstate() == before
    assert scorer(None, None) != alone[0]
    scorer.begin()
    assert scorer(None, None) == alone[0]


# ---- refusals


@pytest.mark.parametrize(
    ("score", "changes", "why"),
    [
        ("judged", {}, r"scoring it asks another machine \(judge\.example\); only tasks that score by themselves"),
        ("letters", {"doc_to_visual": "!function utils.pictures"}, "has 2 x Image for a video; one file's path"),
        ("letters", {"doc_to_visual": ""}, "its first question has no video"),
        ("long", {"average": "!function utils.longest"}, r"its acc is \{'longest': 1\}, no number"),
        (
            "guesses",
            {"metric_list": "[{metric: acc, aggregation: mean, higher_is_better: false}]"},
            "lower acc is better",
        ),
        ("guesses", {"output_type": "loglikelihood"}, "its output_type is loglikelihood, and only generate_until"),
        ("never", {}, "question 0: .*lmms-eval scores no letter, nor '[ABC]', as right"),
    ],
)
def test_what_cannot_run_is_refused_with_one_reason(score, changes, why, offline, own):
    file = write(own, "other", score, **{"average": "mean", **changes})
    benchmark, names = select_tasks(str(file))
    with pytest.raises(NoQuestions, match=why) as refused:
        require_scorable(benchmark, load_tasks(benchmark, names, None, "llava_onevision"), None)
    assert str(refused.value).count("\n") <= 10
    assert "--data" not in str(refused.value)  # there is none for the doctor to look into


def test_pictures_among_subtitles_are_no_video(offline, hub, made):
    """LongVideoBench with subtitles, as lmms-eval has it, is 16 pictures with text between them."""
    declared = declaration(leaves("longvideobench_val_i")["longvideobench_val_i"])
    home = hub / "hf_home" / declared["dataset_kwargs"]["cache_dir"]
    longvideobench_val_i(*made, home)
    repository = offline / declared["dataset_path"]
    repository.mkdir(parents=True)
    shutil.copy(home / "validation.json", repository)
    benchmark = AnyTask.named(["longvideobench_val_i"])
    assert benchmark is not None
    with pytest.raises(NoQuestions, match=r"longvideobench_val_i cannot be run here: .* x Image for a video"):
        load_tasks(benchmark, benchmark.tasks, None, "llava_onevision")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, r"x\.yaml is no file"),
        ("a: 1\n", "declares no task"),
        ("- 1\n", "is no task file of lmms-eval"),
        ("a: [\n", "is no YAML file"),
        ("include: none.yaml\ntask: x\n", r"none\.yaml, which .*x\.yaml includes, cannot be read \(No such file"),
        ("include: x.yaml\ntask: x\n", r"x\.yaml includes itself \(x\.yaml -> x\.yaml\)"),
    ],
)
def test_files_that_are_no_task_files(content, why, tmp_path):
    file = tmp_path / "x.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ValueError, match=why):
        select_tasks(str(file))


@pytest.mark.parametrize("changed", ["utils.py", "base.yaml", "mine.yaml", "questions.json"])
def test_a_task_file_and_what_it_rests_on_is_part_of_a_run(changed, own):
    """A finished run is not shown for another scorer or other questions."""
    write(own, "base", "letters", dataset_kwargs=f"{{data_files: {{test: {own / 'questions.json'}}}}}")
    file = own / "mine.yaml"
    file.write_text("include: base.yaml\ntask: mine\n")
    before = questions(*select_tasks(str(file)), None)
    assert before is not None
    assert questions(*select_tasks(str(file)), None) == before
    with (own / changed).open("a") as opened:
        opened.write("\n")
    assert questions(*select_tasks(str(file)), None) != before
    assert questions(*select_tasks(TASK), None) is None


def test_two_files_of_one_task(own):
    """Neither of them is left out without a word."""
    first = write(own, "one", "letters")
    second = first.rename(own / "first.yaml"), write(own, "one", "long")
    with pytest.raises(ValueError, match=r"first\.yaml and .*one\.yaml both declare the task one: rename one"):
        select_tasks(",".join(map(str, second)))


def test_a_task_file_that_lmms_eval_cannot_read_is_named(offline, own):
    file = write(own, "other", "letters", doc_to_text="!function utils.missing")
    benchmark, names = select_tasks(str(file))
    with pytest.raises(NoQuestions, match=r"has no attribute 'missing'\); .*other\.yaml declares them"):
        load_tasks(benchmark, names, None, "llava_onevision")


def test_a_local_copy_needs_a_layout(onevision, tmp_path, capsys):
    flags = ("--tasks", TASK, "--model", str(onevision), "--data", str(tmp_path), "--output", str(tmp_path / "out"))
    assert main(["run", *flags]) != 0
    assert f"--data {tmp_path} has no meaning for {TASK}" in capsys.readouterr().err
    assert main(["doctor", "--tasks", TASK, "--data", str(tmp_path)]) != 0
    assert f"the doctor knows no layout of {TASK}" in capsys.readouterr().err


# ---- names


def test_names_are_lmms_evals():
    """Against its own index of all its tasks."""
    from lmms_eval.tasks import TaskManager

    index = TaskManager().task_index
    for name in ("videomme_long", "vsibench", "worldsense", "egoplan", "mmvu_val", "nextqa_mc_test"):
        assert leaves(name) == {name: Path(index[name]["yaml_path"])}
    for group in ("nextqa", "tvbench", "video_mmmu", "tempcompass"):
        members = leaves(group)
        assert set(members) <= set(index)
        said = yaml.safe_load(Path(index[group]["yaml_path"]).read_text(encoding="utf-8"))["task"]
        assert list(members) == ([said] if isinstance(said, str) else said)
    assert leaves("no_such_task") == {}
    there_are = {name for name, task in index.items() if task["type"] in ("task", "group")}
    # vstar_bench, of pictures, has its name from a file that it includes
    assert there_are - {"vstar_bench"} <= all_names() <= set(index)
    for name in ("cuva_test", "coco2014_cap_test", "step2_audio_paralinguistic_speed"):  # spelt `task : ` and so on
        assert leaves(name) == {name: Path(index[name]["yaml_path"])}
    assert list(leaves("cuva")) == ["cuva_test"]  # `group : cuva`


def test_the_name_of_several_tasks_is_a_directory():
    benchmark, names = select_tasks("longtimescope, worldsense,longtimescope")
    assert isinstance(benchmark, AnyTask)
    assert names == ("longtimescope", "worldsense")
    assert benchmark.name == "lmms_eval/longtimescope+worldsense"
    known = benchmark_named(benchmark.name)
    assert known is not None
    assert known.overall == "micro"
    assert benchmark_named("unknown") is None
    folder = task_folder()
    assert folder is not None
    many = sorted(str(declaration(file)["task"]) for file in folder.glob("videomme/*/*.yaml"))
    other, names = select_tasks(",".join(many))
    assert list(names) == many
    assert len(other.name) < 60 < 100 < len(",".join(many))
