import pytest
import torch

from eval.models import canary
from eval.models.canary import KINDS, CanaryError, largest_difference, require_for, require_sound
from vidcom2 import Dense, VidCom2, compressor
from vidcom2.methods.fastv import FastV
from vidcom2.models import hooks, layers, names


@pytest.mark.parametrize("inside", [False, True], ids=["before", "inside"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_installed_compresses_right(kind, inside):
    require_sound.__wrapped__(kind, inside)


def lost(call):
    """What hooks find where a release has renamed the key-value cache."""


@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen3_vl", "qwen3_5"])
def test_a_cache_that_is_not_found_shows(kind, monkeypatch):
    """Nothing raises then: the mask and the positions of the steps after the prefill are wrong."""
    monkeypatch.setattr(hooks, "cache_of", lost)
    assert largest_difference(kind, VidCom2(0.4, positions="original")) > 100 * canary.TOLERANCE


@pytest.mark.parametrize("kind", ["LlavaQwenForCausalLM", "qwen2_5_vl"])
def test_a_cache_that_layers_do_not_find_shows(kind, monkeypatch):
    monkeypatch.setattr(layers, "cache_of", lost)
    with pytest.raises(CanaryError, match=rf"fastv.* on a tiny {kind} model (gives logits|fails)"):
        require_sound.__wrapped__(kind, inside=True)


@pytest.mark.parametrize("compressor", [VidCom2(0.4, positions="original"), FastV(0.5, k=1)])
def test_a_model_that_stays_dense_shows(compressor, monkeypatch):
    monkeypatch.setattr(hooks.Hooks, "called", property(lambda self: None))
    assert largest_difference("qwen2_vl", compressor) == float("inf")


def test_the_refusal_names_versions_and_cure(monkeypatch):
    monkeypatch.setattr(names, "CACHE", ("kv_store",))
    names._cache_name.cache_clear()
    with pytest.raises(
        CanaryError, match=r"vidcom2@0\.4.* on a tiny qwen2_vl .* fails .*kv_store.*transformers \d.*requirements"
    ):
        require_sound.__wrapped__("qwen2_vl", inside=False)


def test_each_kind_of_method_is_tried(monkeypatch, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_5_vl"}')
    tried = []
    monkeypatch.setattr(canary, "require_sound", lambda kind, inside: tried.append((kind, inside)))
    require_for(str(tmp_path), [Dense()])
    assert tried == []
    require_for(
        str(tmp_path),
        [compressor(spec) for spec in ("none", "vidcom2@0.25", "uniform@0.5", "fastv@0.5", "vidcom2@0.5")],
    )
    assert tried == [("qwen2_5_vl", False), ("qwen2_5_vl", True)]


def test_random_numbers_of_others_are_left_alone():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    largest_difference("qwen2_vl", FastV(0.5, k=1))
    assert torch.equal(torch.random.get_rng_state(), before)
