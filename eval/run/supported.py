"""Whether a task of lmms-eval is one that can be run here: about one video, with answers that its own code scores."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ..benchmarks.any_task import averaging
from ..results.sample import NO_ANSWER
from .questions import NoQuestions


class NeedsNetwork(BaseException):
    """A task's scorer asks another machine.

    It is no Exception, because scorers catch those and try again for minutes.
    """


@contextmanager
def without_network() -> Iterator[None]:
    """Raise NeedsNetwork where the block connects to another machine, or looks up its name."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        host = next((arg for arg in args if isinstance(arg, (str, tuple))), "")
        raise NeedsNetwork(str(host[0] if isinstance(host, tuple) else host))

    looking_up, connecting = socket.getaddrinfo, socket.socket.connect
    socket.getaddrinfo, socket.socket.connect = refuse, refuse  # type: ignore[method-assign]
    try:
        yield
    finally:
        socket.getaddrinfo, socket.socket.connect = looking_up, connecting  # type: ignore[method-assign]


def video_of(visuals: Any, whose: str) -> str:
    """Return the path of the one video that a task's doc_to_visual gives.

    Args:
        visuals: What it gives.
        whose: Task and question, for the message.

    Raises:
        TypeError: It is anything else.
    """
    if not visuals:
        raise TypeError(f"{whose} has no video")
    if not isinstance(visuals, list) or len(visuals) != 1 or not isinstance(visuals[0], str):
        first = visuals[0] if isinstance(visuals, list) else visuals
        many = f"{len(visuals)} x {type(first).__name__}" if isinstance(visuals, list) else type(first).__name__
        raise TypeError(f"{whose} has {many} for a video; one file's path is supported")
    return visuals[0]


def require_supported(name: str, task: Any) -> None:
    """Check, on its first question, that a task is about one video and is scored by its own code.

    Args:
        name: lmms-eval's name of the task.
        task: lmms-eval's task object, with its questions loaded.

    Raises:
        NoQuestions: It is anything else.
    """
    if reason := _unsupported(name, task):
        raise NoQuestions(f"{name} cannot be run here: {reason}")


def _unsupported(name: str, task: Any) -> str:
    """Return why a task cannot be run here, or ""."""
    if task.OUTPUT_TYPE != "generate_until":
        return f"its output_type is {task.OUTPUT_TYPE}, and only generate_until is supported"
    doc = task.eval_docs[0]
    try:
        with suppress(SystemExit):  # lmms-eval's tasks exit where a video is missing
            visuals = task.doc_to_visual(doc)
            if visuals != []:  # which some of them give for a missing video
                video_of(visuals, "its first question")
        text = task.doc_to_text(doc)
    except Exception as error:  # lmms-eval's code raises errors of any kind
        return f"its first question cannot be asked ({type(error).__name__}: {error})"
    if not isinstance(text, str):
        return f"its first question is a {type(text).__name__}, no text"
    metric = next(iter(task.aggregation()), None)
    if metric is None:
        return "it has no metric"
    if not task.higher_is_better()[metric]:
        return f"a lower {metric} is better, so that no share of right answers can be told"
    score = task.config.process_results
    try:
        with without_network():
            for answer in (NO_ANSWER, "A", "yes") if score is not None else ():
                averaging(task, metric)([score(doc, [answer])[metric]])
    except NeedsNetwork as asked:
        return f"scoring it asks another machine ({asked}); only tasks that score by themselves are supported"
    except Exception as error:
        return f"answers to its first question cannot be scored ({type(error).__name__}: {error})"
    return ""
