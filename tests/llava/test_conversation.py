import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from llava.conversation import Conversation, SeparatorStyle, conv_templates, default_conversation
from tests.golden import load_json, requires

TURNS = {
    "one_turn": ["<image>\nDescribe this video.", None],
    "two_turn": ["<image>\nWhat is it?", "A cat.", "What color?", None],
    "closed": ["Hi", "Hello."],
    "spaces": [" <image>\nHi ", "  Hello. \n", "So? ", None],
}
RECORDED = json.loads(Path(__file__).with_name("prompts.json").read_text(encoding="utf-8"))
"""What upstream writes for the templates that were not recorded."""


def ask(template: str, texts: list[str | None]) -> str:
    conv = conv_templates[template].copy()
    for i, text in enumerate(texts):
        conv.append_message(conv.roles[i % 2], text)
    return conv.get_prompt()


def assert_written_as(recorded: dict[str, Any], name: str) -> None:
    conv = conv_templates[name]
    assert list(conv.roles) == recorded["roles"]
    assert conv.sep_style.name == recorded["sep_style"]
    assert len(conv.messages) == recorded["n_preset_messages"]
    for key in ("sep", "sep2", "version", "offset", "stop_str", "stop_token_ids"):
        assert getattr(conv, key) == recorded[key], key
    for turns in TURNS.keys() & recorded.keys():
        if isinstance(recorded[turns], dict):  # upstream raised
            with pytest.raises(ValueError):
                ask(name, TURNS[turns])
        else:
            assert ask(name, TURNS[turns]) == recorded[turns], turns


@requires("mm_utils/conversation.json")
def test_every_recorded_template_writes_the_recorded_prompts():
    for name, recorded in load_json("mm_utils/conversation.json")["templates"].items():
        assert_written_as(recorded, name)


@pytest.mark.parametrize("name", RECORDED["templates"])
def test_templates_of_older_language_models(name):
    assert_written_as(RECORDED["templates"][name], name)


def test_templates_are_upstreams():
    assert sorted(conv_templates) == RECORDED["names"]


@requires("mm_utils/conversation.json")
def test_upstreams_names_are_the_recorded_ones():
    assert load_json("mm_utils/conversation.json")["all_template_names"] == RECORDED["names"]


def test_a_copied_llama_3_conversation_still_writes():
    """Upstream's copy loses the tokenizer that writes its prompts."""
    conv = conv_templates["llava_llama_3"].copy()
    conv.append_message(conv.roles[0], "Hi")
    conv.append_message(conv.roles[1], None)
    assert conv.get_prompt().endswith("Hi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n")


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("qwen_1_5", "qwen_2"),
        ("default", "v0"),
        ("vicuna_v1", "v1"),
        ("v0_plain", "plain"),
        ("mistral_direct", "chatml_direct"),
    ],
)
def test_aliases_are_the_same_object(alias, name):
    assert conv_templates[alias] is conv_templates[name]


def test_qwen_prompt_ends_where_the_model_goes_on():
    assert ask("qwen_1_5", TURNS["one_turn"]) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n<image>\nDescribe this video.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_what_ends_a_reply():
    """It stands between a reply and the next question, of whatever style."""
    assert {conv_templates[name].reply_end for name in ("qwen_1_5", "vicuna_v1", "llama_2", "gemma_instruct")} == {
        *("<|im_end|>", "</s>", "<end_of_turn>\n")
    }
    for name, conv in conv_templates.items():
        if conv.sep_style != SeparatorStyle.PLAIN:
            _, _, after = ask(name, ["Hi", "REPLY", "And then?"]).partition("REPLY")
            assert after.strip(" ").startswith(conv.reply_end.strip(" ")), name


def test_an_empty_text_is_an_open_turn_like_none():
    for name in conv_templates:
        assert ask(name, ["Hi", ""]) == ask(name, ["Hi", None])


def test_a_copy_has_turns_of_its_own():
    conv = default_conversation.copy()
    conv.append_message(conv.roles[0], "Hi")
    conv.messages[0][1] = "changed"
    assert len(default_conversation.messages) == default_conversation.offset == 2
    assert default_conversation.messages[0][1] != "changed"


def test_messages_are_role_and_text_pairs():
    conv = conv_templates["vicuna_v1"].copy()
    conv.append_message("USER", "Hi")
    conv.append_message("ASSISTANT", None)
    assert conv.messages == [["USER", "Hi"], ["ASSISTANT", None]]


@pytest.mark.parametrize("style", [SeparatorStyle.TWO, SeparatorStyle.PLAIN, SeparatorStyle.LLAMA_2])
def test_a_reply_without_its_separator_is_an_error(style):
    conv = Conversation(system="", roles=("U", "A"), messages=[["U", "Hi"], ["A", "Hello."]], sep_style=style)
    with pytest.raises(ValueError, match=f"{style.name} needs sep2"):
        conv.get_prompt()
    assert dataclasses.replace(conv, sep2="</s>").get_prompt().endswith("</s>")


def test_a_style_without_a_format_is_an_error():
    with pytest.raises(ValueError, match=r"QWEN; there is one for SINGLE"):
        Conversation(system="", roles=("U", "A"), sep_style=SeparatorStyle.QWEN).get_prompt()
