import dataclasses

import pytest

from llava.conversation import Conversation, SeparatorStyle, conv_templates, default_conversation
from tests.golden import load_json, requires

TURNS = {
    "one_turn": ["<image>\nDescribe this video.", None],
    "two_turn": ["<image>\nWhat is it?", "A cat.", "What color?", None],
    "closed": ["Hi", "Hello."],
}


def ask(template: str, texts: list[str | None]) -> str:
    conv = conv_templates[template].copy()
    for i, text in enumerate(texts):
        conv.append_message(conv.roles[i % 2], text)
    return conv.get_prompt()


@requires("mm_utils/conversation.json")
def test_every_recorded_template_writes_the_recorded_prompts():
    for name, recorded in load_json("mm_utils/conversation.json")["templates"].items():
        conv = conv_templates[name]
        assert list(conv.roles) == recorded["roles"], name
        assert conv.sep_style.name == recorded["sep_style"], name
        assert len(conv.messages) == recorded["n_preset_messages"], name
        for key in ("sep", "sep2", "version", "offset", "stop_str", "stop_token_ids"):
            assert getattr(conv, key) == recorded[key], (name, key)
        for turns, texts in TURNS.items():
            if isinstance(recorded[turns], dict):  # upstream raised
                with pytest.raises(ValueError):
                    ask(name, texts)
            else:
                assert ask(name, texts) == recorded[turns], (name, turns)


@requires("mm_utils/conversation.json")
def test_every_template_is_known_upstream():
    assert set(conv_templates) <= set(load_json("mm_utils/conversation.json")["all_template_names"])


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


@pytest.mark.parametrize("style", [SeparatorStyle.LLAMA_3, SeparatorStyle.QWEN])
def test_a_style_without_a_format_is_an_error(style):
    with pytest.raises(ValueError, match=rf"{style.name}; there is one for SINGLE"):
        Conversation(system="", roles=("U", "A"), sep_style=style).get_prompt()
