"""The prompts of MVBench, MLVU and Video-MME for MiniBench's questions, exactly as lmms-eval makes them."""

from __future__ import annotations

from .world import Question


def mvbench_prompt(q: Question) -> str:
    """MVBench's prompt for a question."""
    options = "".join(f"({letter}) {option}\n" for letter, option in zip("ABCD", q.options, strict=True))
    return f"Question:{q.text}\nOption:\n{options}Only give the best option.\n"


def mlvu_prompt(q: Question) -> str:
    """MLVU's prompt for a question."""
    options = "\n".join(f"({letter}) {option}" for letter, option in zip("ABCD", q.options, strict=True))
    return f"{q.text}\n{options}\nOnly give the best option.\nBest option: ("


def videomme_prompt(q: Question) -> str:
    """Video-MME's prompt for a question."""
    options = "\n".join(f"{letter}. {option}" for letter, option in zip("ABCD", q.options, strict=True))
    return (
        "Select the best answer to the following multiple-choice question based on the video and the subtitles. "
        "Respond with only the letter (A, B, C, or D) of the correct option.\n"
        f"{q.text}\n{options}\n\nAnswer with the option's letter from the given choices directly."
    )
