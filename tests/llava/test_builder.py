"""load_pretrained_model reads tiny checkpoints that save_pretrained wrote."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, SiglipVisionConfig, SiglipVisionModel

from llava.mm_utils import tokenizer_image_token
from llava.model.builder import context_length, llava_family, load_pretrained_model
from llava.model.language_model.llava_llama import LlavaLlamaForCausalLM
from llava.model.language_model.llava_qwen import LlavaQwenConfig, LlavaQwenForCausalLM
from llava.model.multimodal_encoder.builder import KNOWN_TOWERS, build_vision_tower
from tests.llava.tiny import LANGUAGE, TOWER, randomise, tiny_model, video
from vidcom2 import VidCom2

WORDS = 60
TOWER_KEY = "model.vision_tower.vision_tower.vision_model."


@pytest.fixture(autouse=True)
def no_compressor_in_the_environment(monkeypatch):
    monkeypatch.delenv("COMPRESSOR", raising=False)
    monkeypatch.delenv("R_RATIO", raising=False)


@pytest.fixture
def offline(monkeypatch):
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError("the network is off in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # or it would try again and again


def save_tokenizer(path: Path) -> None:
    words = {"<pad>": 0, "<unk>": 1, **{f"w{i}": i + 2 for i in range(WORDS - 2)}}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>").save_pretrained(path)


def checkpoint(path: Path, family: str = "qwen", shard: str = "5GB", **config: Any) -> tuple[Path, Any]:
    """A saved checkpoint with its tokenizer, and the model that was saved."""
    model = tiny_model(path, family, **config)
    model.save_pretrained(path / "checkpoint", max_shard_size=shard)
    save_tokenizer(path / "checkpoint")
    return path / "checkpoint", model


def edit_config(path: Path, **changes: Any) -> None:
    """Set fields of config.json; None removes one."""
    file = path / "config.json"
    config = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def edit_weights(path: Path, drop: Any = lambda key: False) -> None:
    file = path / "model.safetensors"
    kept = {k: v.clone() for k, v in load_file(file).items() if not drop(k)}
    save_file(kept, file, metadata={"format": "pt"})


def load(path: Path, name: str = "llava_qwen", **settings: Any) -> tuple[Any, Any, Any, int]:
    return load_pretrained_model(str(path), None, name, **{"device_map": "cpu", "torch_dtype": "float32", **settings})


def assert_same_weights(loaded: Any, saved: Any, rows: int | None = None) -> None:
    """Require bitwise equality. If the vocabulary was resized, compare `rows` of the embedding and of the head."""
    expected = saved.state_dict()
    assert set(loaded.state_dict()) == set(expected)
    for key, value in loaded.state_dict().items():
        cut = slice(rows) if key in ("lm_head.weight", "model.embed_tokens.weight") else slice(None)
        assert value.device.type == "cpu"
        assert torch.equal(value[cut], expected[key][cut].to(value.dtype)), key


def no_garbage(model: Any) -> None:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    assert not [name for name, value in tensors if value.device.type == "meta"]
    assert not [name for name, value in tensors if not value.isfinite().all()]


def answers(model: Any, dtype: torch.dtype = torch.float32, **kwargs: Any) -> Any:
    """Return logits [L, V] of a video prompt."""
    ids = torch.tensor([[5, 6, -200, 7, 8]])
    with torch.inference_mode():
        return model(input_ids=ids, images=[video(3).to(dtype)], modalities=["video"], **kwargs).logits[0]


# ---- what comes back


@pytest.mark.parametrize("device_map", ["auto", "cpu"])
@pytest.mark.parametrize(
    ("family", "kind"), [("qwen", LlavaQwenForCausalLM), ("llama", LlavaLlamaForCausalLM)], ids=["qwen", "llama"]
)
def test_loads_both_families(tmp_path, monkeypatch, family, kind, device_map):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    path, saved = checkpoint(tmp_path, family)
    tokenizer, model, processor, length = load(path, device_map=device_map)
    assert type(model) is kind
    assert not model.training
    assert len(tokenizer) == WORDS == model.get_input_embeddings().num_embeddings == model.lm_head.out_features
    assert model.config.vocab_size == WORDS
    assert_same_weights(model, saved, WORDS)
    no_garbage(model)
    assert processor is model.get_vision_tower().image_processor
    assert length == LANGUAGE["max_position_embeddings"]
    torch.testing.assert_close(answers(model), answers(saved)[:, :WORDS], atol=1e-5, rtol=0)


def test_class_comes_from_config_json_not_from_the_name(tmp_path):
    path, _ = checkpoint(tmp_path, "qwen")
    edit_config(path, model_type="llava")
    assert type(load(path, "llava_llama_v1.5")[1]) is LlavaQwenForCausalLM
    edit_config(path, architectures=None)
    assert type(load(path, "my-LLaVA-Qwen")[1]) is LlavaQwenForCausalLM
    edit_config(path, model_type="llava_qwen")
    assert type(load(path, "anything")[1]) is LlavaQwenForCausalLM


def test_family_by_name():
    tower = {"mm_vision_tower": "x", "model_type": "llava"}
    assert llava_family(tower, "llava-v1.5-7b") == "LlavaLlamaForCausalLM"
    assert llava_family(tower, "LLaVA-Vicuna") == "LlavaLlamaForCausalLM"
    assert llava_family({"model_type": "qwen2"}, "qwen2-7b") is None
    with pytest.raises(ValueError, match="no supported LLaVA class"):
        llava_family(tower, "llava-mixtral")


def test_shards(tmp_path):
    path, saved = checkpoint(tmp_path, shard="30KB")
    assert len(list(path.glob("*.safetensors"))) > 3
    assert_same_weights(load(path)[1], saved, WORDS)


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        ("float16", torch.float16),
        ("bfloat16", torch.bfloat16),
        ("float32", torch.float32),
        (torch.float16, torch.float16),
        (torch.bfloat16, torch.bfloat16),
        (torch.float32, torch.float32),
    ],
)
def test_dtypes(tmp_path, given, dtype):
    path, saved = checkpoint(tmp_path)
    model = load(path, torch_dtype=given)[1]
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert model.get_vision_tower().dtype == dtype
    assert_same_weights(model, saved, WORDS)
    no_garbage(model)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_generates_in_half_precision(tmp_path, dtype):
    path, saved = checkpoint(tmp_path)
    model = load(path, torch_dtype=dtype)[1]
    half = getattr(torch, dtype)
    logits = answers(model, half)
    assert logits.dtype == half
    expected = answers(saved)[:, :WORDS]
    assert torch.cosine_similarity(logits.float(), expected).min() > 0.98
    for compressor in (VidCom2(0.25), VidCom2(0.25, positions="original")):
        with compressor(model):
            new = model.generate(
                torch.tensor([[5, -200, 7]]), images=[video(3).to(half)], modalities=["video"], max_new_tokens=3
            )
        assert new.shape == (1, 3)


@pytest.mark.parametrize("bad", ["float64", "auto", "fp16", torch.int8, torch.float64, None])
def test_bad_dtype(tmp_path, bad):
    with pytest.raises(ValueError, match=r"torch_dtype=.* is not supported"):
        load(tmp_path, torch_dtype=bad)


# ---- attention


@pytest.mark.parametrize("attention", ["eager", "sdpa", None])
@pytest.mark.parametrize("overwrite", [None, {"mm_newline_position": "grid"}])
def test_attention(tmp_path, attention, overwrite):
    path, saved = checkpoint(tmp_path)
    model = load(path, attn_implementation=attention, overwrite_config=overwrite)[1]
    # None takes flash attention only where there is a GPU to run it.
    if attention is not None:
        assert model.config._attn_implementation == attention
    saved.config.mm_newline_position = "grid" if overwrite else "one_token"
    torch.testing.assert_close(answers(model), answers(saved)[:, :WORDS], atol=1e-4, rtol=0)


def test_attention_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install flash-attn"):
        load(tmp_path, attn_implementation="flash_attention_2")
    with pytest.raises(ValueError, match="attn_implementation='flash'"):
        load(tmp_path, attn_implementation="flash")


# ---- config


def test_overwrite_config(tmp_path):
    path, _ = checkpoint(tmp_path, mm_newline_position="one_token")
    changes = {
        "mm_spatial_pool_mode": "average",
        "mm_spatial_pool_stride": 3,
        "mm_newline_position": "frame",
        "tokenizer_model_max_length": 99,
    }
    model = load(path, overwrite_config=changes)[1]
    assert {k: getattr(model.config, k) for k in changes} == changes
    answers(model)
    assert model.visual_records[0].frames_before == (4, 4, 4)  # 7x7 patches in steps of 3
    assert model.visual_records[0].separators_before == 3


def test_rope_scaling_of_llama(tmp_path):
    path, saved = checkpoint(tmp_path, "llama", rope_theta=50000.0)
    plain = load(path)[1]
    scaled = load(path, overwrite_config={"rope_scaling": {"rope_type": "linear", "factor": 4.0}})[1]
    frequencies = plain.model.rotary_emb.inv_freq
    torch.testing.assert_close(scaled.model.rotary_emb.inv_freq, frequencies / 4)
    torch.testing.assert_close(frequencies, saved.model.rotary_emb.inv_freq)
    old_spelling = load(path, overwrite_config={"rope_scaling": {"type": "linear", "factor": 2.0}})[1]
    torch.testing.assert_close(old_spelling.model.rotary_emb.inv_freq, frequencies / 2)


def test_rope_scaling_of_qwen_is_ignored(tmp_path):
    path, saved = checkpoint(tmp_path, rope_theta=50000.0)
    model = load(path, overwrite_config={"rope_scaling": {"rope_type": "linear", "factor": 4.0}})[1]
    assert torch.equal(model.model.rotary_emb.inv_freq, saved.model.rotary_emb.inv_freq)
    head = LANGUAGE["hidden_size"] // LANGUAGE["num_attention_heads"]
    theta = 50000.0 ** (-torch.arange(0, head, 2) / head)
    torch.testing.assert_close(model.model.rotary_emb.inv_freq, theta)


def test_customized_config(tmp_path):
    path, _ = checkpoint(tmp_path)
    config = LlavaQwenConfig.from_pretrained(path)
    config.mm_newline_position = "frame"
    model = load(path, customized_config=config, overwrite_config={"mm_spatial_pool_mode": "max"})[1]
    assert type(model) is LlavaQwenForCausalLM
    assert (model.config.mm_newline_position, model.config.mm_spatial_pool_mode) == ("frame", "max")
    assert config.mm_spatial_pool_mode == "bilinear"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, 2048),
        ({"tokenizer_model_max_length": 5}, 5),
        ({"tokenizer_model_max_length": 5, "max_position_embeddings": 7}, 7),
        ({"tokenizer_model_max_length": 5, "max_position_embeddings": 7, "max_sequence_length": 9}, 9),
    ],
)
def test_context_length(config, expected):
    assert context_length(SimpleNamespace(**config)) == expected


# ---- tokenizer


def test_image_tokens(tmp_path):
    path, saved = checkpoint(tmp_path)
    edit_config(path, mm_use_im_patch_token=None)  # absent, which asks for <im_patch>
    tokenizer, model, *_ = load(path, overwrite_config={"mm_use_im_start_end": True})
    assert tokenizer.convert_tokens_to_ids(["<im_patch>", "<im_start>", "<im_end>"]) == [WORDS, WORDS + 1, WORDS + 2]
    assert model.get_input_embeddings().num_embeddings == model.lm_head.out_features == WORDS + 3
    assert_same_weights(model, saved, WORDS)
    assert tokenizer_image_token("w1 w2<image>w3", tokenizer) == [3, 4, -200, 5]


# ---- towers


def save_tower(path: Path, seed: int = 50) -> dict[str, torch.Tensor]:
    """Fill a tower directory with transformers' own files; returns its weights under our names."""
    theirs = SiglipVisionModel(SiglipVisionConfig(**TOWER))
    randomise(theirs, seed)
    theirs.save_pretrained(path)
    return {TOWER_KEY + k.removeprefix("vision_model."): v for k, v in theirs.state_dict().items()}


