"""Public reports on checkpoints: wrong class, wrong pooling, wrong layout, wrong positions.

docs/known-reports.md says what the reporters saw.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from safetensors.torch import load_file, save_file

from eval.cli import parse
from eval.demo.encode import write_video
from eval.doctor import command as doctor
from eval.models import canary, doubts, protocol_for
from eval.models.doubts import FAULTS, of_libraries, of_run
from eval.models.llava import LLAVA_PROTOCOLS
from eval.run.config import RunConfig
from llava.model.builder import load_pretrained_model
from llava.model.language_model.llava_qwen import LlavaQwenForCausalLM
from llava.model.visual_inputs import VisualInput
from tests.fixtures.mvbench import make_mvbench
from tests.llava import tiny as llava_tiny
from tests.odd_videos import noisy_frames
from tests.reports.test_videos import ask, folder_of
from tests.vidcom2.hf_tiny import START, batch, prompt, text, tiny, video
from vidcom2 import Dense, VidCom2

TASK = "mvbench_action_count"


def settings_of(model: Path, data: Path) -> dict[str, Any]:
    """What a dense run writes into settings.json."""
    config = RunConfig(str(model), TASK, Dense(), data / "out", data=data, dtype="float32", device="cpu")
    return config.settings(config.protocol())


def edit_config(model: Path, **changes: Any) -> None:
    file = model / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


# ---- 1: lmms-eval 1541, HoliTom 16


def test_lmms_eval_1541_one_checkpoint_under_the_name_of_another(checkpoint_of, tmp_path):
    """Its config.json decides, the contradiction is said, and the results hold what identifies the weights."""
    data = make_mvbench(tmp_path / "data", tasks=["action_count"], per_task=1)
    disguised = tmp_path / "llava-onevision-qwen2-7b-ov"
    shutil.copytree(checkpoint_of("video"), disguised)
    assert protocol_for(str(disguised)) is LLAVA_PROTOCOLS["llava_vid"]
    settings = settings_of(disguised, data)
    assert [line for line in of_run(settings) if "its scores are not those of LLaVA-OneVision" in line]
    honest, other = (settings_of(checkpoint_of(kind), data) for kind in ("video", "onevision"))
    assert (settings["protocol"], settings["sampling"]) == ("llava_vid", "fps:1,max=64")
    assert settings["weights"] == honest["weights"] != other["weights"]
    assert of_run(honest) == of_run(other) == []


# ---- 2: LLaVA-NeXT 426, lmms-eval 761, 452


def test_llava_next_426_the_class_is_the_checkpoints_not_the_names(checkpoint_of):
    """Whatever the caller calls the model, no weight is left random."""
    path = str(checkpoint_of("onevision"))
    for name in ("llava_onevision", "llava_vid", "llava_llama"):
        _, model, _, _ = load_pretrained_model(path, None, name, device_map="cpu", torch_dtype="float32")
        assert type(model) is LlavaQwenForCausalLM
        held = {}
        for file in Path(path).glob("*.safetensors"):
            held |= load_file(file)
        state = model.state_dict()
        assert len(state) >= len(held)
        rows = len(state["lm_head.weight"])  # as many as the tokenizer has tokens
        for key, weight in held.items():
            assert torch.equal(state[key], weight[:rows] if len(weight) > rows else weight), key


@pytest.mark.parametrize("new_name", [None, "model.image_projector.0"])
def test_lmms_eval_761_a_projector_that_is_not_found_is_an_error(new_name, checkpoint_of, tmp_path):
    path = Path(shutil.copytree(checkpoint_of("onevision"), tmp_path / "model"))
    index = json.loads((path / "model.safetensors.index.json").read_text())
    for file in path.glob("*.safetensors"):
        tensors = load_file(file)
        for key in [key for key in tensors if key.startswith("model.mm_projector.0")]:
            tensor = tensors.pop(key)
            del index["weight_map"][key]
            if new_name is not None:
                key = key.replace("model.mm_projector.0", new_name)
                tensors[key] = tensor
                index["weight_map"][key] = file.name
        save_file(tensors, file, metadata={"format": "pt"})
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"lacks 2 weights of LlavaQwenForCausalLM, model\.mm_projector\.0\.bias"):
        load_pretrained_model(str(path), None, "llava_onevision", device_map="cpu", torch_dtype="float32")


def test_lmms_eval_452_another_protocol_than_the_checkpoints_is_said(checkpoint_of, tmp_path):
    """LLaVA-OneVision under LLaVA-Video's name is evaluated with grid newlines and average pooling."""
    data = make_mvbench(tmp_path / "data", tasks=["action_count"], per_task=1)
    path = Path(shutil.copytree(checkpoint_of("onevision"), tmp_path / "LLaVA-Video-7B-Qwen2"))
    lines = "\n".join(of_run(settings_of(path, data)))
    assert "mm_newline_position='one_token' in its config.json; it is evaluated with 'grid'" in lines
    assert "mm_spatial_pool_mode='bilinear' in its config.json; it is evaluated with 'average'" in lines


