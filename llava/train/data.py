"""Training data: conversations about videos, in the JSON of LLaVA-NeXT's `--data_path`, as token ids with labels.

A file is a list of entries such as

    {"id": "12", "video": "clips/12.mp4", "conversations": [
        {"from": "human", "value": "<image>\\nWhich colour flashes up first?"},
        {"from": "gpt", "value": "red"}]}

Prompts and frames are those of an evaluation. The labels are what the model has to write: the answers, each with the
text that ends it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from llava.constants import DEFAULT_IMAGE_TOKEN, IGNORE_INDEX
from llava.conversation import conv_templates
from llava.mm_utils import tokenizer_image_token
from llava.video import FrameSampling, read_video

SPEAKERS = {"human": 0, "user": 0, "gpt": 1, "assistant": 1}
"""Who speaks, by the names that data sets use: the user and the model in turn."""


@dataclass(frozen=True)
class Example:
    """A conversation about a video.

    Attributes:
        name: What messages call it.
        video: The video file.
        turns: Questions and answers in turn, as strings. The first one begins with the slot of the video.
    """

    name: str
    video: Path
    turns: tuple[str, ...]


def read_examples(file: Path, videos: Path | None = None) -> list[Example]:
    """Read a file of training data.

    Args:
        file: The JSON.
        videos: The directory of the videos; None for the one that the file is in.

    Returns:
        Its entries, in order. A slot anywhere in the first question is moved in front of it, as upstream does.

    Raises:
        OSError: The file, or a video of it, is not there.
        ValueError: It is no such JSON, or an entry is no conversation about one video.
    """
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no JSON: {error}") from error
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{file} must be a list of conversations, at least one")
    return [_example(entry, f"{file}, entry {i}", videos or file.parent) for i, entry in enumerate(entries)]


def _example(entry: Any, where: str, videos: Path) -> Example:
    if not isinstance(entry, dict) or not isinstance(entry.get("video"), str):
        raise ValueError(f'{where} has no "video": here every conversation is about one video file')
    said: Any = entry.get("conversations")
    try:
        turns = [(SPEAKERS[turn["from"]], turn["value"]) for turn in said]
        texts = [text for _, text in turns]
        slots = [text.count(DEFAULT_IMAGE_TOKEN) for text in texts[::2]]
    except (TypeError, KeyError, AttributeError):
        raise ValueError(
            f'{where}: "conversations" must be a list of {{"from": "human" or "gpt", "value": text}}'
        ) from None
    if not turns or [speaker for speaker, _ in turns] != [0, 1] * (len(turns) // 2):
        raise ValueError(f"{where}: human and gpt must speak in turn, gpt last")
    if slots != [1] + [0] * (len(slots) - 1):
        raise ValueError(f"{where}: the first question needs one {DEFAULT_IMAGE_TOKEN}, for the video, others none")
    if not texts[0].startswith(DEFAULT_IMAGE_TOKEN):
        texts[0] = f"{DEFAULT_IMAGE_TOKEN}\n{texts[0].replace(DEFAULT_IMAGE_TOKEN, '').strip()}"
    if empty := [i for i, text in enumerate(texts) if not text.replace(DEFAULT_IMAGE_TOKEN, "").strip()]:
        raise ValueError(f"{where}: turn {empty[0]} is empty")
    video = videos / entry["video"]
    if not video.is_file():
        raise FileNotFoundError(f"{where}: there is no video {video}")
    return Example(f"{where} ({entry.get('id', entry['video'])})", video, tuple(texts))


def ids_and_labels(example: Example, tokenizer: Any, template: str) -> tuple[list[int], list[int]]:
    """Write a conversation in a model's form.

    Args:
        example: The conversation.
        tokenizer: The model's tokenizer.
        template: Key of `conv_templates`.

    Returns:
        Token ids, with IMAGE_TOKEN_INDEX for the video, and labels: the ids of the answers and of what ends them,
        IGNORE_INDEX elsewhere.

    Raises:
        ValueError: The tokens of a prompt change when its answer is added. Then generating would never see them.
    """
    chat = conv_templates[template].copy()
    ids: list[int] = []
    labels: list[int] = []
    for question, answer in zip(example.turns[::2], example.turns[1::2], strict=True):
        chat.append_message(chat.roles[0], question)
        chat.append_message(chat.roles[1], None)
        prompt = chat.get_prompt()
        chat.messages[-1][1] = answer
        whole = chat.get_prompt()
        end = whole.index(chat.reply_end, whole.index(answer, len(prompt)) + len(answer)) + len(chat.reply_end)
        asked, answered = (tokenizer_image_token(text, tokenizer, slots=1) for text in (prompt, whole[:end]))
        if asked[: len(ids)] != ids or answered[: len(asked)] != asked:
            raise ValueError(
                f"{example.name}: the tokens before {answer!r} are others than without it, with template {template!r}: "
                "take the template that the model was trained with"
            )
        labels += [IGNORE_INDEX] * (len(asked) - len(ids)) + answered[len(asked) :]
        ids = answered
    return ids, labels


class VideoConversations(Dataset[dict[str, Any]]):
    """Training examples, read when they are asked for: ids, labels and pixels of a conversation.

    Args:
        examples: The conversations.
        tokenizer: The model's tokenizer.
        processor: The tower's image processor.
        sampling: Which frames are used.
        template: Key of `conv_templates`.
    """

    def __init__(
        self, examples: Sequence[Example], tokenizer: Any, processor: Any, sampling: FrameSampling, template: str
    ):
        self.examples, self.tokenizer, self.processor = examples, tokenizer, processor
        self.sampling, self.template = sampling, template

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, number: int) -> dict[str, Any]:
        example = self.examples[number]
        ids, labels = ids_and_labels(example, self.tokenizer, self.template)
        frames = read_video(example.video, self.sampling).frames
        pixels = self.processor.preprocess(frames, return_tensors="pt")["pixel_values"]
        return {"ids": torch.tensor(ids), "labels": torch.tensor(labels), "pixels": pixels}


def collate(examples: Sequence[dict[str, Tensor]]) -> dict[str, Any]:
    """Make a batch of examples: what the model's forward takes, padded on the right.

    The mask tells what is padding. The model looks at nothing else there.
    """
    ids, labels = ([example[name] for example in examples] for name in ("ids", "labels"))
    return {
        "input_ids": pad_sequence(ids, batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORE_INDEX),
        "attention_mask": pad_sequence([torch.ones_like(one) for one in ids], batch_first=True),
        "images": [example["pixels"] for example in examples],
        "modalities": ["video"] * len(examples),
    }
