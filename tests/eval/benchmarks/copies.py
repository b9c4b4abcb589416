"""Small local copies of benchmarks that MiniBench does not write: its scenes and questions in their schemas."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.demo.minibench import write_perceptiontest


@dataclass(frozen=True)
class Asked:
    """A question of three options about a video."""

    number: int
    video: str  # without suffix
    question: str
    options: list[str]
    right: int

    @property
    def letter(self) -> str:
        return "ABC"[self.right]

    def lines(self, form: str) -> str:
        """The options in lines, such as form "({}) {}"."""
        return "\n".join(form.format(letter, option) for letter, option in zip("ABC", self.options, strict=True))


def source(root: Path) -> list[Asked]:
    """Write nine videos below root/videos, and return a question on each. Each letter is right three times."""
    write_perceptiontest(root, 1)
    docs = json.loads((root / "mc_question_val/validation.json").read_text(encoding="utf-8"))
    asked = []
    for number, doc in enumerate(docs):
        turn = (number + int(doc["answer_id"])) % 3
        options = doc["options"][turn:] + doc["options"][:turn]
        right = options.index(doc["options"][int(doc["answer_id"])])
        asked.append(Asked(number, doc["video_name"], doc["question"], options, right))
    assert sorted(one.letter for one in asked) == list("AAABBBCCC")
    return asked


def put(file: Path, docs: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(docs), encoding="utf-8")


def videos(root: Path, asked: list[Asked], data: Path, name: Callable[[Asked], str]) -> None:
    """Copy the videos to data/<name>.mp4."""
    for one in asked:
        file = data / f"{name(one)}.mp4"
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / "videos" / f"{one.video}.mp4", file)


MLVU_TEST_TYPES = (
    *("anomaly_reco", "count", "ego", "needleQA", "order", "plotQA", "sportsQA", "topic_reasoning", "tutorialQA"),
)


def mlvu_test(root: Path, asked: list[Asked], data: Path) -> None:
    videos(root, asked, data, lambda one: one.video)
    docs = [
        {
            "video_name": f"{one.video}.mp4",
            "question": f"{one.question}\n{one.lines('({}) {}')}",
            "answer": one.letter,
            "task_type": MLVU_TEST_TYPES[one.number],
        }
        for one in asked
    ]
    put(data / "test.json", docs)


def srt(words: str) -> str:
    return f'1\n00:00:00,000 --> 00:00:02,000\n<font color="white" size=".72c">{words}</font>\n\n'


def videomme_w_subtitle(root: Path, asked: list[Asked], data: Path) -> None:
    """All videos but the last have subtitles."""
    videos(root, asked, data, lambda one: f"data/{one.video}")
    docs = [
        {
            "video_id": str(one.number),
            "duration": ("short", "medium", "long")[one.number % 3],
            "url": "",
            "domain": "Knowledge",
            "sub_category": "Technology",
            "videoID": one.video,
            "question_id": str(one.number),
            "task_type": "Temporal Reasoning",
            "question": one.question,
            "answer": one.letter,
            "options": [f"{letter}. {option}" for letter, option in zip("ABC", one.options, strict=True)],
        }
        for one in asked
    ]
    put(data / "videomme/test.json", docs)
    (data / "subtitle").mkdir()
    for one in asked[:-1]:
        (data / f"subtitle/{one.video}.srt").write_text(srt(f"spoken {one.number}"))


STRUCTURES = ("[1, 2, 3, 4]", "[1, [2, 3], 4]")


def videomme_v2(root: Path, asked: list[Asked], data: Path) -> None:
    """Two groups of four questions, each on one video: a relevance group, and a logic group."""
    docs = []
    for one in asked[:8]:
        group = one.number // 4
        docs.append(
            {
                "video_id": f"{group:03d}",
                "question_id": f"{group:03d}-{one.number % 4 + 1}",
                "question": one.question,
                "options": one.lines("{}. {}"),
                "answer": one.letter,
                "group_type": ("relevance", "logic")[group],
                "group_structure": STRUCTURES[group],
                "level": group + 1,
                "second_head": f"second {group}",
                "third_head": f"third {group}",
            }
        )
    put(data / "test.json", docs)
    videos(root, [asked[0], asked[4]], data, lambda one: f"{one.number // 4:03d}")


def videomme_v2_w_subtitle(root: Path, asked: list[Asked], data: Path) -> None:
    videomme_v2(root, asked, data)
    (data / "subtitle").mkdir()
    words = [{"text": word, "start_time": 0.0, "end_time": 1.0} for word in ("spoken", "here")]
    (data / "subtitle/001.jsonl").write_text("".join(json.dumps(word) + "\n" for word in words))


def longvideobench_val_i(root: Path, asked: list[Asked], data: Path) -> None:
    videos(root, asked, data, lambda one: f"videos/{one.video}")
    docs = [
        {
            "id": str(one.number),
            "video_path": f"{one.video}.mp4",
            "question": one.question,
            **{f"option{i}": option for i, option in enumerate([*one.options, "N/A", "N/A"])},
            "correct_choice": one.right,
            "duration": 4.0,
            "duration_group": (15, 60)[one.number % 2],
            "question_category": "S2E",
            "subtitle_path": f"{one.video}.json",
            "starting_timestamp_for_subtitles": 0.0,
        }
        for one in asked
    ]
    put(data / "validation.json", docs)
    for one in asked:
        line = {"start": "00:00:00.500", "end": "00:00:02.500", "line": f"spoken {one.number}"}
        put(data / f"subtitles/{one.video}.json", [line])


def lvbench(root: Path, asked: list[Asked], data: Path) -> None:
    videos(root, asked, data, lambda one: f"all_videos/{one.video}")
    docs = [
        {
            "video_path": f"{one.video}.mp4",
            "answer": one.letter,
            "type": ("sport", "cartoon")[one.number % 2],
            "question": f"{one.question}\n{one.lines('({}) {}')}",
        }
        for one in asked
    ]
    put(data / "train.json", docs)


def tempcompass(root: Path, asked: list[Asked], data: Path) -> None:
    videos(root, asked, data, lambda one: f"videos/{one.video}")
    configs: dict[str, list[dict[str, Any]]] = {"multi-choice": [], "yes_no": [], "caption_matching": []}
    for one in asked:
        common = {"video_id": one.video, "dim": ("speed", "order")[one.number % 2]}
        right = one.options[one.right]
        choice = {"question": f"{one.question}\n{one.lines('{}. {}')}", "answer": f"{one.letter}. {right}"}
        yes = {"question": f"{one.question} Is it {right}?", "answer": ("yes", "no")[one.number % 2]}
        caption = {
            "question": f"{one.question}\n{one.lines('Caption {}: {}')}",
            "answer": f"Caption {one.letter}: {right}",
        }
        for config, doc in zip(configs, (choice, yes, caption), strict=True):
            configs[config].append({**common, **doc})
    for config, docs in configs.items():
        put(data / config / "test.json", docs)


def motionbench(root: Path, asked: list[Asked], data: Path) -> None:
    """A video has two questions, of which one has no public answer."""
    videos(root, asked, data, lambda one: f"public-dataset/{one.video}")
    rows = [
        {
            "question_type": ("Motion Recognition", "Repetition Count")[one.number % 2],
            "video_type": "made",
            "video_path": f"{one.video}.mp4",
            "key": one.video,
            "qa": [
                {"uid": f"{one.number}-0", "question": f"{one.question}\n{one.lines('{}. {}')}", "answer": one.letter},
                {"uid": f"{one.number}-1", "question": f"{one.question}\n{one.lines('{}. {}')}", "answer": "NA"},
            ],
        }
        for one in asked
    ]
    data.mkdir(exist_ok=True)
    (data / "video_info.meta.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


TVBENCH_OF = {"action_sequence": range(5), "scene_transition": range(5, 9)}


def tvbench(root: Path, asked: list[Asked], data: Path) -> None:
    """Two of the ten tasks."""
    for task, numbers in TVBENCH_OF.items():
        own = [asked[number] for number in numbers]
        videos(root, own, data, lambda one, task=task: f"video/{task}/{one.video}")  # type: ignore[misc]
        docs = [
            {
                "video": f"{one.video}.mp4",
                "question": one.question,
                "candidates": one.options,
                "answer": one.options[one.right],
            }
            for one in own
        ]
        put(data / f"json/{task}.json", docs)


def tomato(root: Path, asked: list[Asked], data: Path) -> None:
    videos(root, asked, data, lambda one: f"videos/human/{one.video}")
    docs = [
        {
            "id": str(one.number),
            "video_path": f"human/{one.video}.mp4",
            "question": one.question,
            "options": one.options,
            "answer": one.right,
            "demonstration_type": "human",
            "reason_type": ("rotation", "count")[one.number % 2],
        }
        for one in asked
    ]
    put(data / "test.json", docs)


def video_mmmu(root: Path, asked: list[Asked], data: Path) -> None:
    """One question of Adaptation is open."""
    for number, config in enumerate(("Perception", "Comprehension", "Adaptation")):
        own = asked[3 * number : 3 * number + 3]
        name = f"validation_Physics_{number}"
        videos(root, own, data, lambda one, name=name: f"Science/{name}{one.number}")  # type: ignore[misc]
        docs: list[dict[str, Any]] = [
            {
                "id": f"{name}{one.number}",
                "question": one.question,
                "options": one.options,
                "answer": one.letter,
                "question_type": "multiple-choice",
            }
            for one in own
        ]
        if config == "Adaptation":
            docs[1] |= {"question_type": "open", "options": [], "answer": "7"}
        put(data / config / "test.json", docs)


COPIES: dict[str, Callable[[Path, list[Asked], Path], None]] = {
    write.__name__: write
    for write in (
        *(mlvu_test, videomme_w_subtitle, videomme_v2, videomme_v2_w_subtitle, longvideobench_val_i, lvbench),
        *(tempcompass, motionbench, tvbench, tomato, video_mmmu),
    )
}
"""By name of the benchmark, what writes its copy: from the source's folder and questions, to a directory."""