# ---- 3: LLaVA-NeXT 408, 379


def test_llava_next_408_the_pooling_is_recorded_and_another_than_the_configs_is_said(checkpoint_of, tmp_path, capsys):
    path = Path(shutil.copytree(checkpoint_of("video"), tmp_path / "model"))
    edit_config(path, mm_spatial_pool_mode="bilinear")
    write_video(folder_of(tmp_path, "action_count") / "a.mp4", noisy_frames(24), 8)
    status, output = ask(tmp_path, "action_count", ["a.mp4"], path, "--workers", 0)
    assert status == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "mm_spatial_pool_mode='bilinear' in its config.json; it is evaluated with 'average'" in said
    results = json.loads((output / "results.json").read_text())
    assert results["run"]["model_config"]["mm_spatial_pool_mode"] == "average"
    (line,) = (json.loads(line) for line in (output / "samples.jsonl").read_text().splitlines())
    assert line["tokens_before"] == 3 * (3 * 3 + 3)  # 3 x 3 tokens and 3 newlines a frame; bilinear would give 4 x 4


# ---- 4: LLaVA-NeXT 441, 454, 271


def test_llava_next_441_a_video_is_not_its_frames_as_images(tmp_path):
    """Row counts of the released towers' 27 x 27 patches, and that each modality gives its own."""
    tower = llava_tiny.tower_directory(tmp_path / "tower")
    edit_config(tower, image_size=27 * 8)
    frames = torch.randn(3, 3, 27 * 8, 27 * 8, generator=torch.Generator().manual_seed(0))
    as_video, as_images = [VisualInput(frames, "video", None)], [VisualInput(f[None], "image", None) for f in frames]
    counts = {}
    for mode, newlines in (("bilinear", "one_token"), ("average", "one_token"), ("average", "grid")):
        model = llava_tiny.tiny_model(
            tmp_path, mm_vision_tower=str(tower), mm_spatial_pool_mode=mode, mm_newline_position=newlines
        )
        (rows,) = model.visual_rows(as_video)
        counts[mode, newlines] = len(rows.rows)
        assert [len(image.rows) for image in model.visual_rows(as_images)] == [27 * 27 + 1] * 3
        model.compressor = VidCom2(0.25)  # it compresses videos only
        assert [len(image.rows) for image in model.visual_rows(as_images)] == [27 * 27 + 1] * 3
        (kept,) = model.visual_rows(as_video)
        assert len(kept.rows) < len(rows.rows) / 2
    assert counts == {
        ("bilinear", "one_token"): 3 * 14 * 14 + 1,
        ("average", "one_token"): 3 * 13 * 13 + 1,
        ("average", "grid"): 3 * 13 * 14,
    }


# ---- 15: transformers 45381, 45325, 48894


