from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from datasets import List, Value

from eval.benchmarks import BENCHMARKS
from eval.demo.minibench import MLVU_TYPES, WRITERS
from eval.demo.prompts import mlvu_prompt, mvbench_prompt, videomme_prompt
from eval.demo.training.tokenizer import PROMPTS
from eval.demo.world import (
    COLOURS,
    LAMP,
    LAMP_ON,
    SIZE,
    TASKS,
    TIMER,
    TIMER_ON,
    UNITS,
    Look,
    ask,
    draw_scene,
    layers,
    render,
)
from eval.run.lmms import load_tasks
from llava.video import FrameSampling, read_video

SCENES = [draw_scene(np.random.default_rng(seed)) for seed in range(60)]
PLAIN = Look(waves=(0, 0), texture=0, slope=(0, 0), drift=0)


def seen(frame: np.ndarray, colour: str) -> np.ndarray:
    return (frame == COLOURS[colour]).all(-1)


@pytest.mark.parametrize("scene", SCENES[:20])
def test_pixels_alone_answer_every_question(scene):
    """Answers recovered from the pictures by other means than the renderer's, in even light."""
    frames = render(replace(scene, look=PLAIN))
    answers = {task: ask(scene, task, np.random.default_rng(0)).answer for task in TASKS}
    assert frames.shape == (UNITS, SIZE, SIZE, 3)

    background = [tuple(np.median(frame.reshape(-1, 3), axis=0)) for frame in frames]
    cut = next(t for t in range(1, UNITS) if background[t] != background[0])
    assert len(set(background)) == 2
    bars = [int((frame[TIMER][0] == TIMER_ON).all(-1).sum()) for frame in frames]
    assert bars == sorted(bars)
    assert set(bars) == {1, 2, 3, 4}
    assert bars[cut - 1] == bars[cut], "the change is within a quarter"
    assert answers["action_localization"] == ["first", "second", "third", "fourth"][bars[cut] - 1]

    lit = [tuple(frame[LAMP].reshape(-1, 3)[0]) == LAMP_ON for frame in frames]
    assert answers["action_count"] == ["one", "two", "three", "four"][sum(lit) - 1]

    visible = {colour: [bool(seen(frame, colour).any()) for frame in frames] for colour in COLOURS}
    (mover,) = (colour for colour in COLOURS if all(visible[colour]))
    first, last = (np.argwhere(seen(frames[t], mover)).mean(0) for t in (0, -1))
    down, right = last - first
    direction = ("right" if right > 0 else "left") if abs(right) > abs(down) else ("down" if down > 0 else "up")
    assert answers["moving_direction"] == direction

    flashes = sorted((visible[c].index(True), c) for c in COLOURS if sum(visible[c]) == 1)
    assert [colour for _, colour in flashes] == [answers["action_sequence"], answers["action_prediction"]]
    (turned,) = (c for c in COLOURS if not visible[c][0] and visible[c][-1])
    assert answers["state_change"] == turned


@pytest.mark.parametrize("scene", SCENES[:5])
def test_light_and_texture_carry_no_answer(scene):
    """They change every pixel a little, and none so much that it shows another thing."""
    plain, lit = render(replace(scene, look=PLAIN)).astype(int), render(scene).astype(int)
    assert np.array_equal(layers(scene), layers(replace(scene, look=PLAIN)))
    assert 0 < np.abs(lit - plain).mean() < 25
    assert np.abs(lit - plain).max() < 0.4 * 255


