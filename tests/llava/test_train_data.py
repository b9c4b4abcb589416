"""Training data: the entries of a file, and what a conversation is in tokens and labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from eval.demo.minibench import HELD_OUT
from eval.demo.training.conversations import SEED, write_conversations
from eval.models import protocol_for
from eval.models.packaged import DEMO_MODEL
from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.conversation import conv_templates
from llava.mm_utils import tokenizer_image_token
from llava.model.multimodal_encoder.siglip_processor import SigLipImageProcessor
from llava.train import Example, VideoConversations, collate, read_examples
from llava.train.data import ids_and_labels
from llava.video import FrameSampling, VideoError

HUMAN = {"from": "human", "value": "<image>\nWhat happens?\n"}
GPT = {"from": "gpt", "value": "A car stops."}
STOPS = {"qwen_1_5": "<|im_end|>", "v1": "</s>", "llava_llama_3": "<|eot_id|>", "llama_2": " </s>", "v0": "###"}
"""What ends an answer in some templates."""


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(DEMO_MODEL)


def written(folder: Path, entries: Any) -> Path:
    (folder / "clip.mp4").touch()
    (folder / "train.json").write_text(entries if isinstance(entries, str) else json.dumps(entries), encoding="utf-8")
    return folder / "train.json"


def entry(*turns: Any, **more: Any) -> dict[str, Any]:
    return {"id": "7", "video": "clip.mp4", "conversations": list(turns) or [HUMAN, GPT], **more}


def test_entries(tmp_path):
    behind = {"from": "user", "value": "What happens?\n<image>"}
    more = [{"from": "human", "value": "And then?"}, {"from": "assistant", "value": "It goes."}]
    first, second = read_examples(written(tmp_path, [entry(), entry(behind, GPT, *more)]))
    assert first.turns == ("<image>\nWhat happens?\n", "A car stops.")  # as it stands: an evaluation asks so
    assert second.turns == ("<image>\nWhat happens?", "A car stops.", "And then?", "It goes.")
    assert first.video == tmp_path / "clip.mp4"
    assert first.name.endswith("entry 0 (7)")
    with pytest.raises(FileNotFoundError, match=r"entry 0: there is no video .*elsewhere.clip.mp4"):
        read_examples(tmp_path / "train.json", tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ("[", "is no JSON"),
        ({}, "must be a list"),
        ([], "must be a list"),
        ([[]], 'entry 0 has no "video"'),
        ([entry(), entry(video=None)], 'entry 1 has no "video"'),
        ([entry(video="other.mp4")], "there is no video"),
        ([entry(conversations=None)], '"conversations" must be a list'),
        ([entry({"from": "system", "value": "x"}, GPT)], '"conversations" must be a list'),
        ([entry({"from": "human", "value": None}, GPT)], '"conversations" must be a list'),
        ([entry(conversations=[])], "in turn"),
        ([entry(HUMAN)], "gpt last"),
        ([entry(GPT, HUMAN)], "in turn"),
        ([entry({"from": "human", "value": "What?"}, GPT)], "needs one <image>"),
        ([entry(HUMAN, GPT, HUMAN, GPT)], "needs one <image>"),
        ([entry({"from": "human", "value": "<image>\n"}, GPT)], "turn 0 is empty"),
        ([entry(HUMAN, {"from": "gpt", "value": " "})], "turn 1 is empty"),
    ],
)
def test_entries_that_are_none(tmp_path, entries, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_examples(written(tmp_path, entries))


class Characters:
    """A tokenizer that has a token for each character, and a BOS token in front."""

    bos_token_id = 0

    def __call__(self, text: str) -> Any:
        return type("Encoded", (), {"input_ids": [0, *map(ord, text)]})()


@pytest.mark.parametrize("template", sorted(STOPS))
def test_labels_are_the_answers_with_their_ends(template):
    turns = ("<image>\nWhich?", "red", "And then?", "blue and red")
    ids, labels = ids_and_labels(Example("one", Path("x"), turns), Characters(), template)
    assert len(ids) == len(labels)
    spans = "".join("\0" if label == IGNORE_INDEX else chr(label) for label in labels)
    learned = [span.strip() for span in spans.split("\0") if span]
    assert learned == [f"red{STOPS[template]}", f"blue and red{STOPS[template]}"]
    assert [one for one, label in zip(ids, labels, strict=True) if label != IGNORE_INDEX] == [
        label for label in labels if label != IGNORE_INDEX
    ]
    chat = conv_templates[template].copy()
    for i, turn in enumerate(turns):
        chat.append_message(chat.roles[i % 2], turn)
    whole = tokenizer_image_token(chat.get_prompt(), Characters(), slots=1)
    assert whole[: len(ids)] == ids
    assert ids.count(IMAGE_TOKEN_INDEX) == 1


def test_the_prompt_is_that_of_an_evaluation(tokenizer):
    question = "Which colour flashes up first?\n(A) red\n(B) <image>\n"
    ids, labels = ids_and_labels(Example("one", Path("x"), (f"<image>\n{question}", "A")), tokenizer, "qwen_1_5")
    prompt = protocol_for(str(DEMO_MODEL)).prompt(question, [], 0.0)
    asked = tokenizer_image_token(prompt, tokenizer, slots=1)
    assert ids[: len(asked)] == asked
    assert labels == [IGNORE_INDEX] * len(asked) + ids[len(asked) :]
    assert ids[len(asked) :] == [tokenizer.convert_tokens_to_ids("A"), tokenizer.eos_token_id]


class Pairs(Characters):
    """Two characters make a token."""

    def __call__(self, text: str) -> Any:
        pairs = [text[i : i + 2] for i in range(0, len(text), 2)]
        return type("Encoded", (), {"input_ids": [0, *(sum(map(ord, pair)) for pair in pairs)]})()


def test_tokens_that_change_with_the_answer_are_refused():
    """Of two prompts that differ by a character, one ends in the middle of a token."""
    prompts = {question: f"<image>\n{question}" for question in ("Which?", "Which ?")}
    chats = {question: protocol_for(str(DEMO_MODEL)).prompt(question, [], 0.0) for question in prompts}
    (torn,) = (question for question, chat in chats.items() if len(chat.split("<image>")[1]) % 2)
    (whole,) = prompts.keys() - {torn}
    ids_and_labels(Example("entry 3", Path("x"), (prompts[whole], "red")), Pairs(), "qwen_1_5")
    with pytest.raises(ValueError, match=r"^entry 3: the tokens before 'red' are others than without it"):
        ids_and_labels(Example("entry 3", Path("x"), (prompts[torn], "red")), Pairs(), "qwen_1_5")


def test_a_batch(tmp_path, tokenizer):
    """Two conversations about a real video, padded on the right."""
    file = write_conversations(tmp_path, 1)
    examples = read_examples(file)
    longer = Example("two", examples[0].video, (*examples[0].turns, "Are you sure?", "Yes"))
    processor = SigLipImageProcessor(size=(72, 72))
    data = VideoConversations([examples[0], longer], tokenizer, processor, FrameSampling("uniform", max_frames=4), "v1")
    one, two = data[0], data[1]
    batch = collate([one, two])
    short = len(one["ids"])
    assert [len(data), len(batch["images"])] == [2, 2]
    assert batch["modalities"] == ["video", "video"]
    assert batch["images"][0].shape == (4, 3, 72, 72)
    assert torch.equal(batch["images"][0], batch["images"][1])
    assert torch.equal(batch["input_ids"][0, :short], one["ids"])
    assert torch.equal(batch["labels"][1], two["labels"])
    assert (batch["labels"][0, short:] == IGNORE_INDEX).all()
    assert batch["attention_mask"].sum(1).tolist() == [short, len(two["ids"])]
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    broken = Example("three", tmp_path / "broken.mp4", examples[0].turns)
    with pytest.raises(VideoError, match=r"broken\.mp4"):
        VideoConversations([broken], tokenizer, processor, data.sampling, "v1")[0]


def test_training_never_sees_a_scene_of_an_evaluation(tmp_path):
    assert 0 < SEED < HELD_OUT
    with pytest.raises(ValueError, match=f"--seed {HELD_OUT}: scenes from seed {HELD_OUT} on are for evaluation only"):
        write_conversations(tmp_path, 1, HELD_OUT)
    assert not list(tmp_path.iterdir())
