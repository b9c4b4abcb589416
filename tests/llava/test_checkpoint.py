"""Checkpoints that are missing, of another kind, damaged, or contain code: each gives an error of one line."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from eval.models import load_engine, protocol_for
from llava.model.builder import load_pretrained_model
from tests.eval.qwen_tiny import make_qwen
from tests.llava.test_builder import TOWER_KEY, checkpoint, edit_config, edit_weights, load, save_tower
from tests.vidcom2.hf_tiny import tiny


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """No compressor in the environment, no hub, and a user who answers yes to everything."""
    monkeypatch.delenv("COMPRESSOR", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("builtins.input", lambda *_: "y")


def refusal(run: Callable[[], Any], kind: type[Exception] = ValueError) -> str:
    """Return the message of the error that `run` raises. It must be a single line."""
    with pytest.raises(kind) as caught:
        run()
    text = str(caught.value)
    assert "\n" not in text
    assert "weights_only" not in text
    return text


# ---- not there, or of another kind


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("/nowhere/llava-qwen", "/nowhere/llava-qwen: no such directory, and a hub name would be OWNER/NAME"),
        ("./llava-qwen", "no such directory"),
        ("checkpoints/llava-qwen/7b", "no such directory"),
        ("llava-qwen", "no such directory"),
        ("checkpoints/llava-qwen", "checkpoints/llava-qwen: no such directory, and the hub does not give it: "),
    ],
)
def test_a_path_that_leads_nowhere(place, said):
    assert said in refusal(lambda: load_pretrained_model(place, None, "llava_qwen", device_map="cpu"), OSError)


def test_a_directory_without_a_checkpoint(tmp_path):
    assert f"{tmp_path}: no checkpoint, as there is no config.json" in refusal(lambda: load(tmp_path), OSError)
    (tmp_path / "config.json").write_text("{")
    assert f"{tmp_path}: It looks like the config" in refusal(lambda: load(tmp_path), OSError)
    assert "config.json: a file; give the directory" in refusal(lambda: load(tmp_path / "config.json"), OSError)


@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava_onevision"])
def test_models_of_transformers_own_layout(tmp_path, kind):
    tiny(kind).config.save_pretrained(tmp_path)
    # By whatever name: "llava" and "qwen" in it made a LlavaQwenForCausalLM of it, or the error was of AutoModel's.
    for name in ("llava-onevision-qwen2-7b-ov-hf", "Qwen2-VL-7B-Instruct"):
        text = refusal(lambda name=name: load(tmp_path, name))
        assert f"{tmp_path} is a {kind!r} model, and load_pretrained_model loads LLaVA" in text
        assert "AutoModelForImageTextToText" in text


# ---- code that comes along


def bring_tokenizer_code(path: Path) -> Path:
    """Give a checkpoint its own tokenizer code. Returns the file that the code writes when it runs."""
    file, ran = path / "tokenizer_config.json", path / "it-ran"
    changes = {"auto_map": {"AutoTokenizer": ["own.Own", None]}, "tokenizer_class": "Own"}
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    (path / "own.py").write_text(
        f"open({str(ran)!r}, 'w').close()\n"
        "from transformers import PreTrainedTokenizerFast\n"
        "class Own(PreTrainedTokenizerFast): pass\n"
    )
    return ran


def test_a_tokenizers_code_is_run_only_where_it_is_trusted(tmp_path):
    path, _ = checkpoint(tmp_path)
    ran = bring_tokenizer_code(path)
    text = refusal(lambda: load(path))
    assert f"{path}: its tokenizer or processor cannot be loaded: it is Python code of the checkpoint's own" in text
    assert not ran.exists()
    assert type(load(path, trust_remote_code=True)[0]).__name__ == "Own"
    assert ran.exists()


def test_an_evaluation_runs_no_tokenizers_code(tmp_path):
    path, _ = checkpoint(tmp_path)
    ran = bring_tokenizer_code(path)
    assert "which is not run" in refusal(lambda: load_engine(str(path), protocol_for(str(path)), "cpu", "float32"))
    assert not ran.exists()


def test_an_evaluation_runs_no_processors_code(tmp_path):
    path = make_qwen(tmp_path, "qwen2_vl")
    ran = bring_tokenizer_code(path)
    own = {"processor_class": "Own", "auto_map": {"AutoProcessor": "own.Own"}}
    (path / "processor_config.json").write_text(json.dumps(own))
    with suppress(ValueError):  # transformers has a class of its own to take instead, or not
        load_engine(str(path), protocol_for(str(path)), "cpu", "float32")
    assert not ran.exists()


def test_a_missing_tokenizer(tmp_path):
    path, _ = checkpoint(tmp_path)
    for file in path.glob("token*"):
        file.unlink()
    assert f"{path}: its tokenizer or processor cannot be loaded: " in refusal(lambda: load(path))


# ---- weights


class Opened:
    """An object that writes a file when it is unpickled."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.file),))