@pytest.mark.parametrize("units", [4, 8, 16, 32])
def test_short_scenes_have_all_their_events(units):
    rng = np.random.default_rng(units)
    for _ in range(50):
        scene = draw_scene(rng, units)
        (early, _), (late, _) = scene.flashes
        assert 0 < early < late < units - 1
        assert 0 < scene.cut < units
        assert 0 < scene.turn < units
        assert set(scene.lit) <= set(range(1, units, 2))
        assert scene.quarter == ["first", "second", "third", "fourth"][scene.cut * 4 // units]


def test_questions_are_fair():
    """Four different options with the answer among them; no letter and no answer is favoured."""
    rng = np.random.default_rng(1)
    scenes = [draw_scene(rng) for _ in range(400)]
    for task in TASKS:
        asked = [ask(scene, task, rng) for scene in scenes]
        assert all(len(set(q.options)) == 4 and q.answer in q.options for q in asked)
        letters = [sum(q.letter == letter for q in asked) for letter in "ABCD"]
        assert min(letters) > 60
        answers = {q.answer for q in asked}
        commonest = max(sum(q.answer == answer for q in asked) for answer in answers)
        assert commonest < 1.5 * len(asked) / len(answers)


COLUMNS = {
    "mvbench": "video question candidates* answer",
    "mlvu": "video_name question answer task_type",
    "videomme": "video_id duration domain sub_category url videoID question_id task_type question options* answer",
    "longvideobench": "id video_id video_path subtitle_path starting_timestamp_for_subtitles:float64 question option0 "
    "option1 option2 option3 option4 correct_choice:int64 duration:float64 duration_group:int64 question_category "
    "topic_category",
    "egoschema": "question_idx question video_idx option* answer",
    "perceptiontest": "video_name question question_id options* answer_id area reasoning tag*",
}
"""Strings, where nothing else is said; * for lists of them. From the dataset cards; of MVBench and MLVU, what lmms-eval
reads."""


@pytest.mark.parametrize("benchmark", WRITERS)
def test_files_are_what_lmms_eval_reads(benchmark, tmp_path):
    data = WRITERS[benchmark](tmp_path, 1)
    declared = BENCHMARKS[benchmark]
    names = tuple(f"mvbench_{task}" for task in TASKS) if benchmark == "mvbench" else declared.tasks
    tasks = load_tasks(declared, names, data, "llava_onevision")
    columns = {}
    for column in COLUMNS[benchmark].split():
        column, _, kind = column.partition(":")
        columns[column.rstrip("*")] = List(Value("string")) if column.endswith("*") else Value(kind or "string")
    prompts = set()
    for name, task in tasks.items():
        assert task.eval_docs.features == columns
        for doc in task.eval_docs:
            (path,) = task.doc_to_visual(doc)
            video = read_video(path, FrameSampling("uniform", max_frames=UNITS))
            assert video.frames.shape == (UNITS, 144, 144, 3)
            prompts.add(task.doc_to_text(doc))
            assert name in names
    assert len(prompts) == len(TASKS)


def test_prompts_of_the_lessons_are_lmms_evals(tmp_path):
    """What the demo model is trained on is what the benchmarks ask, to the letter."""
    ours = {"mvbench": mvbench_prompt, "mlvu": mlvu_prompt, "videomme": videomme_prompt}
    assert set(ours.values()) == set(PROMPTS)
    for benchmark in ours:
        data = WRITERS[benchmark](tmp_path / benchmark, 1)
        declared = BENCHMARKS[benchmark]
        names = ("mvbench_state_change",) if benchmark == "mvbench" else declared.tasks
        (task,) = load_tasks(declared, names, data, "llava_onevision").values()
        asked = {task.doc_to_text(doc) for doc in task.eval_docs}
        seed = {"mvbench": 1_000_000, "mlvu": 1_000_001, "videomme": 1_000_002}[benchmark]
        rng = np.random.default_rng([seed, list(TASKS).index("state_change"), 0])
        assert ours[benchmark](ask(draw_scene(rng), "state_change", rng)) in asked


def test_sampled_frames_are_the_units(tmp_path):
    """Uniform frames of a file are the scene's pictures, one for each unit, up to coding noise."""
    data = WRITERS["videomme"](tmp_path, 3)
    for number, doc in enumerate(json.loads((data / "videomme" / "test.json").read_text())[:3]):
        rng = np.random.default_rng([1_000_002, 0, number])
        expected = render(draw_scene(rng)).astype(int)
        video = read_video(data / "data" / f"{doc['videoID']}.mp4", FrameSampling("uniform", max_frames=UNITS))
        assert np.abs(video.frames[:, ::2, ::2].astype(int) - expected).mean() < 6


def test_all_of_mlvus_types_occur():
    assert set(MLVU_TYPES) == set(TASKS)
    assert set(MLVU_TYPES.values()) == {"anomaly_reco", "count", "ego", "needle", "order", "plotQA", "topic_reasoning"}
