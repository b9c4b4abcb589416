"""Models behind a wrapper: compressed as if they stood alone, or refused."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from tests.llava.test_batches import batch as llava_batch
from tests.llava.tiny import tiny_model
from tests.vidcom2.hf_tiny import batch, tiny
from tests.vidcom2.test_matrix import llava_samples
from tests.vidcom2.test_transformers import rows_of
from vidcom2 import VidCom2, compressor


class Forwards(nn.Module):
    """What peft, deepspeed and others do: attributes that it lacks are those of the model inside."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.inner = model

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner.generate(*args, **kwargs)


def peft_model(model: nn.Module) -> Any:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    return peft.get_peft_model(model, config)  # fresh adapters add nothing


WRAPPERS = {"forwards": lambda model: Forwards(Forwards(model)), "peft": peft_model}
over_wrappers = pytest.mark.parametrize("wrapper", WRAPPERS)
over_specs = pytest.mark.parametrize("spec", ["vidcom2@0.3", "fastv@0.5:k=1"])


def llava_answer(model: Any) -> Any:
    ids, arguments = llava_batch(llava_samples("padded"))
    return model.generate(inputs=ids, **arguments, max_new_tokens=5, min_new_tokens=5, do_sample=False)


@over_wrappers
@over_specs
def test_llava(tmp_path, wrapper, spec):
    model, method = tiny_model(tmp_path, seed=5, num_hidden_layers=3), compressor(spec)
    with method(model) as bare:
        expected, records = llava_answer(model), bare.records
    wrapped = WRAPPERS[wrapper](model)
    dense = llava_answer(wrapped)
    with method(wrapped) as run:
        assert llava_answer(wrapped).tolist() == expected.tolist() != dense.tolist()
        assert run.records == records
        with pytest.raises(RuntimeError, match="compressed already"), method(model):
            pass
    assert llava_answer(wrapped).tolist() == dense.tolist()


@over_wrappers
@over_specs
@pytest.mark.parametrize("kind", ["qwen2_vl", "llava_onevision"])
def test_transformers(kind, wrapper, spec):
    model, method, inputs = tiny(kind), compressor(spec), batch(rows_of(kind, "padded"))
    settings = {"max_new_tokens": 5, "do_sample": False}
    with method(model) as bare:
        expected, records = model.generate(**inputs, **settings), bare.records
    wrapped = WRAPPERS[wrapper](model)
    dense = wrapped.generate(**inputs, **settings)
    with method(wrapped) as run:
        assert wrapped.generate(**inputs, **settings).tolist() == expected.tolist() != dense.tolist()
        assert run.records == records
        with pytest.raises(RuntimeError, match="compressed already"), method(model):
            pass
    assert wrapped.generate(**inputs, **settings).tolist() == dense.tolist()


class Proxy:
    def __init__(self, model: Any):
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (Proxy, "Proxy is of no family"),
        (nn.DataParallel, "DataParallel is of no family"),
        (lambda model: nn.ModuleList([model, tiny("qwen2_vl")]), "holds 2 models .*ForCausalLM, Qwen2VLFor"),
    ],
)
def test_refused(tmp_path, wrap, message):
    model = tiny_model(tmp_path)
    with pytest.raises(TypeError, match=message):
        VidCom2(0.25).attach(wrap(model))
    assert model.compressor is None
