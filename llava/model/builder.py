"""Load a LLaVA checkpoint: `load_pretrained_model`, with upstream's arguments."""

from __future__ import annotations

import importlib.util
import os
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from llava.constants import DEFAULT_IM_END_TOKEN, DEFAULT_IM_START_TOKEN, DEFAULT_IMAGE_PATCH_TOKEN
from llava.model.checkpoint import checkpoint_config, load_texts, load_whole, require_place
from llava.model.language_model.llava_llama import LlavaConfig, LlavaLlamaForCausalLM
from llava.model.language_model.llava_qwen import LlavaQwenConfig, LlavaQwenForCausalLM
from vidcom2 import Compressor, compressor_from_env

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
ATTENTION = ("eager", "sdpa", "flash_attention_2")
FAMILIES: dict[str, tuple[Any, Any]] = {
    "LlavaQwenForCausalLM": (LlavaQwenConfig, LlavaQwenForCausalLM),
    "LlavaLlamaForCausalLM": (LlavaConfig, LlavaLlamaForCausalLM),
}


def load_pretrained_model(
    model_path: str,
    model_base: str | None,
    model_name: str,
    load_8bit: bool = False,
    load_4bit: bool = False,
    device_map: Any = "auto",
    torch_dtype: str | torch.dtype = "float16",
    attn_implementation: str | None = None,
    customized_config: Any = None,
    overwrite_config: dict[str, Any] | None = None,
    compressor: Compressor | Literal["env"] | None = "env",
    trust_remote_code: bool = False,
    **kwargs: Any,
) -> tuple[Any, Any, Any, int]:
    """Load a LLaVA checkpoint from a directory or the hub, with the arguments of upstream's function.

    A checkpoint that is no LLaVA is loaded as a plain language model, with None for the image processor.

    Args:
        model_path: A directory, or OWNER/NAME on the hub.
        model_base: None. LoRA bases are not supported.
        model_name: Tells the class of the checkpoint, if config.json does not.
        load_8bit: Keep the weights of the language model's layers in 8 bits, by bitsandbytes. Tower, projector,
            embeddings and head stay in torch_dtype.
        load_4bit: The same in 4 bits.
        device_map: "auto", "cpu", "cuda:1", or a dict.
        torch_dtype: "float16", "bfloat16" or "float32".
        attn_implementation: "eager", "sdpa" or "flash_attention_2". None is flash attention if it is installed and
            there is a GPU, else sdpa.
        customized_config: A config to use instead of config.json.
        overwrite_config: Config fields to set before the model is built.
        compressor: Compresses the model's videos from now on; None for nothing. "env" reads COMPRESSOR and R_RATIO from
            the environment, once, now.
        trust_remote_code: Whether to run Python code that comes with the checkpoint, such as its tokenizer.
        kwargs: What transformers' from_pretrained() takes.

    Returns:
        (tokenizer, model, image_processor, context_len).

    Raises:
        ValueError: If arguments cannot work, or if the checkpoint is damaged, incomplete or of another kind.
        OSError: If there is no such checkpoint.
        ImportError: If flash attention or bitsandbytes is asked for and not installed.
    """
    if load_8bit and load_4bit:
        raise ValueError("load_8bit and load_4bit are both set: leave one of them out")
    if (load_8bit or load_4bit) and "quantization_config" in kwargs:
        raise ValueError("load_8bit or load_4bit is set beside quantization_config: leave one of them out")
    if model_base is not None:
        raise ValueError(f"model_base={model_base!r}: LoRA checkpoints are not supported; merge them into their base")
    kwargs.pop("multimodal", None)  # upstream's hint that the model is a LLaVA; config.json tells
    options: dict[str, Any] = {
        "device_map": device_map,
        "attn_implementation": resolve_attention(attn_implementation),
        "dtype": resolve_dtype(torch_dtype),
        **kwargs,
    }
    attached = compressor_from_env(os.environ) if compressor == "env" else compressor

    if customized_config is None:
        config_dict = checkpoint_config(model_path)
    else:
        require_place(model_path)
        config_dict = customized_config.to_dict()
    family = llava_family(config_dict, model_name)
    if family is None and not trust_remote_code:
        require_language_model(model_path, config_dict)
    tokenizer = load_texts(AutoTokenizer.from_pretrained, model_path, trust_remote_code)
    if load_8bit or load_4bit:
        whole = None if family is None else [*UNQUANTISED]
        options["quantization_config"] = quantisation(load_8bit, options["dtype"], whole)
    if family is None:
        if customized_config is not None:
            options["config"] = customized_config
        options["trust_remote_code"] = trust_remote_code
        model, _ = load_whole(AutoModelForCausalLM.from_pretrained, model_path, **options)
        if attached is not None and attached.drops:
            attached.attach(model)  # raises: there is nothing to compress
        return tokenizer, model.eval(), None, context_length(model.config)

    config_class, model_class = FAMILIES[family]
    config_dict.pop("model_type", None)  # published checkpoints say "llava", which is another class's name
    rope = config_dict.get("rope_parameters") or {}
    if "rope_theta" in rope:  # or a rope_scaling in overwrite_config would reset it
        config_dict.setdefault("rope_theta", rope["rope_theta"])
    config = config_class.from_dict({**config_dict, **(overwrite_config or {})})
    config._name_or_path = model_path
    model = model_class.from_pretrained(model_path, config=config, **options)
    add_image_tokens(tokenizer, config)
    resize_vocabulary(model, len(tokenizer))
    if attached is not None and attached.drops:
        attached.attach(model)
    return tokenizer, model.eval(), model.get_vision_tower().image_processor, context_length(config)


