"""MiniBench: the world's scenes as real H.264 files, with questions in the schemas of six benchmarks.

Every question has its own scene. Scenes are drawn from seeds that training never uses (from HELD_OUT on).

Each `write_*` function writes one edition into a directory `root` and returns it. `per_task` is the number of questions
per task, `seed` the seed of the scenes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..benchmarks.edition import FILE
from ..benchmarks.mvbench import MVBENCH_FOLDERS
from .encode import write_video
from .world import COLOURS, TASKS, UNITS, Question, ask, draw_scene, render

HELD_OUT = 1_000_000
"""Seeds from here on are for evaluation only."""
FPS = 8
ZOOM = 2
"""Files have 144x144 pixels. The model's processor resizes them to 72x72 again."""
DURATIONS = {"short": 1, "medium": 3, "long": 10}
"""Frames per unit of time. Videos have 4, 12 and 40 seconds."""
MLVU_TYPES = {
    "action_count": "count",
    "action_localization": "order",
    "action_prediction": "order",
    "action_sequence": "order",
    "moving_attribute": "plotQA",
    "moving_direction": "topic_reasoning",
    "object_existence": "needle",
    "scene_transition": "anomaly_reco",
    "state_change": "ego",
}
"""The MLVU task type that is nearest to each task. All seven types occur."""
PERCEPTION_AREAS = {
    "action_count": "abstraction",
    "action_localization": "memory",
    "action_prediction": "memory",
    "action_sequence": "memory",
    "moving_attribute": "semantics",
    "moving_direction": "physics",
    "object_existence": "semantics",
    "scene_transition": "memory",
    "state_change": "memory",
}
"""The area of Perception Test that is nearest to each task. All four areas occur."""


def write_mvbench(root: Path, per_task: int, seed: int = HELD_OUT) -> Path:
    """Write MVBench's layout: `json/<task>.json` and `video/<folder>/<file>`."""
    for task in TASKS:
        docs = []
        for number, question, pictures in questions(task, per_task, seed):
            name = f"{task}_{number}.mp4"
            save(root / "video" / MVBENCH_FOLDERS[task] / name, pictures, "short")
            docs.append(
                {
                    "video": name,
                    "question": question.text,
                    "candidates": list(question.options),
                    "answer": question.answer,
                }
            )
        write_json(root / "json" / f"{task}.json", docs)
    return entitled(root, "MVBench")


def write_mlvu(root: Path, per_task: int, seed: int = HELD_OUT + 1) -> Path:
    """Write MLVU's layout: `test.json` and `video/<video_name>`."""
    docs = []
    for task in TASKS:
        for number, question, pictures in questions(task, per_task, seed):
            name = f"{task}_{number}.mp4"
            save(root / "video" / name, pictures, "medium")
            options = "\n".join(f"({letter}) {option}" for letter, option in zip("ABCD", question.options, strict=True))
            docs.append(
                {
                    "video_name": name,
                    "question": f"{question.text}\n{options}",
                    "answer": question.letter,
                    "task_type": MLVU_TYPES[task],
                }
            )
    write_json(root / "test.json", docs)
    return entitled(root, "MLVU")


def write_videomme(root: Path, per_task: int, seed: int = HELD_OUT + 2) -> Path:
    """Write Video-MME's layout: `videomme/test.json` and `data/<videoID>.mp4`. The durations take turns."""
    docs: list[dict[str, Any]] = []
    for task in TASKS:
        for number, question, pictures in questions(task, per_task, seed):
            video = f"{task}_{number}"
            duration = list(DURATIONS)[number % len(DURATIONS)]
            save(root / "data" / f"{video}.mp4", pictures, duration)
            docs.append(
                {
                    "video_id": f"{len(docs):03d}",
                    "duration": duration,
                    "domain": "Knowledge",
                    "sub_category": "Technology",
                    "url": "",
                    "videoID": video,
                    "question_id": f"{len(docs):03d}-1",
                    "task_type": "Temporal Perception",
                    "question": question.text,
                    "options": [f"{letter}. {option}" for letter, option in zip("ABCD", question.options, strict=True)],
                    "answer": question.letter,
                }
            )
    write_json(root / "videomme" / "test.json", docs)
    return entitled(root, "Video-MME")


