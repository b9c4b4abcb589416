"""Models of real dimensions with random weights, made from a config.json without a checkpoint.

Their answers mean nothing. Their time, memory and token counts are those of the trained models, as far as these do not
depend on what a frame shows. Their tokenizer has one token per byte, and no limit of length.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from llava.mm_utils import get_model_name_from_path
from llava.model.builder import FAMILIES, llava_family, resolve_attention, resolve_dtype
from llava.model.checkpoint import checkpoint_config, load_texts

from . import Protocol, chat_template, protocol_for
from .base import Engine
from .llava import LlavaEngine
from .qwen import QwenEngine
from .qwen_protocol import QWEN_PROTOCOLS, QwenProtocol

QWEN2_7B: dict[str, Any] = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}
LLAVA: dict[str, Any] = {
    "architectures": ["LlavaQwenForCausalLM"],
    "model_type": "llava_qwen",
    "mm_projector_type": "mlp2x_gelu",
    "mm_patch_merge_type": "spatial_unpad",
    "mm_vision_select_layer": -2,
    "mm_vision_select_feature": "patch",
    "mm_use_im_patch_token": False,
    "mm_use_im_start_end": False,
    "mm_spatial_pool_stride": 2,
    "image_aspect_ratio": "pad",
}
ONEVISION = {**LLAVA, "mm_newline_position": "one_token", "mm_spatial_pool_mode": "bilinear"}
SO400M = {"mm_vision_tower": "google/siglip-so400m-patch14-384", "mm_hidden_size": 1152}
TINY = {"mm_vision_tower": "vision_tower", "mm_hidden_size": 32}
PRESETS: dict[str, dict[str, Any]] = {
    "llava-onevision-7b": {**QWEN2_7B, **ONEVISION, **SO400M, "rope_theta": 1e6},
    "llava-video-7b": {
        **QWEN2_7B,
        **LLAVA,
        **SO400M,
        "rope_theta": 1e6,
        "mm_newline_position": "grid",
        "mm_spatial_pool_mode": "average",
    },
    "qwen2-vl-7b": {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": "qwen2_vl",
        "text_config": {
            **QWEN2_7B,
            "model_type": "qwen2_vl_text",
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        },
        "vision_config": {
            "depth": 32,
            "embed_dim": 1280,
            "num_heads": 16,
            "mlp_ratio": 4,
            "hidden_size": 3584,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        "tie_word_embeddings": False,
    },
    # For CPUs: the LLM of LLaVA-OneVision-0.5B behind the tower of "tiny".
    "tiny-tower-0.5b": {
        **QWEN2_7B,
        **ONEVISION,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
        "rope_theta": 1e6,
        **TINY,
    },
    # For CPUs: LLaVA-OneVision's parts, a thousandth of their width; 49 tokens per frame, and layers enough for methods
    # that drop tokens between them.
    "tiny": {
        **QWEN2_7B,
        **ONEVISION,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 16,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 512,
        "rope_theta": 1e6,
        **TINY,
    },
}
"""Content of config.json by name, with the dimensions of the released models."""
TINY_TOWER = {
    "model_type": "siglip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 112,
    "patch_size": 8,
}
BYTES = {char: i for i, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
SPECIAL = ("endoftext", "im_start", "im_end", "vision_start", "vision_end", "vision_pad", "image_pad", "video_pad")
IDS = {name: len(BYTES) + i for i, name in enumerate(SPECIAL)}
CHAT = """\
{%- for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}
{%- if message.content is string %}{{ message.content }}{%- else %}
{%- for part in message.content %}
{%- if part.type == 'text' %}{{ part.text }}{%- else %}{{ '<|vision_start|><|video_pad|><|vision_end|>' }}{%- endif %}
{%- endfor %}{%- endif %}{{ '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{%- endif %}"""
PROCESSORS = {
    "qwen2_vl": ("Qwen2VLProcessor", "Qwen2VLImageProcessor", "Qwen2VLVideoProcessor"),
    "qwen2_5_vl": ("Qwen2_5_VLProcessor", "Qwen2VLImageProcessor", "Qwen2VLVideoProcessor"),
    **dict.fromkeys(
        ("qwen3_vl", "qwen3_5", "qwen3_5_moe"), ("Qwen3VLProcessor", "Qwen2VLImageProcessor", "Qwen3VLVideoProcessor")
    ),
}
"""transformers' processor classes by model type: the whole, for images, for videos."""


def require_source(source: str) -> None:
    """Check that a source is one of PRESETS or a file.

    Raises:
        ValueError: It is neither.
    """
    if source not in PRESETS and not Path(source).is_file():
        raise ValueError(f"--random-weights {source!r} is neither one of {', '.join(PRESETS)} nor a config.json")


def write_files(source: str, root: Path) -> Path:
    """Write all files of a checkpoint but the weights. Returns their directory, which is new, below `root`.

    Args:
        source: One of PRESETS, or the config.json of a LLaVA checkpoint in LLaVA-NeXT's layout or of a Qwen family.
        root: An existing directory.

    Raises:
        ValueError: The source is something else.
    """
    require_source(source)
    if source in PRESETS:
        name, config = source, json.loads(json.dumps(PRESETS[source]))
    else:
        origin = Path(source).resolve().parent
        name, config = origin.name, parse(Path(source))
        if tower := config.get("mm_vision_tower"):
            inside = origin / tower
            config["mm_vision_tower"] = str(inside) if inside.is_dir() else tower
    path = root / name
    path.mkdir(parents=True)
    tokenizer, kind = byte_tokenizer(), config.get("model_type")
    if kind not in QWEN_PROTOCOLS:
        tokenizer.chat_template = chat_template.CHAT
    tokenizer.save_pretrained(path)
    ids = {"bos_token_id": IDS["endoftext"], "eos_token_id": IDS["im_end"], "pad_token_id": IDS["endoftext"]}
    if kind in QWEN_PROTOCOLS:
        config |= {f"{name}_token_id": IDS[f"{name}_pad"] for name in ("image", "video")}
        config |= {f"vision_{end}_token_id": IDS[f"vision_{end}"] for end in ("start", "end")}
        config["text_config"] = {**config.get("text_config", {}), **ids}
        write_processor(path, kind, config.get("vision_config", {}), tokenizer)
    elif source in PRESETS and config["mm_vision_tower"] == TINY["mm_vision_tower"]:
        (path / "vision_tower").mkdir()
        write(path / "vision_tower" / "config.json", TINY_TOWER)
    config.pop("tokenizer_model_max_length", None)  # longer videos are measured, not refused
    write(path / "config.json", {**config, **ids})
    return path


def parse(file: Path) -> dict[str, Any]:
    """Read a config.json. Raises ValueError if it is no config of a family that can be measured."""
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"--random-weights {file} is no JSON: {error}") from error
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind not in QWEN_PROTOCOLS and (kind is None or "mm_vision_tower" not in config):
        raise ValueError(
            f"--random-weights {file} is of model type {kind!r}; there are LLaVA configs in LLaVA-NeXT's layout (with "
            f"mm_vision_tower) and {', '.join(QWEN_PROTOCOLS)}"
        )
    return config


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token per byte, and the special tokens of Qwen."""
    tokenizer = Tokenizer(models.BPE(vocab=BYTES, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        additional_special_tokens=[f"<|{name}|>" for name in SPECIAL],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )


def write_processor(path: Path, kind: str, vision: dict[str, Any], tokenizer: PreTrainedTokenizerFast) -> None:
    """Write the files that AutoProcessor loads, for the patches of this tower."""
    whole, image, video = (getattr(transformers, name) for name in PROCESSORS[kind])
    patches = {
        "patch_size": vision.get("patch_size", QWEN_PROTOCOLS[kind].patch),
        "temporal_patch_size": vision.get("temporal_patch_size", 2),
        "merge_size": vision.get("spatial_merge_size", 2),
    }
    processor = whole(
        image_processor=image(**patches), video_processor=video(**patches), tokenizer=tokenizer, chat_template=CHAT
    )
    processor.save_pretrained(path)


def write(file: Path, value: dict[str, Any]) -> None:
    """Write JSON."""
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def random_model(
    path: str,
    device: str,
    dtype: torch.dtype = torch.float32,
    attn: str = "sdpa",
    overwrite: dict[str, Any] | None = None,
    seed: int = 0,
) -> Any:
    """Build the model that a config.json describes, with transformers' own initialisation.

    It is built on the device in its dtype, so that no more memory is needed than the model takes. On "meta" that is
    none. The same seed gives the same weights on the same device.

    Raises:
        ValueError, OSError: The config cannot be built.
    """
    config_dict = checkpoint_config(path)
    on = torch.device(device)
    cuda = [on] if on.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), torch.device(on):
        torch.manual_seed(seed)
        if config_dict.get("model_type") in QWEN_PROTOCOLS:
            model = AutoModelForImageTextToText.from_config(
                AutoConfig.from_pretrained(path, trust_remote_code=False), dtype=dtype, attn_implementation=attn
            )
        else:
            family = llava_family(config_dict, get_model_name_from_path(path))
            if family is None:
                raise ValueError(f"{path} is no LLaVA: its config.json names no vision tower")
            config_class, model_class = FAMILIES[family]
            config_dict.pop("model_type")  # published checkpoints say "llava", which is another class's name
            config = config_class.from_dict({**config_dict, **(overwrite or {})})
            config._name_or_path = path
            model = model_class._from_config(config, dtype=dtype, attn_implementation=attn)
    return model.eval()


def write_checkpoint(path: str, dtype: str, seed: int = 0) -> None:
    """Write the random weights of the engine that `random_engine` loads on a CPU, for programs that load checkpoints.

    Args:
        path: The directory that `write_files` made.
        dtype: Of the weights.
        seed: Of the weights.
    """
    protocol = protocol_for(path)
    overwrite = {} if isinstance(protocol, QwenProtocol) else protocol.overwrite_config
    random_model(path, "cpu", resolve_dtype(dtype), overwrite=overwrite, seed=seed).save_pretrained(path)


def random_engine(path: str, protocol: Protocol, device: str, dtype: str, attn: str | None, seed: int = 0) -> Engine:
    """Load an engine as `load_engine` does, with random weights. path: the directory that `write_files` made."""

    def llava(_path: str, _base: None, _name: str, overwrite_config: dict[str, Any], **_: Any) -> Any:
        model = random_model(path, device, resolve_dtype(dtype), resolve_attention(attn), overwrite_config, seed)
        return load_texts(AutoTokenizer.from_pretrained, path), model, model.get_vision_tower().image_processor, 0

    def qwen(_path: str, **_: Any) -> Any:
        return random_model(path, device, resolve_dtype(dtype), resolve_attention(attn), seed=seed)

    if isinstance(protocol, QwenProtocol):
        return QwenEngine(path, protocol, device, dtype, attn, qwen)
    return LlavaEngine(path, protocol, device, dtype, attn, llava)
