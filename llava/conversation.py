"""Prompt templates: each language model family writes the turns of a conversation in its own form.

Names, fields and prompts are those of upstream's `llava/conversation.py`. `conv_templates` holds the templates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Any


class SeparatorStyle(Enum):
    """The forms in which turns are joined. No template uses QWEN: `get_prompt` refuses it."""

    SINGLE = auto()
    TWO = auto()
    MPT = auto()
    PLAIN = auto()
    CHATML = auto()
    LLAMA_2 = auto()
    LLAMA_3 = auto()
    QWEN = auto()
    GEMMA = auto()


@dataclass
class Conversation:
    """A template and the turns so far.

    Attributes:
        system: System text.
        roles: What stands before the user's and the assistant's turns.
        messages: [role, text] pairs; user and assistant alternate. A text of None or "" marks the turn that the model
            writes next.
        offset: How many of the first messages are the template's own examples.
        sep_style: How the turns are joined.
        sep: Separator after a turn.
        sep2: Separator after the assistant's turn, in the styles TWO, PLAIN and LLAMA_2.
        version: Upstream's name of the prompt version.
        stop_str: Text that ends generation. Upstream's field; no template here sets it.
        stop_token_ids: Token ids that end generation.
    """

    system: str
    roles: tuple[str, str]
    messages: list[list[Any]] = field(default_factory=list)
    offset: int = 0
    sep_style: SeparatorStyle = SeparatorStyle.SINGLE
    sep: str = "###"
    sep2: str | None = None
    version: str = "Unknown"
    stop_str: str | None = None
    stop_token_ids: list[int] | None = None

    def get_prompt(self) -> str:
        """Write the whole conversation as one string.

        Returns:
            The prompt. It ends where the model writes next if the last text is None.

        Raises:
            ValueError: If there is no form for `sep_style`, or if the style needs `sep2` and there is none.
        """
        try:
            render = _RENDERERS[self.sep_style]
        except KeyError:
            known = ", ".join(style.name for style in _RENDERERS)
            raise ValueError(f"no prompt format for {self.sep_style}; there is one for {known}") from None
        return render(self)

    @property
    def reply_end(self) -> str:
        """The separator after a reply of the model, which ends it. Styles TWO, PLAIN and LLAMA_2 have one of their own.

        Raises:
            ValueError: If the style needs `sep2` and there is none.
        """
        if self.sep_style not in (SeparatorStyle.TWO, SeparatorStyle.PLAIN, SeparatorStyle.LLAMA_2):
            return self.sep
        if self.sep2 is None:
            raise ValueError(f"style {self.sep_style.name} needs sep2 to close a reply, but this conversation has none")
        return self.sep2

    def append_message(self, role: str, message: str | None) -> None:
        """Add a turn.

        Args:
            role: One of `roles`.
            message: Its text, or None for the turn that the model writes next.
        """
        self.messages.append([role, message])

    def copy(self) -> Conversation:
        """Return a copy with its own list of turns."""
        return replace(self, messages=[list(turn) for turn in self.messages])


def _turns(conv: Conversation) -> list[tuple[bool, str, str | None]]:
    """Return (is it the user's?, role, text) of every turn. Position decides, as both roles may have one name."""
    return [(i % 2 == 0, role, text) for i, (role, text) in enumerate(conv.messages)]


def _single(conv: Conversation) -> str:
    turns = (f"{role}: {text}{conv.sep}" if text else f"{role}:" for _, role, text in _turns(conv))
    return conv.system + conv.sep + "".join(turns)


def _two(conv: Conversation) -> str:
    prompt = conv.system + conv.sep
    for user, role, text in _turns(conv):
        prompt += f"{role}: {text}{conv.sep if user else conv.reply_end}" if text else f"{role}:"
    return prompt


def _mpt(conv: Conversation) -> str:
    turns = (role + text + conv.sep if text else role for _, role, text in _turns(conv))
    return conv.system + conv.sep + "".join(turns)


def _plain(conv: Conversation) -> str:
    return "".join(text + (conv.sep if user else conv.reply_end) for user, _, text in _turns(conv) if text)


def _chatml(conv: Conversation) -> str:
    system = f"{conv.system}{conv.sep}\n" if conv.system else ""
    turns = (f"{role}\n{text}{conv.sep}\n" if text else f"{role}\n" for _, role, text in _turns(conv))
    return system + "".join(turns)


def _llama_2(conv: Conversation) -> str:
    prompt = ""
    system = f"<<SYS>>\n{conv.system}\n<</SYS>>\n\n" if conv.system else ""
    for i, (user, _, text) in enumerate(_turns(conv)):
        if not text:
            continue
        if user:
            # The first question carries the system text and no separator: the tokenizer adds the first <s>.
            prompt += f"[INST] {system}{text} [/INST]" if i == 0 else f"{conv.sep}[INST] {text} [/INST]"
        else:
            prompt += f" {text} {conv.reply_end}"
    return prompt


def _llama_3(conv: Conversation) -> str:
    # The form of the Llama 3 tokenizer's chat template. It always ends with the head of the model's turn.
    turns = [("system", conv.system), *((role, text) for _, role, text in _turns(conv) if text)]
    head = "<|start_header_id|>{}<|end_header_id|>\n\n".format
    written = "".join(f"{head(role)}{text.strip()}{conv.sep}" for role, text in turns)
    return f"<|begin_of_text|>{written}{head(conv.roles[1])}"


def _gemma(conv: Conversation) -> str:
    # Gemma has no system turn.
    return "".join(role + text + conv.sep if text else role for _, role, text in _turns(conv))


_RENDERERS: dict[SeparatorStyle, Callable[[Conversation], str]] = {
    SeparatorStyle.SINGLE: _single,
    SeparatorStyle.TWO: _two,
    SeparatorStyle.MPT: _mpt,
    SeparatorStyle.PLAIN: _plain,
    SeparatorStyle.CHATML: _chatml,
    SeparatorStyle.LLAMA_2: _llama_2,
    SeparatorStyle.LLAMA_3: _llama_3,
    SeparatorStyle.GEMMA: _gemma,
}


def _qwen(system: str) -> Conversation:
    return Conversation(
        system=f"<|im_start|>system\n{system}",
        roles=("<|im_start|>user", "<|im_start|>assistant"),
        sep_style=SeparatorStyle.CHATML,
        sep="<|im_end|>",
        version="qwen",
    )


def _marked(system: str) -> Conversation:
    """Return a template whose turns stand between <|im_start|> and <|im_end|>, with no line break after the latter."""
    return Conversation(
        system=f"<|im_start|>system\n{system}",
        roles=("<|im_start|>user\n", "<|im_start|>assistant\n"),
        sep_style=SeparatorStyle.MPT,
        sep="<|im_end|>",
        version="mpt",
    )


def _instruct(system: str, sep: str) -> Conversation:
    return Conversation(
        system=system,
        roles=("USER", "ASSISTANT"),
        sep_style=SeparatorStyle.LLAMA_2,
        sep=sep,
        sep2="</s>",
        version="llama_v2",
    )


_ABLE_TO_SEE = (
    "able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
)
_ABOUT_WHAT_IS_SEEN = "Answer the questions about the visual content that the user provides."
_TAGGED = "The visual content will be provided with the following format: <Image>visual content</Image>."
_MMTAG_SYSTEM = (
    f"A chat between a curious user and an artificial intelligence assistant. The assistant is {_ABLE_TO_SEE}{_TAGGED}"
)
_VISION_ASSISTANT = f"You are a helpful language and vision assistant. You are {_ABLE_TO_SEE}"
# The system prompt that Llama 2 was published with.
_LLAMA_2_SYSTEM = (
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being safe.  "
    "Your answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, or illegal content. "
    "Please ensure that your responses are socially unbiased and positive in nature.\n\n"
    "If a question does not make any sense, or is not factually coherent, explain why instead of answering something "
    "not correct. If you don't know the answer to a question, please don't share false information."
)

_V0_EXAMPLE = (
    "What are the key differences between renewable and non-renewable energy sources?",
    "Renewable energy sources are those that can be replenished naturally in a relatively short amount of time, "
    "such as solar, wind, hydro, geothermal, and biomass. Non-renewable energy sources, on the other hand, are "
    "finite and will eventually be depleted, such as coal, oil, and natural gas. Here are some key differences "
    "between renewable and non-renewable energy sources:\n"
    "1. Availability: Renewable energy sources are virtually inexhaustible, while non-renewable energy sources "
    "are finite and will eventually run out.\n"
    "2. Environmental impact: Renewable energy sources have a much lower environmental impact than non-renewable "
    "sources, which can lead to air and water pollution, greenhouse gas emissions, and other negative effects.\n"
    "3. Cost: Renewable energy sources can be more expensive to initially set up, but they typically have lower "
    "operational costs than non-renewable sources.\n"
    "4. Reliability: Renewable energy sources are often more reliable and can be used in more remote locations "
    "than non-renewable sources.\n"
    "5. Flexibility: Renewable energy sources are often more flexible and can be adapted to different situations "
    "and needs, while non-renewable sources are more rigid and inflexible.\n"
    "6. Sustainability: Renewable energy sources are more sustainable over the long term, while non-renewable "
    "sources are not, and their depletion can lead to economic and social instability.\n",
)

_vicuna_v0 = Conversation(
    system="A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions.",
    roles=("Human", "Assistant"),
    messages=[["Human", _V0_EXAMPLE[0]], ["Assistant", _V0_EXAMPLE[1]]],
    offset=2,
)
_vicuna_v1 = Conversation(
    system="A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions.",
    roles=("USER", "ASSISTANT"),
    sep_style=SeparatorStyle.TWO,
    sep=" ",
    sep2="</s>",
    version="v1",
)
_plain_text = Conversation(system="", roles=("", ""), sep_style=SeparatorStyle.PLAIN, sep="\n")
_chatml_direct = _marked("Answer the questions.")
_qwen_2 = _qwen("You are a helpful assistant.")
_mistral = _instruct("", sep="")

conv_templates: dict[str, Conversation] = {
    "default": _vicuna_v0,
    "v0": _vicuna_v0,
    "v1": _vicuna_v1,
    "vicuna_v1": _vicuna_v1,
    "plain": _plain_text,
    "v0_plain": _plain_text,
    "llava_v0": replace(_vicuna_v0, messages=[], offset=0),
    "llava_v0_mmtag": Conversation(system=_MMTAG_SYSTEM, roles=("Human", "Assistant"), version="v0_mmtag"),
    "llava_v1": replace(_vicuna_v1.copy(), system=_vicuna_v0.system),
    "llava_v1_mmtag": replace(_vicuna_v1.copy(), system=_MMTAG_SYSTEM, version="v1_mmtag"),
    "llama_2": _instruct(_LLAMA_2_SYSTEM, sep="<s>"),
    "llava_llama_2": _instruct(_VISION_ASSISTANT, sep="<s>"),
    "llava_llama_2_simple": _instruct(_ABOUT_WHAT_IS_SEEN, sep="<s>"),
    "llava_llama_2_mmtag": replace(_instruct(_ABOUT_WHAT_IS_SEEN + _TAGGED, sep="<s>"), version="llama_v2_mmtag"),
    "llava_llama_3": Conversation(
        system=_VISION_ASSISTANT,
        roles=("user", "assistant"),
        sep_style=SeparatorStyle.LLAMA_3,
        sep="<|eot_id|>",
        version="llama_v3",
        stop_token_ids=[128009],  # <|eot_id|>
    ),
    "mpt": _marked(
        "A conversation between a user and an LLM-based AI assistant. The assistant gives helpful and honest answers."
    ),
    "mistral_orca": _marked(
        "You are MistralOrca, a large language model trained by Alignment Lab AI. "
        "Write out your reasoning step-by-step to be sure you get the right answers!"
    ),
    "mistral_instruct": _mistral,
    "llava_mistral_instruct": _mistral,
    "mistral_zephyr": Conversation(
        system="<|system|>\nYou are a helpful AI assistant.",
        roles=("<|user|>\n", "<|assistant|>\n"),
        sep_style=SeparatorStyle.MPT,
        sep="</s>",
        version="mpt",
    ),
    "chatml_direct": _chatml_direct,
    "mistral_direct": _chatml_direct,
    "gemma_instruct": Conversation(
        system="",
        roles=("<start_of_turn>user\n", "<start_of_turn>model\n"),
        sep_style=SeparatorStyle.GEMMA,
        sep="<end_of_turn>\n",
        version="gemma",
    ),
    "qwen_1_5": _qwen_2,
    "qwen_2": _qwen_2,
    "qwen_2_5": _qwen("You are Qwen, created by Alibaba Cloud. You are a helpful assistant."),
}
"""The templates by name. Call `.copy()` before you add turns: several names may share one object."""

default_conversation = conv_templates["default"]