def write_longvideobench(root: Path, per_task: int, seed: int = HELD_OUT + 3) -> Path:
    """Write LongVideoBench's layout: `validation.json` and `videos/<video_path>`. Two duration groups take turns."""
    docs = []
    for task in TASKS:
        for number, question, pictures in questions(task, per_task, seed):
            name = f"{task}_{number}"
            duration, group = (("medium", 15), ("long", 60))[number % 2]
            save(root / "videos" / f"{name}.mp4", pictures, duration)
            docs.append(
                {
                    "id": name,
                    "video_id": name,
                    "video_path": f"{name}.mp4",
                    "subtitle_path": "",
                    "starting_timestamp_for_subtitles": 0.0,
                    "question": question.text,
                    **{f"option{i}": option for i, option in enumerate((*question.options, "N/A"))},
                    "correct_choice": question.options.index(question.answer),
                    "duration": UNITS * DURATIONS[duration] / FPS,
                    "duration_group": group,
                    "question_category": "SSS",
                    "topic_category": "KS-Knowledge-STEM",
                }
            )
    write_json(root / "validation.json", docs)
    return entitled(root, "LongVideoBench")


def write_egoschema(root: Path, per_task: int, seed: int = HELD_OUT + 4) -> Path:
    """Write EgoSchema's layout: `Subset/test.json` and `videos/<video_idx>.mp4`. The fifth option is always wrong."""
    docs: list[dict[str, Any]] = []
    for task in TASKS:
        for number, question, pictures in questions(task, per_task, seed):
            video = f"{task}_{number}"
            save(root / "videos" / f"{video}.mp4", pictures, "long")
            fifth = next(colour for colour in COLOURS if colour not in question.options)
            options = zip("ABCDE", (*question.options, fifth), strict=True)
            docs.append(
                {
                    "question_idx": str(len(docs)),
                    "question": question.text,
                    "video_idx": video,
                    "option": [f"{letter}. {option}" for letter, option in options],
                    "answer": str(question.options.index(question.answer)),
                }
            )
    write_json(root / "Subset" / "test.json", docs)
    return entitled(root, "EgoSchema")


def write_perceptiontest(root: Path, per_task: int, seed: int = HELD_OUT + 5) -> Path:
    """Write Perception Test's layout: `mc_question_val/validation.json` and `videos/<video_name>.mp4`.

    A question has three options: two of the wrong ones, and the right one in the first, second and third place in turn.
    """
    docs: list[dict[str, Any]] = []
    for task in TASKS:
        for number, question, pictures in questions(task, per_task, seed):
            video = f"{task}_{number}"
            save(root / "videos" / f"{video}.mp4", pictures, "medium")
            options = [option for option in question.options if option != question.answer][:2]
            options.insert(number % 3, question.answer)
            docs.append(
                {
                    "video_name": video,
                    "question": question.text,
                    "question_id": str(len(docs)),
                    "options": options,
                    "answer_id": str(number % 3),
                    "area": PERCEPTION_AREAS[task],
                    "reasoning": "descriptive",
                    "tag": [task],
                }
            )
    write_json(root / "mc_question_val" / "validation.json", docs)
    return entitled(root, "Perception Test")


WRITERS = {
    "mvbench": write_mvbench,
    "mlvu": write_mlvu,
    "videomme": write_videomme,
    "longvideobench": write_longvideobench,
    "egoschema": write_egoschema,
    "perceptiontest": write_perceptiontest,
}
"""By name of the benchmark."""


def questions(task: str, count: int, seed: int) -> Iterator[tuple[int, Question, np.ndarray]]:
    """Make questions of a task.

    Args:
        task: Key of TASKS.
        count: How many.
        seed: Seed of the scenes. A question depends only on seed, task and number.

    Yields:
        Number, question, and one picture per unit of time: RGB, uint8 [UNITS, SIZE, SIZE, 3].
    """
    for number in range(count):
        rng = np.random.default_rng([seed, list(TASKS).index(task), number])
        scene = draw_scene(rng)
        yield number, ask(scene, task, rng), render(scene)


def save(path: Path, pictures: np.ndarray, duration: str, zoom: int = ZOOM) -> None:
    """Write pictures as a video.

    Args:
        path: The file. Its directory is made.
        pictures: One per unit of time: RGB, uint8 [T, H, W, 3].
        duration: Key of DURATIONS: for how many frames each picture stays.
        zoom: How many pixels wide and high each pixel becomes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = pictures.repeat(DURATIONS[duration], axis=0).repeat(zoom, axis=1).repeat(zoom, axis=2)
    write_video(path, frames, FPS)


def entitled(root: Path, schema: str) -> Path:
    """Write a file that gives the questions in `root` their title. Return `root`."""
    title = {"title": f"MiniBench ({schema}'s schema)"}
    (root / FILE).write_text(json.dumps(title) + "\n", encoding="utf-8")
    return root


def write_json(path: Path, docs: list[dict[str, Any]]) -> None:
    """Write questions as a JSON list. The file's directory is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(docs, indent=1) + "\n", encoding="utf-8")