@pytest.mark.parametrize("compressor", [Dense(), VidCom2(0.5, positions="original")], ids=["dense", "compressed"])
def test_transformers_45381_qwen2_5_positions_are_right_or_the_fault_is_named(compressor):
    """Time is the seconds of a step, whole or not, times 2 positions per second, cut to a whole number at the end.

    Should this fail with another release, its faults have changed: doubts.FAULTS says which releases have them.
    """
    assert not doubts.ORDER.installed
    model = tiny("qwen2_5_vl")
    lm, seen = model.model.language_model, []
    for frames, seconds in ((4, 1.5), (3, 0.4), (4, 2.0), (6, 0.5)):
        row = prompt("qwen2_5_vl", text(3), video(frames, 3, 2), text(2))
        inputs = batch([row]) | {"second_per_grid_ts": torch.tensor([seconds])}
        first, step = row.ids.index(START) + 1, 2 * (int(seconds) if doubts.WHOLE.installed else seconds)
        grid = [(i, y, x) for i in range(frames) for y in range(3) for x in range(2)]
        places = [[first + int(i * step), first + y, first + x] for i, y, x in grid]
        behind = first + 3 if doubts.BEHIND.installed else max(map(max, places)) + 1
        rows = [[i] * 3 for i in range(first)] + places + [[behind + i] * 3 for i in range(3)]
        with compressor(model) as run:
            handle = lm.register_forward_pre_hook(lambda _, __, kw: seen.append(kw["position_ids"]), with_kwargs=True)
            model.generate(**inputs, max_new_tokens=1, do_sample=False)
            handle.remove()
        got = seen[-1][-3:, 0].T.tolist()
        if compressor.drops:
            assert len(got) == first + sum(run.records[0].frames_after) + 3 < len(rows)
            remaining = iter(rows)
            assert all(place in remaining for place in got), "kept rows have their own positions, in order"
        else:
            assert got == rows
    assert all(str(fault) in of_libraries("qwen2_5_vl") for fault in FAULTS if fault.installed)


def test_transformers_48894_rows_of_llava_onevision():
    """From 5.23 on, its features of a video end with the newline. It takes no part in the choice, and stays."""
    model, frames, tokens = tiny("llava_onevision"), 4, 16
    inputs = batch([prompt("llava_onevision", text(3), video(frames), text(2))])
    features = model.model.get_video_features(inputs["pixel_values_videos"], return_dict=True).pooler_output
    inside = Version(transformers.__version__) >= Version("5.23")
    assert features.flatten(0, -2).shape[0] == frames * tokens + inside
    with VidCom2(0.25)(model) as run:
        model.generate(**inputs, max_new_tokens=1, do_sample=False)
    (record,) = run.records
    assert (record.frames_before, record.separators_before) == ((tokens,) * frames, 1)
    assert record.separators_after == 1


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("5.2.0", ["not tested with transformers 5.2.0, but with 5.17 to 5.24"]),
        ("5.4.0", ["get one time position", "cut to a whole number", "not behind its last", "not tested with"]),
        ("5.17.0", ["cut to a whole number, 0 above 2 frames/s. Install 5.18 or later", "not behind its last"]),
        ("5.18.0", ["not behind its last"]),
        ("5.24.0", ["not behind its last"]),
        ("5.30.1", ["not behind its last", "not tested with transformers 5.30.1"]),
    ],
)
def test_transformers_45381_the_doctor_names_bad_releases(version, said, tmp_path, monkeypatch, capsys):
    data = make_mvbench(tmp_path / "data", tasks=["action_count"], per_task=1)
    monkeypatch.setattr(canary, "require_all", lambda: None)  # it has tests of its own
    monkeypatch.setattr(doctor, "read_questions", lambda *_: [])
    for module in (doubts.transformers, sys.modules["transformers"]):  # transformers may replace its module once
        monkeypatch.setattr(module, "__version__", version)
    file = tmp_path / "report.json"
    arguments = parse(["doctor", "--tasks", TASK, "--data", str(data), "--json", str(file)])
    assert doctor.prepare_doctor(arguments)() == 0
    notes, printed = json.loads(file.read_text())["notes"], capsys.readouterr().out
    assert len(notes) == len(said)
    for note, words in zip(notes, said, strict=True):
        assert words in note
        assert note in printed
    assert of_libraries("qwen2_vl") == [note for note in notes if "not tested" in note or "not behind" in note]
    assert of_libraries("llava") == [note for note in notes if "not tested" in note]