def test_tower_of_the_checkpoint_wins(tmp_path):
    path, saved = checkpoint(tmp_path)
    save_tower(Path(saved.config.mm_vision_tower))
    assert_same_weights(load(path)[1], saved, WORDS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("device_map", ["auto", "cpu", None])
def test_tower_missing_in_the_checkpoint_comes_from_its_own_files(tmp_path, monkeypatch, device_map, dtype):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    path, saved = checkpoint(tmp_path)
    own = save_tower(Path(saved.config.mm_vision_tower))
    edit_weights(path, lambda key: key.startswith(TOWER_KEY))
    model = load(path, device_map=device_map, torch_dtype=dtype)[1]
    saved.load_state_dict({k: own.get(k, v) for k, v in saved.state_dict().items()})
    assert_same_weights(model, saved, WORDS)
    assert model.get_vision_tower().dtype == dtype


def test_only_the_missing_tower_weights_come_from_its_own_files(tmp_path):
    path, saved = checkpoint(tmp_path)
    own = save_tower(Path(saved.config.mm_vision_tower))
    edit_weights(path, lambda key: key.startswith(TOWER_KEY + "post_layernorm"))
    state = saved.state_dict()
    saved.load_state_dict({k: own[k] if "post_layernorm" in k else v for k, v in state.items()})
    assert_same_weights(load(path)[1], saved, WORDS)


def test_tower_weights_nowhere(tmp_path):
    path, _ = checkpoint(tmp_path)
    edit_weights(path, lambda key: key.startswith(TOWER_KEY))
    with pytest.raises(OSError, match=r"has none of .*model\.safetensors"):
        load(path)


PARTS = (
    "model.embed_tokens",
    "model.layers",
    "model.norm",
    "model.vision_tower",
    "model.mm_projector",
    "lm_head",
)


def on_disk(path: Path, part: str) -> dict[str, Any]:
    """Return settings of `load` that leave `part` on the disk and all else on the CPU."""
    places = dict.fromkeys((*PARTS, "model.rotary_emb", "model.image_newline"), "cpu") | {part: "disk"}
    return {"device_map": places, "offload_folder": str(path)}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("compressor", [None, VidCom2(0.25)], ids=["dense", "vidcom2"])
def test_part_on_the_disk(tmp_path, part, compressor):
    path, _ = checkpoint(tmp_path, vocab_size=WORDS)
    part_there, whole = (load(path, compressor=compressor, **more)[1] for more in (on_disk(tmp_path, part), {}))
    assert any(weight.is_meta for weight in part_there.parameters())
    assert torch.equal(answers(part_there), answers(whole))


@pytest.mark.parametrize("part", ["model.embed_tokens", "lm_head"])
def test_vocabulary_on_the_disk(tmp_path, part):
    """Its size stays: rows without a token are kept, and it cannot grow."""
    path, saved = checkpoint(tmp_path / "larger")
    assert torch.equal(answers(load(path, **on_disk(tmp_path, part))[1]), answers(saved))
    path, _ = checkpoint(tmp_path / "smaller", vocab_size=WORDS - 1)
    with pytest.raises(ValueError, match=f"the model has {WORDS - 1} embeddings, the tokenizer {WORDS} tokens"):
        load(path, **on_disk(tmp_path, part))


def test_tower_weights_for_an_offloaded_tower(tmp_path):
    path, saved = checkpoint(tmp_path)
    save_tower(Path(saved.config.mm_vision_tower))
    edit_weights(path, lambda key: key.startswith(TOWER_KEY + "post_layernorm"))
    with pytest.raises(ValueError, match=r"offloaded tower: give model\.vision_tower a device"):
        load(path, **on_disk(tmp_path, "model.vision_tower"))


@pytest.mark.parametrize(
    "key", ["model.mm_projector.2.bias", "model.image_newline", "model.layers.1.mlp.up_proj.weight"]
)
def test_missing_weight(tmp_path, key):
    path, _ = checkpoint(tmp_path)
    edit_weights(path, lambda name: name == key)
    with pytest.raises(ValueError, match=f"lacks 1 weights of LlavaQwenForCausalLM, {key}"):
        load(path)


def test_weight_of_another_shape(tmp_path):
    path, _ = checkpoint(tmp_path)
    with pytest.raises(ValueError, match=r"mm_projector\.0\.weight, \[48, 32\] in the file, \[48, 33\] by the config"):
        load(path, overwrite_config={"mm_hidden_size": TOWER["hidden_size"] + 1})


def test_tower_inside_the_checkpoint(tmp_path):
    path, saved = checkpoint(tmp_path)
    own = save_tower(path / "my_tower")
    edit_config(path, mm_vision_tower="my_tower")
    assert_same_weights(load(path)[1], saved, WORDS)
    edit_weights(path, lambda key: key.startswith(TOWER_KEY))
    for model in (load(path)[1], LlavaQwenForCausalLM.from_pretrained(path)):
        for key, value in model.state_dict().items():
            if key.startswith(TOWER_KEY):
                assert torch.equal(value, own[key])


@pytest.mark.parametrize("name", KNOWN_TOWERS)
def test_known_towers_need_no_network(offline, name):
    with torch.device("meta"):
        tower = build_vision_tower(SimpleNamespace(mm_vision_tower=name))
    side = {"google/siglip-so400m-patch14-384": 27, "openai/clip-vit-large-patch14": 16}.get(name, 24)
    assert tower.num_patches_per_side == side
    assert tower.hidden_size == (1152 if "siglip" in name else 1024)
    assert tower.image_processor.crop_size["height"] == tower.image_size


def test_tower_that_does_not_exist(offline, tmp_path):
    path, _ = checkpoint(tmp_path)
    with pytest.raises(OSError, match="point mm_vision_tower"):
        load(path, overwrite_config={"mm_vision_tower": str(tmp_path / "nowhere")})
    with pytest.raises(OSError, match="point mm_vision_tower"):
        load(path, overwrite_config={"mm_vision_tower": "nobody/no-such-tower"})
    with pytest.raises(ValueError, match="names no vision tower"):
        load(path, overwrite_config={"mm_vision_tower": None})


# ---- compressors


def test_compressor_from_the_environment(tmp_path, monkeypatch):
    path, _ = checkpoint(tmp_path)
    assert load(path)[1].compressor is None
    monkeypatch.setenv("COMPRESSOR", "vidcom2")
    monkeypatch.setenv("R_RATIO", "0.5")
    model = load(path)[1]
    monkeypatch.setenv("R_RATIO", "0.1")  # read once, at load
    assert model.compressor == VidCom2(0.5)
    answers(model)
    assert model.visual_records[0].method == "vidcom2@0.5"
    assert load(path, compressor=None)[1].compressor is None
    assert load(path, compressor=VidCom2(0.3))[1].compressor == VidCom2(0.3)
    monkeypatch.setenv("COMPRESSOR", "vidcom3")
    with pytest.raises(ValueError, match="COMPRESSOR='vidcom3'"):
        load(tmp_path / "never reached")


# ---- the rest


def test_plain_language_model(tmp_path):
    model = Qwen2ForCausalLM(Qwen2Config(**LANGUAGE))
    model.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    _, loaded, processor, length = load(tmp_path, "qwen2")
    assert type(loaded) is Qwen2ForCausalLM
    assert processor is None
    assert length == LANGUAGE["max_position_embeddings"]


def test_a_plain_language_model_cannot_be_compressed(tmp_path):
    Qwen2ForCausalLM(Qwen2Config(**LANGUAGE)).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    with pytest.raises(TypeError, match="Qwen2ForCausalLM is of no family"):
        load(tmp_path, "qwen2", compressor=VidCom2(0.25))


def test_refused_arguments(tmp_path):
    with pytest.raises(ValueError, match="LoRA"):
        load_pretrained_model(str(tmp_path), "base", "llava_qwen")


@pytest.mark.parametrize("family", ["qwen", "llama"])
@pytest.mark.parametrize("tied", [False, True])
def test_round_trip(tmp_path, family, tied):
    path, saved = checkpoint(tmp_path, family, tie_word_embeddings=tied)
    loaded = type(saved).from_pretrained(path).eval()
    assert torch.equal(answers(loaded), answers(saved))
    no_garbage(loaded)
    loaded.save_pretrained(tmp_path / "again")
    shutil.rmtree(path)
    again, info = type(saved).from_pretrained(tmp_path / "again", output_loading_info=True)
    assert not info["missing_keys"]
    assert torch.equal(answers(again.eval()), answers(saved))
    assert ("lm_head.weight" in load_file(tmp_path / "again" / "model.safetensors")) is not tied


def test_checkpoint_keys(tmp_path):
    """Keys are those of the published checkpoints, whatever names transformers prefers."""
    path, saved = checkpoint(tmp_path)
    keys = load_file(path / "model.safetensors").keys()
    assert set(keys) == set(saved.state_dict())
    for key in (
        "model.embed_tokens.weight",
        "model.image_newline",
        "model.mm_projector.0.weight",
        "model.mm_projector.2.bias",
        f"{TOWER_KEY}embeddings.patch_embedding.bias",
        f"{TOWER_KEY}encoder.layers.1.self_attn.out_proj.weight",
        f"{TOWER_KEY}post_layernorm.weight",
    ):
        assert key in keys
    assert not any("encoder.layers.2" in key or ".head." in key for key in keys)
