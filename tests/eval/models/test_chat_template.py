"""The chat template of the demo models makes the prompts that they were trained on."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from eval.models.chat_template import CHAT
from eval.models.packaged import DEMO_MODELS
from llava.conversation import conv_templates


@pytest.mark.parametrize("model", DEMO_MODELS.values(), ids=DEMO_MODELS)
def test_a_chat_is_the_conversation(model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    assert tokenizer.chat_template.strip() == CHAT
    expected = conv_templates["qwen_1_5"].copy()
    turns = [("user", "<image>\nWhat?"), ("assistant", "A cat."), ("user", "Where?")]
    for role, text in turns:
        expected.append_message(expected.roles[role == "assistant"], text)
    expected.append_message(expected.roles[1], None)
    chat = [{"role": role, "content": text} for role, text in turns]
    assert tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == expected.get_prompt()
