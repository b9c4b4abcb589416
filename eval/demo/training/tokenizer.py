"""The demo model's prompts and tokenizer."""

from __future__ import annotations

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.conversation import conv_templates

from ...models.chat_template import CHAT
from ..prompts import mlvu_prompt, mvbench_prompt, videomme_prompt
from ..world import (
    BACKGROUNDS,
    COLOURS,
    COUNTS,
    DIRECTIONS,
    QUARTERS,
    SHAPES,
    STEPPING_STONES,
    TASKS,
    ask,
    draw_scene,
)

PROMPTS = (mvbench_prompt, mlvu_prompt, videomme_prompt)
"""The multiple-choice prompts that the model learns."""
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
WORDS = (*COLOURS, *BACKGROUNDS, *SHAPES, *DIRECTIONS, *QUARTERS, *COUNTS)
"""All answers. Each is one token."""
# A token begins at a word with the space before it, at a digit, or at a sign. So an option's letter and its word are
# always the same two tokens, whatever is around them, and the answer is one of these tokens.
SPLIT = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]|\s*[\r\n]+|\s+"


def conversation(prompt: str) -> tuple[str, str]:
    """The chat text before and after the video's tokens."""
    chat = conv_templates["qwen_1_5"].copy()
    chat.append_message(chat.roles[0], f"{DEFAULT_IMAGE_TOKEN}\n{prompt}")
    chat.append_message(chat.roles[1], None)
    before, after = chat.get_prompt().split(DEFAULT_IMAGE_TOKEN)
    return before, after


def build_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer on the text of the lessons."""
    rng = np.random.default_rng(seed)
    corpus = []
    for _ in range(300):
        scene = draw_scene(rng)
        for task in (*TASKS, *STEPPING_STONES):
            q = ask(scene, task, rng)
            corpus += ["".join(conversation(prompt(q))) for prompt in PROMPTS] + [f"The answer is {q.answer}. "]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[AddedToken(token, normalized=False, special=True) for token in SPECIAL],
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=SPECIAL[2],
        pad_token=SPECIAL[0],
        padding_side="right",
        chat_template=CHAT,
    )
