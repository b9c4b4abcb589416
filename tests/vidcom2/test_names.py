import sys
import warnings

import pytest
import torch
import transformers

from tests.vidcom2.hf_tiny import KINDS, tiny
from vidcom2 import VidCom2
from vidcom2.methods.fastv import FastV
from vidcom2.models import names


def old(hidden, past_key_values=None):
    """As in transformers 5.17 to 5.23."""


def new(hidden, cache=None):
    """As in transformers 5.24."""


def neither(hidden, memory=None):
    """As in no release that we know."""


def test_the_name_of_the_cache():
    assert names.cache_name(old) == "past_key_values"
    assert names.cache_name(new) == "cache"
    with pytest.raises(
        TypeError, match=r"neither of transformers \d.* has no argument cache or past_key_values.*5\.17"
    ):
        names.cache_name(neither)


def test_a_cache_is_found_and_given_under_either_name():
    assert names.cache_of({"past_key_values": "kept"}) == names.cache_of({"cache": "kept"}) == "kept"
    assert names.cache_of({"past_key_values": None, "use_cache": True}) is None
    for function in (old, new):
        kwargs = {"past_key_values": None, "cache": None, "use_cache": True}
        names.give_cache(function, kwargs, "given")
        assert kwargs == {names.cache_name(function): "given", "use_cache": True}


@pytest.mark.parametrize("kind", KINDS)
def test_layers_and_model_agree_on_the_name(kind):
    lm = tiny(kind).model.language_model
    assert len({names.cache_name(lm), *(names.cache_name(layer) for layer in lm.layers)}) == 1


@pytest.mark.parametrize("compressor", [VidCom2(0.5), FastV(0.5, k=1)])
def test_a_model_without_a_known_name_is_refused(compressor):
    model = tiny("qwen2_vl")
    lm = model.model.language_model
    lm.forward = neither
    with pytest.raises(TypeError, match="has no argument cache or past_key_values"):
        compressor.attach(model)
    del lm.forward
    with compressor(model):
        pass


@pytest.mark.parametrize("version", ["5.16.3", "5.25.0", "6.0.0.dev0"])
def test_other_releases_are_warned_of_once(version, monkeypatch):
    model = tiny("qwen2_vl")  # before the version is set: transformers may replace its module
    monkeypatch.setattr(sys.modules["transformers"], "__version__", version)
    names.warn_untested.cache_clear()
    with pytest.warns(UserWarning, match=rf"not tested with transformers {version}, but with 5\.17 to 5\.24.*<5\.25"):
        VidCom2(0.5).attach(model).detach()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        VidCom2(0.5).attach(model)
    names.warn_untested.cache_clear()


@pytest.mark.parametrize("version", ["5.17.0", "5.23.0", "5.24.2"])
def test_tested_releases_are_not_warned_of(version, monkeypatch):
    monkeypatch.setattr(transformers, "__version__", version)
    names.warn_untested.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        names.warn_untested()
    names.warn_untested.cache_clear()


def test_a_mask_is_read_in_every_form():
    padding = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    seen = padding.bool()[:, None, None].expand(-1, -1, 3, -1)  # what each of three new tokens sees, were it not causal
    forms = [padding, padding.bool(), seen, torch.where(seen, 0.0, -torch.inf), {"full_attention": seen}]
    for mask in forms:
        kwargs = {"attention_mask": mask}
        assert names.valid_new(kwargs, 3, past=2).tolist() == [[True] * 3] * 2
        assert names.valid_before(kwargs, 3, past=2).tolist() == [[False] * 2, [True] * 2]
    assert names.valid_new({}, 3, past=2) is None
    assert names.valid_before({}, 3, past=2) is None