def as_pickle(path: Path, write: Callable[[dict[str, torch.Tensor], Path], Any]) -> None:
    weights = path / "model.safetensors"
    write(load_file(weights), path / "pytorch_model.bin")
    weights.unlink()


PICKLES = {
    "more than tensors": lambda state, file: torch.save({**state, "more": Opened(file.parent / "it-ran")}, file),
    "plain": lambda state, file: file.write_bytes(pickle.dumps(Opened(file.parent / "it-ran"))),
    "text": lambda state, file: file.write_text("version https://git-lfs.github.com/spec/v1\n"),
}


@pytest.mark.parametrize("write", PICKLES.values(), ids=PICKLES)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_pickle_that_would_run_code(tmp_path, write):
    path, saved = checkpoint(tmp_path)
    tower = Path(saved.config.mm_vision_tower)
    as_pickle(path, write)
    text = refusal(lambda: load(path))
    assert f"{path}: a weights file (*.bin) is a pickle" in text
    assert "convert to safetensors" in text
    assert not (path / "it-ran").exists()

    # Of a tower's own files it holds, too.
    path, _ = checkpoint(tmp_path / "again")
    save_tower(tower)
    as_pickle(tower, write)
    edit_weights(path, lambda key: key.startswith(TOWER_KEY))
    assert "convert to safetensors" in refusal(lambda: load(path, overwrite_config={"mm_vision_tower": str(tower)}))
    assert not (tower / "it-ran").exists()


def test_a_pickle_of_tensors_only_is_read(tmp_path):
    path, saved = checkpoint(tmp_path)
    as_pickle(path, torch.save)
    state = load(path)[1].state_dict()
    assert torch.equal(state["model.norm.weight"], saved.state_dict()["model.norm.weight"])


@pytest.mark.parametrize("left", [0, 100, 5000])
@pytest.mark.parametrize("form", ["safetensors", "pickle"])
def test_weights_that_are_cut_off(tmp_path, form, left):
    path, _ = checkpoint(tmp_path)
    if form == "pickle":
        as_pickle(path, torch.save)
    (file,) = [*path.glob("*.safetensors"), *path.glob("*.bin")]
    file.write_bytes(file.read_bytes()[:left])
    assert f"{path}: a weights file is damaged or cut off (" in refusal(lambda: load(path)).replace(" (*.bin)", "")


def test_weights_of_another_shape(tmp_path):
    path, _ = checkpoint(tmp_path)
    edit_config(path, intermediate_size=65)
    text = refusal(lambda: load(path))
    assert f"{path} does not fit its config.json: 6 weights of LlavaQwenForCausalLM have another shape" in text
    assert "model.layers.0.mlp.down_proj.weight, [48, 64] in the file, [48, 65] by the config" in text


def test_a_towers_own_weights_of_another_shape(tmp_path):
    path, saved = checkpoint(tmp_path)
    tower = Path(saved.config.mm_vision_tower)
    save_tower(tower)
    edit_config(tower, intermediate_size=50)
    edit_weights(path, lambda key: key.startswith(TOWER_KEY))
    text = refusal(lambda: load(path))
    assert (
        f"tower {str(tower)!r} do not fit its config.json: vision_model.encoder.layers.0.mlp.fc1.bias is [48]" in text
    )


@pytest.mark.parametrize("change", ["missing", "shape"])
def test_an_evaluated_qwen_has_all_its_weights(tmp_path, change):
    """transformers fills missing weights with random numbers, and only logs it."""
    path = make_qwen(tmp_path, "qwen2_vl")
    if change == "missing":
        edit_weights(path, lambda name: name.endswith("layers.0.mlp.up_proj.weight"))
        said = "lacks 1 weights of Qwen2VLForConditionalGeneration, model.language_model.layers.0.mlp.up_proj"
    else:
        config = json.loads((path / "config.json").read_text())
        config["text_config"]["intermediate_size"] += 1
        (path / "config.json").write_text(json.dumps(config))
        said = "weights of Qwen2VLForConditionalGeneration have another shape"
    assert said in refusal(lambda: load_engine(str(path), protocol_for(str(path)), "cpu", "float32"))
