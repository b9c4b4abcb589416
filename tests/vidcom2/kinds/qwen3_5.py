"""Qwen3.5, dense and with a mixture of experts, and Qwen4-Exp: three of four layers are gated delta nets."""

from __future__ import annotations

import functools
from typing import Any

import transformers as hf

from tests.vidcom2.kinds.qwen3_vl_moe import visual
from tests.vidcom2.rows import (
    END,
    HIDDEN,
    IMAGE,
    QWEN_TOWER,
    ROPE,
    START,
    TEXT,
    VIDEO,
    VOCAB,
    Kind,
)

INTERVAL = 2
"""Every second layer has full attention here, so that models of three and four layers have both kinds of layer."""


EOS = VOCAB - 1


def config(kind: str, layers: int) -> Any:
    vision = {**QWEN_TOWER, "depth": 2, "hidden_size": 32, "intermediate_size": 48, "out_hidden_size": HIDDEN}
    vision |= {"num_position_embeddings": 64}
    own = {**TEXT, "num_hidden_layers": layers, "head_dim": 24, "full_attention_interval": INTERVAL}
    own |= {"rope_parameters": {**ROPE, "mrope_section": [2, 2, 2], "partial_rotary_factor": 0.5}}
    own |= {"rms_norm_eps": 0.1}  # rounding would grow where a delta net puts out next to nothing
    own |= {"linear_key_head_dim": 8, "linear_value_head_dim": 12}
    own |= {"linear_num_key_heads": 2, "linear_num_value_heads": 4}
    tokens = {"image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": START}
    tokens |= {"vision_end_token_id": END, "tie_word_embeddings": False}
    if kind == "qwen3_5":
        return hf.Qwen3_5Config(text_config=own, vision_config=vision, **tokens)
    del own["intermediate_size"]
    own |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
    own |= {"shared_expert_intermediate_size": 48}
    if kind == "qwen4_exp":
        # A token attends to 8 tokens in blocks of 2, and to the block that is not full yet.
        own |= {"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 16}
        own |= {"indexer_budget": 8, "indexer_compress_ratio": 2, "hc_count": 2, "hc_lowrank": 8}
        # Layer 1, counted from 1, embeds n-grams of token ids. Nothing ends with the eos token.
        own |= {"ple_layer_ids": [1], "heads_per_ngram": 2, "ngram_vocab_size_base": 50, "split_ngram_parts": 1}
        own |= {"eos_token_id": EOS}
        return hf.Qwen4ExpConfig(text_config=own, vision_config=vision, **tokens)
    return hf.Qwen3_5MoeConfig(text_config=own, vision_config=vision, **tokens)


def _kind(name: str, model: str, **settings: Any) -> Kind:
    return Kind(name, model, functools.partial(config, name), functools.partial(visual, name), typed=True, **settings)


OLD = tuple(map(int, hf.__version__.split(".")[:2])) < (5, 23)
"""Qwen4-Exp's eager attention in 5.17 gives NaN for a batch with padding, also without hooks; in 5.23 it does not."""


KINDS = (
    _kind("qwen3_5", "Qwen3_5ForConditionalGeneration"),
    _kind("qwen3_5_moe", "Qwen3_5MoeForConditionalGeneration"),
    _kind("qwen4_exp", "Qwen4ExpForConditionalGeneration", attentions=("sdpa",) if OLD else ("sdpa", "eager")),
)
