"""Tiny random Qwen checkpoints with the files of the released ones, so that transformers' Auto classes load them.

Their patches have the released sizes, because qwen_vl_utils rounds frames to them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForImageTextToText, PreTrainedTokenizerFast

from tests.vidcom2.hf_tiny import ROPE, randomise, tiny

BYTES = {char: i for i, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
NAMES = ("endoftext", "im_start", "im_end", "vision_start", "vision_end", "vision_pad", "image_pad", "video_pad")
IDS = {name: len(BYTES) + i for i, name in enumerate(NAMES)}
VOCAB = 320  # padded, as the real ones are
SAID = [*(BYTES[char] for char in "ABCDEFGHIJKLMNOP\u0120\u010a"), IDS["im_end"]]
"""What a model can say: letters, space and newline as byte-level BPE spells them, and the end of its answer."""

CHAT = """\
{%- for message in messages %}SYSTEM{{ '<|im_start|>' + message.role + '\n' }}
{%- if message.content is string %}{{ message.content }}
{%- else %}{%- for part in message.content %}
{%- if part.type == 'video' %}{{ '<|vision_start|><|video_pad|><|vision_end|>' }}
{%- else %}{{ part.text }}{%- endif %}
{%- endfor %}{%- endif %}{{ '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{%- endif %}"""
SYSTEM = """
{%- if loop.first and message.role != 'system' %}
{{- '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{%- endif %}"""
"""Qwen2-VL's and Qwen2.5-VL's templates add it, Qwen3-VL's does not."""
THINK = """
{%- if add_generation_prompt %}
{{- '<think>\n\n</think>\n\n' if enable_thinking is false else '<think>\n' }}{%- endif %}"""
"""Qwen3.5's template ends with it."""


WIDE = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 96, "head_dim": 32}
"""An LLM whose heads are as wide as vLLM's CPU attention needs."""


def make_qwen(root: Path, kind: str, seed: int = 1, wide: bool = False, **more: Any) -> Path:
    """Write a bfloat16 checkpoint of model type `kind`, one of Qwen's from 2-VL to 3.5, into root/<kind>-tiny.

    wide: With the LLM that WIDE describes.
    more: Settings of the LLM.
    """
    path = root / f"{kind}-tiny"
    config = tiny(kind).config
    if wide:
        sections = {"mrope_section": [4, 6, 6], "mrope_interleaved": "qwen3" in kind}
        if kind.startswith("qwen3_5"):  # half of a head is rotated
            sections |= {"mrope_section": [3, 3, 2], "partial_rotary_factor": 0.5}
        config.text_config.update({**WIDE, "rope_parameters": {**ROPE, **sections}})
        config.vision_config.update({"hidden_size" if kind == "qwen2_vl" else "out_hidden_size": WIDE["hidden_size"]})
    config.text_config.update(more)
    config.vision_config.patch_size = 16 if "qwen3" in kind else 14
    if kind == "qwen2_5_vl":
        config.vision_config.window_size = 112
    config.text_config.vocab_size = VOCAB
    config.image_token_id, config.video_token_id = IDS["image_pad"], IDS["video_pad"]
    config.vision_start_token_id, config.vision_end_token_id = IDS["vision_start"], IDS["vision_end"]
    model = AutoModelForImageTextToText.from_config(config)
    randomise(model, seed)
    head = model.lm_head.weight
    with torch.no_grad():
        words = torch.randn(len(SAID), head.shape[1], generator=torch.Generator().manual_seed(seed))
        head.zero_()[SAID] = words
    model.to(torch.bfloat16).save_pretrained(path)
    _write_processor(path, kind)
    # As released: sampling, which the benchmarks turn off, and a penalty, which they leave on.
    generation = {"do_sample": True, "temperature": 0.1, "top_p": 0.001, "top_k": 1, "repetition_penalty": 1.05}
    generation |= {"eos_token_id": [IDS["im_end"], IDS["endoftext"]], "pad_token_id": IDS["endoftext"]}
    _write_json(path / "generation_config.json", generation)
    return path


def _write_processor(path: Path, kind: str) -> None:
    tokenizer = Tokenizer(models.BPE(vocab=BYTES, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        additional_special_tokens=[f"<|{name}|>" for name in NAMES],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    ).save_pretrained(path)
    system = "" if "qwen3" in kind else SYSTEM
    think = THINK if kind.startswith("qwen3_5") else ""
    _write_json(path / "chat_template.json", {"chat_template": CHAT.replace("SYSTEM", system) + think})

    common = {"temporal_patch_size": 2, "merge_size": 2}
    if "qwen3" in kind:
        common |= {"patch_size": 16, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        common["processor_class"] = "Qwen3VLProcessor"
        image = {"size": {"longest_edge": 16777216, "shortest_edge": 65536}}
        video = {"size": {"longest_edge": 25165824, "shortest_edge": 4096}}
        video["video_processor_type"] = "Qwen3VLVideoProcessor"
        _write_json(path / "video_preprocessor_config.json", common | video)
        image["image_processor_type"] = "Qwen2VLImageProcessorFast"
    else:
        common |= {"patch_size": 14, "processor_class": f"Qwen2{'_5_' if '5' in kind else ''}VLProcessor"}
        common["image_mean"] = [0.48145466, 0.4578275, 0.40821073]
        common["image_std"] = [0.26862954, 0.26130258, 0.27577711]
        image = {"min_pixels": 3136, "max_pixels": 12845056, "image_processor_type": "Qwen2VLImageProcessor"}
    _write_json(path / "preprocessor_config.json", common | image)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
