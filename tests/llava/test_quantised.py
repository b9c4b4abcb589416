"""load_8bit, load_4bit, and other models that bitsandbytes quantised. bitsandbytes runs on the CPU, too."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BitsAndBytesConfig, Qwen2Config, Qwen2ForCausalLM

from tests.llava.test_builder import WORDS, answers, checkpoint, load, save_tokenizer
from tests.llava.tiny import LANGUAGE, TOWER, tower_directory, video
from vidcom2 import compressor

bnb = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")

BLOCK = 64
"""Weights that share a scale. On a CPU, bitsandbytes takes only rows of whole blocks."""
BITS = {"load_8bit": "Linear8bitLt", "load_4bit": "Linear4bit"}
INSIDE = ("model.vision_tower", "model.mm_projector", "lm_head")


@pytest.fixture(autouse=True)
def no_compressor_in_the_environment(monkeypatch):
    monkeypatch.delenv("COMPRESSOR", raising=False)


def saved(path: Path, **config: Any) -> tuple[Path, Any]:
    return checkpoint(path, hidden_size=BLOCK, intermediate_size=2 * BLOCK, **config)


def restored(original: Any, quantised: Any) -> Any:
    """Return the original with the quantised layers' weights as floats: it computes what the quantised model should.

    Call it before the first forward, in which bitsandbytes repacks the weights.
    """
    twin = copy.deepcopy(original)
    for name, module in quantised.named_modules():
        if isinstance(module, bnb.nn.Linear4bit):
            weight = bnb.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
        elif isinstance(module, bnb.nn.Linear8bitLt):
            weight = module.weight.data.float() * module.weight.SCB[:, None].float() / 127
        else:
            continue
        twin.get_submodule(name).weight.data = weight.float().reshape(twin.get_submodule(name).weight.shape)
    return twin


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("projector", ["mlp2x_gelu", "linear"])
def test_the_language_model_is_quantised_and_nothing_else(tmp_path, bits, dtype, projector):
    path, original = saved(tmp_path, mm_projector_type=projector)
    model = load(path, torch_dtype=dtype, **{bits: True})[1]
    kinds = {name: type(module).__name__ for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert len(kinds) > 20
    for name, kind in kinds.items():
        assert kind == ("Linear" if name.startswith(INSIDE) else BITS[bits]), name

    expected, half = restored(original, model), getattr(torch, dtype)
    pixels = video(3).to(half)
    features = model.encode_images(pixels)
    assert features.dtype == half
    assert torch.equal(features, load(path, torch_dtype=dtype)[1].encode_images(pixels))
    # LLM.int8 rounds what comes in, too, to 127 steps; and half floats are in the kernels.
    agreement = torch.cosine_similarity(answers(model, half).float(), answers(expected)[:, :WORDS])
    assert agreement.min() > (0.998 if bits == "load_8bit" else 0.999)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("spec", ["vidcom2@0.25", "fastv@0.75:k=1"])
def test_quantised_models_are_compressed(tmp_path, bits, spec):
    path, original = saved(tmp_path)
    model = load(path, **{bits: True})[1]
    counts = []
    for one in (model, original):
        with compressor("vidcom2@0.25")(one) as run:
            answers(one)
        counts.append(run.records[0].frames_after)
    assert counts[0] == counts[1]
    with compressor(spec)(model) as run:
        new = model.generate(
            torch.tensor([[5, -200, 7]]), images=[video(3)], modalities=["video"], max_new_tokens=3, do_sample=False
        )
    assert new.shape == (1, 3)
    assert run.records[0].tokens_after < run.records[0].tokens_before


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("projector", ["mlp2x_gelu", "linear"])
def test_a_projector_that_is_quantised_computes_in_floats(tmp_path, monkeypatch, bits, projector):
    """With the user's own quantization_config, which does not name our modules."""
    monkeypatch.setitem(TOWER, "hidden_size", BLOCK)
    monkeypatch.setitem(TOWER, "intermediate_size", 2 * BLOCK)
    path, original = saved(tmp_path, mm_projector_type=projector, mm_hidden_size=BLOCK)
    config = BitsAndBytesConfig(**{f"load_in_{bits}bit": True})
    model = load(path, quantization_config=config)[1]
    assert not any(p.is_floating_point() for n, p in model.model.mm_projector.named_parameters() if "weight" in n)
    expected = restored(original, model).encode_images(video(3))
    features = model.encode_images(video(3))
    assert features.dtype == torch.float32
    assert torch.cosine_similarity(features, expected, dim=-1).min() > 0.99
    answers(model)


def test_a_plain_language_model_in_4_bits(tmp_path):
    Qwen2ForCausalLM(Qwen2Config(**{**LANGUAGE, "hidden_size": BLOCK})).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    model = load(tmp_path, "qwen2", load_4bit=True)[1]
    assert type(model.model.layers[0].mlp.up_proj) is bnb.nn.Linear4bit
    assert type(model.lm_head) is nn.Linear


def test_one_way_to_quantise(tmp_path):
    tower_directory(tmp_path)
    with pytest.raises(ValueError, match="load_8bit and load_4bit are both set"):
        load(tmp_path, load_8bit=True, load_4bit=True)
    with pytest.raises(ValueError, match="beside quantization_config"):
        load(tmp_path, load_8bit=True, quantization_config=BitsAndBytesConfig(load_in_4bit=True))
