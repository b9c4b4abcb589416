"""lmms-eval's own, unmodified LLaVA wrappers on our llava package, and our engine against them."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from eval.benchmarks import select_tasks
from eval.models import protocol_for
from eval.models.llava import LLAVA_PROTOCOLS, LlavaEngine
from eval.run.lmms import load_tasks
from llava.video import FrameSampling
from vidcom2 import Dense, VidCom2

WRAPPERS = {
    "llava_onevision": "",
    "llava_vid": ",conv_template=qwen_1_5,max_frames_num=64,mm_spatial_pool_mode=average",
}


@pytest.mark.parametrize(
    "compressor",
    [
        pytest.param(Dense(), marks=pytest.mark.slow),
        VidCom2(0.25),
        pytest.param(VidCom2(0.5, rounding="exact", positions="original"), marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    ("name", "time_instruction"),
    [("llava_onevision", False), pytest.param("llava_vid", False, marks=pytest.mark.slow), ("llava_vid", True)],
)
def test_wrapper_and_engine_answer_alike(
    name, compressor, time_instruction, onevision, llava_video, mvbench, tasks, monkeypatch
):
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.models import get_model

    checkpoint = str(onevision if name == "llava_onevision" else llava_video)
    monkeypatch.setenv("COMPRESSOR", compressor.spec)
    monkeypatch.delenv("R_RATIO", raising=False)
    arguments = f"pretrained={checkpoint},device_map=auto{WRAPPERS[name]}"
    if time_instruction:
        arguments += ",add_time_instruction=True"
    wrapper = get_model(name).create_from_arg_string(arguments, {"batch_size": "1", "device": "cpu"})
    assert wrapper.model.compressor == (compressor if compressor.drops else None)

    benchmark, names = select_tasks(tasks)
    objects = load_tasks(benchmark, names, mvbench, name)
    results = simple_evaluate(model=wrapper, tasks=list(objects.values()), bootstrap_iters=0, log_samples=True)

    protocol = dataclasses.replace(protocol_for(checkpoint), time_instruction=time_instruction)
    assert protocol.harness_name == name
    engine = LlavaEngine(checkpoint, protocol, "cpu", "float16")
    for task in names:
        for sample in results["samples"][task]:
            doc = json.loads((mvbench / "json" / f"{benchmark.short_name(task)}.json").read_text())[sample["doc_id"]]
            video = str(benchmark.local_video(task, mvbench, doc))
            question = sample["arguments"][0]
            ours = engine.answer(
                engine.see(engine.read(video)), question, objects[task].config.generation_kwargs, compressor
            )
            assert ours.text == sample["filtered_resps"][0]
            assert question in ours.prompt


def test_environment_ratio_reaches_the_model(onevision, monkeypatch):
    from llava.model.builder import load_pretrained_model

    monkeypatch.setenv("COMPRESSOR", "vidcom2")
    monkeypatch.setenv("R_RATIO", "0.15")
    _, model, _, _ = load_pretrained_model(str(onevision), None, "llava_qwen", device_map="cpu", torch_dtype="float32")
    assert model.compressor == VidCom2(0.15)


def test_protocols_are_told_apart_by_what_the_checkpoint_says(onevision, llava_video, tmp_path):
    assert protocol_for(str(onevision)) is LLAVA_PROTOCOLS["llava_onevision"]
    assert protocol_for(str(llava_video)) is LLAVA_PROTOCOLS["llava_vid"]
    named = tmp_path / "LLaVA-Video-7B-Qwen2"
    named.mkdir()
    (named / "config.json").write_text(json.dumps({"model_type": "llava_qwen"}))
    assert protocol_for(str(named)) is LLAVA_PROTOCOLS["llava_vid"]


def test_identity_tells_settings_apart(onevision):
    protocol = protocol_for(str(onevision))
    fewer = protocol.sampled(FrameSampling("uniform", max_frames=8))
    settings = [(protocol, "float32"), (fewer, "float32"), (protocol, "float16")]
    engines = [LlavaEngine(str(onevision), p, "cpu", dtype) for p, dtype in settings]
    assert len({engine.identity for engine in engines}) == 3
    assert engines[0].read.dtype == torch.float32
