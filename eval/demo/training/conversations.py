"""Write MiniBench's questions as training data for `scripts/finetune.py`: conversations about real video files.

    python -m eval.demo.training.conversations OUTPUT

The scenes are neither those of an evaluation nor those that the demo model was trained on.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..minibench import HELD_OUT, questions, save, write_json
from ..prompts import mvbench_prompt
from ..world import TASKS

SEED = 500_000
"""The demo model has learned from the seed 0."""


def write_conversations(root: Path, per_task: int, seed: int = SEED) -> Path:
    """Write `train.json` and `video/<task>_<number>.mp4`, with MVBench's prompts.

    Args:
        root: The directory.
        per_task: Questions of each task.
        seed: Seed of the scenes.

    Returns:
        The JSON file.

    Raises:
        ValueError: The seed is one of an evaluation.
    """
    if seed >= HELD_OUT:
        raise ValueError(f"--seed {seed}: scenes from seed {HELD_OUT} on are for evaluation only; take a smaller one")
    entries: list[dict[str, Any]] = []
    for task in TASKS:
        for number, question, pictures in questions(task, per_task, seed):
            name = f"{task}_{number}"
            save(root / "video" / f"{name}.mp4", pictures, "short")
            asked = {"from": "human", "value": f"<image>\n{mvbench_prompt(question)}"}
            answered = {"from": "gpt", "value": question.letter}
            entries.append({"id": name, "video": f"video/{name}.mp4", "conversations": [asked, answered]})
    write_json(root / "train.json", entries)
    return root / "train.json"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="write MiniBench's questions as training data")
    parser.add_argument("output", type=Path, help="directory for train.json and the videos")
    parser.add_argument("--per-task", type=int, default=200, help="questions of each task (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=SEED, help="seed of the scenes (default: %(default)s)")
    arguments = parser.parse_args()
    print(write_conversations(arguments.output, arguments.per_task, arguments.seed))


if __name__ == "__main__":
    main()