def llava_family(config: dict[str, Any], model_name: str) -> str | None:
    """Return the name of the LLaVA class that a config.json is for; None for a plain language model.

    Raises:
        ValueError: For a LLaVA on a language model that this tree does not have.
    """
    named = [name for name in config.get("architectures") or () if name in FAMILIES]
    if named:
        return named[0]
    by_type = {"llava_qwen": "LlavaQwenForCausalLM", "llava_llama": "LlavaLlamaForCausalLM"}
    if family := by_type.get(str(config.get("model_type"))):
        return family
    name = model_name.lower()
    if "mm_vision_tower" not in config and ("llava" not in name or "text_config" in config):
        return None  # with text_config, it is a LLaVA in transformers' own layout
    if any(word in name for word in ("qwen", "quyen")):
        return "LlavaQwenForCausalLM"
    if any(word in name for word in ("llama", "vicuna", "yi-", "v1.5")):
        return "LlavaLlamaForCausalLM"
    raise ValueError(
        f"model {model_name!r} (architectures {config.get('architectures')}, model_type {config.get('model_type')!r}) "
        f"is of no supported LLaVA class: {', '.join(FAMILIES)}"
    )


def require_language_model(source: str, config: dict[str, Any]) -> None:
    """Raise ValueError for a checkpoint that is neither a LLaVA in LLaVA-NeXT's layout nor a plain language model."""
    kind = config.get("model_type")
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ValueError(
            f"{source} is a {kind!r} model, and load_pretrained_model loads LLaVA checkpoints in LLaVA-NeXT's layout: "
            "load one of transformers' own video models with AutoModelForImageTextToText; VidCom2(0.25)(model) "
            "compresses its videos, too (docs/transformers.md)"
        )


def resolve_dtype(name: str | torch.dtype) -> torch.dtype:
    """Return one of DTYPES by its name. Raise ValueError for another."""
    dtype = DTYPES.get(name) if isinstance(name, str) else name
    if dtype is None or dtype not in DTYPES.values():
        raise ValueError(f"torch_dtype={name!r} is not supported; use {', '.join(DTYPES)}")
    return dtype


def resolve_attention(name: str | None) -> str:
    """Return the attention to use; see `load_pretrained_model`.

    Raises:
        ValueError: If the name is none of ATTENTION.
        ImportError: If flash attention is asked for and not installed.
    """
    installed = importlib.util.find_spec("flash_attn") is not None
    if name is None:
        return "flash_attention_2" if installed and torch.cuda.is_available() else "sdpa"
    if name not in ATTENTION:
        raise ValueError(f"attn_implementation={name!r} is not supported; use {', '.join(ATTENTION)}")
    if name == "flash_attention_2" and not installed:
        raise ImportError(
            "attn_implementation='flash_attention_2' needs flash-attn: pip install flash-attn --no-build-isolation "
            "(on a machine with a CUDA toolkit), or use attn_implementation='sdpa'"
        )
    return name


UNQUANTISED = ("model.vision_tower", "model.mm_projector", "lm_head")
"""Modules of a LLaVA that keep their precision. They are a small part of its weights, and see every visual token."""


def quantisation(eight: bool, dtype: torch.dtype, whole: list[str] | None) -> BitsAndBytesConfig:
    """Return how to quantise, as upstream: LLM.int8() for 8 bits, NF4 with nested scales for 4 bits.

    Args:
        eight: Whether to use 8 bits.
        dtype: What 4-bit weights compute in.
        whole: Modules to leave as they are; None for the head only.
    """
    if eight:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=whole)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        llm_int8_skip_modules=whole,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
    )


def add_image_tokens(tokenizer: Any, config: Any) -> None:
    """Add the placeholder tokens that `config` asks for. As upstream, an absent mm_use_im_patch_token means True."""
    if getattr(config, "mm_use_im_patch_token", True):
        tokenizer.add_tokens([DEFAULT_IMAGE_PATCH_TOKEN], special_tokens=True)
    if getattr(config, "mm_use_im_start_end", False):
        tokenizer.add_tokens([DEFAULT_IM_START_TOKEN, DEFAULT_IM_END_TOKEN], special_tokens=True)


def resize_vocabulary(model: Any, size: int) -> None:
    """Give the model `size` embeddings, as upstream. A model that accelerate has offloaded may keep more.

    Raises:
        ValueError: If it is offloaded and has fewer.
    """
    tables = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    if not any(table.is_meta for table in tables):
        model.resize_token_embeddings(size)
    elif size > (rows := len(tables[0])):
        raise ValueError(
            f"the model has {rows} embeddings, the tokenizer {size} tokens, and none can be added to offloaded ones: "
            "give model.embed_tokens and lm_head a device in device_map"
        )


def context_length(config: Any) -> int:
    """Return how many tokens the model takes: the first of three config fields that is set, else 2048."""
    for name in ("max_sequence_length", "max_position_embeddings", "tokenizer_model_max_length"):
        if value := getattr(config, name, None):
            return value
    return 2048
