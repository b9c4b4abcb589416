"""A tiny random LLaVA checkpoint in the layout of the released ones: for tests and demos, it knows nothing.

Tensors and fields are written by name, without the model classes, so that loading it tests them.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor

Family = Literal["onevision", "video"]
Shapes = dict[str, tuple[int, ...]]

HIDDEN, INTERMEDIATE, LAYERS, HEADS, KV_HEADS = 64, 128, 2, 4, 2
TOWER_HIDDEN, TOWER_INTERMEDIATE, TOWER_LAYERS, TOWER_HEADS = 32, 64, 3, 4
IMAGE_SIZE, PATCH_SIZE = 56, 8  # 7 x 7 patches: an odd side, like the 27 of the real tower
# Qwen2's order: special tokens follow the ordinary ones, here one for each of the 256 bytes.
BYTE_TOKENS = {char: i for i, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
LETTERS = "ABCD"  # all it can say, and one of them ends its answer: a random choice instead of random bytes
SPECIAL_TOKENS = {"<|endoftext|>": 256, "<|im_start|>": 257, "<|im_end|>": 258}
VOCAB_SIZE = 320  # padded to a multiple of 64 like the real models': more rows than the tokenizer has tokens
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def make_checkpoint(
    root: Path, family: Family, seed: int = 0, shards: int = 2, dtype: torch.dtype = torch.float32
) -> Path:
    """Write the checkpoint into a new directory under `root` and return that; the same seed gives the same bytes.

    FileExistsError if it is there already; ValueError for an unknown family or an impossible number of shards.
    """
    config, shapes = llava_config(family, dtype), llava_shapes()
    if not 1 <= shards <= len(shapes):
        raise ValueError(f"shards must be between 1 and the {len(shapes)} tensors, not {shards}")
    path = Path(root) / f"llava-{family}-tiny-qwen2"
    path.mkdir(parents=True)
    _write_json(path / "config.json", config)
    _write_json(
        path / "generation_config.json",
        {
            "bos_token_id": config["bos_token_id"],
            "eos_token_id": [config["eos_token_id"], *(BYTE_TOKENS[letter] for letter in LETTERS)],
            "pad_token_id": SPECIAL_TOKENS["<|endoftext|>"],
            "do_sample": False,
        },
    )
    _write_tokenizer(path)

    generator = torch.Generator().manual_seed(seed)
    tensors = _sample(shapes, generator, dtype)
    letters = torch.tensor([BYTE_TOKENS[letter] for letter in LETTERS])
    mute = torch.ones(VOCAB_SIZE, dtype=torch.bool).index_fill_(0, letters, False)
    tensors["lm_head.weight"][mute] = 0
    _write_shards(path, tensors, shards)

    tower = path / config["mm_vision_tower"]
    tower.mkdir()
    _write_json(tower / "config.json", tower_config(dtype))
    _write_json(tower / "preprocessor_config.json", PREPROCESSOR)
    # Drawn anew, unlike the tower inside the LLaVA file: whoever forgets to load that one gets other features.
    save_file(
        _sample(tower_shapes(TOWER_LAYERS), generator, dtype), tower / "model.safetensors", metadata={"format": "pt"}
    )
    return path


def llava_config(family: Family, dtype: torch.dtype) -> dict[str, Any]:
    """config.json: the released files' fields, with tiny sizes."""
    if family == "onevision":
        specific: dict[str, Any] = {
            "model_type": "llava",
            "mm_newline_position": "one_token",
            "mm_spatial_pool_mode": "bilinear",
        }
    elif family == "video":
        specific = {
            "model_type": "llava_qwen",
            "add_faster_video": False,
            "mm_newline_position": "grid",
            "mm_spatial_pool_mode": "average",
            "mm_spatial_pool_stride": 2,
        }
    else:
        raise ValueError(f"family must be 'onevision' or 'video', not {family!r}")
    return specific | {
        "architectures": ["LlavaQwenForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": SPECIAL_TOKENS["<|endoftext|>"],
        "eos_token_id": SPECIAL_TOKENS["<|im_end|>"],
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "image_aspect_ratio": "anyres_max_9",
        "image_crop_resolution": None,
        # As a list: the "(1x1),...,(6x6)" form is only for the real towers' patch sizes.
        "image_grid_pinpoints": [[IMAGE_SIZE * i, IMAGE_SIZE * j] for i in range(1, 7) for j in range(1, 7)],
        "image_split_resolution": None,
        "initializer_range": 0.02,
        "intermediate_size": INTERMEDIATE,
        "max_position_embeddings": 32768,
        "max_window_layers": LAYERS,
        "mm_hidden_size": TOWER_HIDDEN,
        "mm_patch_merge_type": "spatial_unpad",
        "mm_projector_lr": None,
        "mm_projector_type": "mlp2x_gelu",
        "mm_resampler_type": None,
        "mm_tunable_parts": "mm_vision_tower,mm_mlp_adapter,mm_language_model",
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": "vision_tower",
        "mm_vision_tower_lr": 2e-06,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": KV_HEADS,
        "pos_skipping_range": 4096,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "sliding_window": 131072,
        "tie_word_embeddings": False,
        "tokenizer_model_max_length": 32768,
        "tokenizer_padding_side": "right",
        "torch_dtype": _dtype_name(dtype),
        "transformers_version": "4.40.0.dev0",
        "use_cache": True,
        "use_mm_proj": True,
        "use_pos_skipping": False,
        "use_sliding_window": False,
        "vision_tower_pretrained": None,
        "vocab_size": VOCAB_SIZE,
    }


def tower_config(dtype: torch.dtype) -> dict[str, Any]:
    """config.json of the SigLIP tower."""
    return {
        "architectures": ["SiglipVisionModel"],
        "attention_dropout": 0.0,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": TOWER_HIDDEN,
        "image_size": IMAGE_SIZE,
        "intermediate_size": TOWER_INTERMEDIATE,
        "layer_norm_eps": 1e-06,
        "model_type": "siglip_vision_model",
        "num_attention_heads": TOWER_HEADS,
        "num_channels": 3,
        "num_hidden_layers": TOWER_LAYERS,
        "patch_size": PATCH_SIZE,
        "torch_dtype": _dtype_name(dtype),
        "vision_use_head": False,
    }


PREPROCESSOR: dict[str, Any] = {
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "SiglipImageProcessor",
    "image_std": [0.5, 0.5, 0.5],
    "resample": 3,
    "rescale_factor": 1 / 255,
    "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
}


def llava_shapes() -> Shapes:
    """Every tensor of the LLaVA file; its tower lacks the last layer, whose output the features do not use."""
    shapes: Shapes = {"model.embed_tokens.weight": (VOCAB_SIZE, HIDDEN)}
    kv = HIDDEN // HEADS * KV_HEADS
    for i in range(LAYERS):
        layer = f"model.layers.{i}"
        shapes |= {f"{layer}.input_layernorm.weight": (HIDDEN,), f"{layer}.post_attention_layernorm.weight": (HIDDEN,)}
        shapes |= _linear(f"{layer}.self_attn.q_proj", HIDDEN, HIDDEN)
        shapes |= _linear(f"{layer}.self_attn.k_proj", kv, HIDDEN)
        shapes |= _linear(f"{layer}.self_attn.v_proj", kv, HIDDEN)
        shapes[f"{layer}.self_attn.o_proj.weight"] = (HIDDEN, HIDDEN)
        shapes[f"{layer}.mlp.gate_proj.weight"] = (INTERMEDIATE, HIDDEN)
        shapes[f"{layer}.mlp.up_proj.weight"] = (INTERMEDIATE, HIDDEN)
        shapes[f"{layer}.mlp.down_proj.weight"] = (HIDDEN, INTERMEDIATE)
    shapes |= {"model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCAB_SIZE, HIDDEN), "model.image_newline": (HIDDEN,)}
    shapes |= _linear("model.mm_projector.0", HIDDEN, TOWER_HIDDEN)
    shapes |= _linear("model.mm_projector.2", HIDDEN, HIDDEN)
    return shapes | {
        f"model.vision_tower.vision_tower.{name}": shape for name, shape in tower_shapes(TOWER_LAYERS - 1).items()
    }


def tower_shapes(layers: int) -> Shapes:
    """Every tensor of a SigLIP tower of that many layers, without a pooling head."""
    embeddings = "vision_model.embeddings"
    shapes: Shapes = {
        f"{embeddings}.patch_embedding.weight": (TOWER_HIDDEN, 3, PATCH_SIZE, PATCH_SIZE),
        f"{embeddings}.patch_embedding.bias": (TOWER_HIDDEN,),
        f"{embeddings}.position_embedding.weight": ((IMAGE_SIZE // PATCH_SIZE) ** 2, TOWER_HIDDEN),
    }
    for j in range(layers):
        layer = f"vision_model.encoder.layers.{j}"
        shapes |= _norm(f"{layer}.layer_norm1") | _norm(f"{layer}.layer_norm2")
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= _linear(f"{layer}.self_attn.{part}", TOWER_HIDDEN, TOWER_HIDDEN)
        shapes |= _linear(f"{layer}.mlp.fc1", TOWER_INTERMEDIATE, TOWER_HIDDEN)
        shapes |= _linear(f"{layer}.mlp.fc2", TOWER_HIDDEN, TOWER_INTERMEDIATE)
    return shapes | _norm("vision_model.post_layernorm")


def _linear(name: str, out: int, into: int) -> Shapes:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def _norm(name: str) -> Shapes:
    return {f"{name}.weight": (TOWER_HIDDEN,), f"{name}.bias": (TOWER_HIDDEN,)}


def _sample(shapes: Shapes, generator: torch.Generator, dtype: torch.dtype) -> dict[str, Tensor]:
    """Random tensors that keep activations near 1: matrices by their fan-in, norms near 1, other vectors small."""
    tensors = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            value = noise / math.sqrt(math.prod(shape[1:]))
        elif name.endswith(("norm.weight", "norm1.weight", "norm2.weight")):
            value = 1 + 0.1 * noise
        else:
            value = 0.02 * noise
        tensors[name] = value.to(dtype)
    return tensors


def _write_shards(path: Path, tensors: dict[str, Tensor], shards: int) -> None:
    names = list(tensors)
    weight_map: dict[str, str] = {}
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = names[i::shards]
        save_file({name: tensors[name] for name in part}, path / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    total_size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    _write_json(
        path / "model.safetensors.index.json", {"metadata": {"total_size": total_size}, "weight_map": weight_map}
    )


def _write_tokenizer(path: Path) -> None:
    """Qwen2's byte-level BPE without merges: every byte of the (NFC) text is a token."""
    tokenizer = Tokenizer(models.BPE(vocab=BYTE_TOKENS, merges=[]))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS])
    tokenizer.save(str(path / "tokenizer.json"))

    def described(token: str) -> dict[str, Any]:
        return {"content": token, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}

    _write_json(path / "vocab.json", BYTE_TOKENS)
    (path / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    _write_json(path / "added_tokens.json", SPECIAL_TOKENS)
    _write_json(
        path / "special_tokens_map.json",
        {
            "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
            "eos_token": described("<|im_end|>"),
            "pad_token": described("<|endoftext|>"),
        },
    )
    _write_json(
        path / "tokenizer_config.json",
        {
            "add_prefix_space": False,
            "added_tokens_decoder": {
                str(i): described(token) | {"special": True} for token, i in SPECIAL_TOKENS.items()
            },
            "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
            "bos_token": None,
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|im_end|>",
            "errors": "replace",
            "model_max_length": 32768,
            "pad_token": "<|endoftext|>",
            "padding_side": "right",
            "split_special_tokens": False,
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
        },
    )


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
