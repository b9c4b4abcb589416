"""MiniCPM-V 4.6 and 4.7: transformers' own processor, slices, and methods inside the LLM."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf

from tests.vidcom2.hf_tiny import randomise
from tests.vidcom2.kinds.minicpmv import MIXED, config
from tests.vidcom2.processed import assert_finds_the_frames, byte_tokenizer, frames_of, metadata
from tests.vidcom2.rows import PATCH
from tests.vidcom2.test_in_llm import Native, greedy
from tests.vidcom2.test_in_llm import assert_follows as assert_follows_inside
from tests.vidcom2.test_in_llm import generate as generate_inside
from tests.vidcom2.test_transformers import PRUNED, generate
from vidcom2 import compressor

NAMES = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "image_start_token": "<image>",
    "image_end_token": "</image>",
    "slice_start_token": "<slice>",
    "slice_end_token": "</slice>",
    "image_id_start_token": "<image_id>",
    "image_id_end_token": "</image_id>",
}
WHOLE = {"videos_kwargs": {"max_slice_nums": 1}}


VERSIONS = [version for version in ("4_6", "4_7") if hasattr(hf, f"MiniCPMV{version}Config")]


@pytest.fixture(scope="module", params=VERSIONS)
def version(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def made(version) -> Any:
    sizes = {"patch_size": PATCH, "scale_resolution": 32}
    return getattr(hf, f"MiniCPMV{version}Processor")(
        image_processor=hf.MiniCPMV4_6ImageProcessor(**sizes),
        tokenizer=byte_tokenizer(["<pad>", *NAMES.values()], **NAMES),
        video_processor=hf.MiniCPMV4_6VideoProcessor(**sizes),
    )


@pytest.fixture(scope="module")
def model(made, version) -> Any:
    """A tiny model with the processor's token ids."""
    settings, id_of = config(4, version), made.tokenizer.convert_tokens_to_ids
    settings.text_config.vocab_size = len(made.tokenizer)
    settings.image_token_id, settings.video_token_id = made.image_token_id, made.video_token_id
    if version == "4_7":
        settings.image_start_id, settings.image_end_id = id_of("<image>"), id_of("</image>")
        settings.slice_start_id, settings.slice_end_id = id_of("<slice>"), id_of("</slice>")
        settings.newline_id = made.tokenizer("\n")["input_ids"][0]
    model = getattr(hf, f"MiniCPMV{version}ForConditionalGeneration")(settings)
    randomise(model)
    return model.eval()


def processed(made: Any, videos: list[np.ndarray], **settings: Any) -> Any:
    """A prompt with an image between two videos, and one with two videos. 4.6 may number these."""
    between = "" if isinstance(made, hf.MiniCPMV4_6Processor) else " or "
    return made(
        text=[
            "a<|video_pad|> and <|image_pad|> or <|video_pad|> differ?",
            f"<|video_pad|>{between}<|video_pad|>: what happens?",
        ],
        images=[frames_of(1, 64, 64)[0] if MIXED else frames_of(1, 32, 32)[0]],  # with slices, without
        videos=videos,
        video_metadata=[metadata(len(frames)) for frames in videos],
        do_sample_frames=False,
        padding=True,
        return_tensors="pt",
        **settings,
    )


def test_the_processors_frames_are_found(made, model):
    counts, second = ((4, 1, 3, 2), (48, 96)) if MIXED else ((3, 3, 3, 3), (64, 64))
    videos = [frames_of(count, *(second if i % 2 else (64, 64)), seed=i) for i, count in enumerate(counts)]
    inputs = processed(made, videos, **WHOLE)
    with torch.no_grad():
        out = model.model.get_video_features(
            inputs["pixel_values_videos"], inputs["target_sizes_videos"], return_dict=True
        )
    frames = iter(out.pooler_output)
    expected = [list(islice(frames, count)) for count in counts]
    assert next(frames, None) is None
    assert_finds_the_frames(model, inputs, expected)
    with PRUNED(model) as run:
        generate(model, inputs, max_new_tokens=1)
    assert [record.frames_before for record in run.records] == [(len(video[0]),) * len(video) for video in expected]


@pytest.mark.parametrize("spec", ["vidcom2@0.3", "fastv@0.6"])
def test_slices_are_refused(made, model, spec):
    videos = [frames_of(3, 64, 64, seed=i) for i in range(4)]
    with compressor(spec)(model):
        with pytest.raises(ValueError, match=r"into slices.*max_slice_nums"):
            generate(model, processed(made, videos))
        generate(model, processed(made, videos, **WHOLE), max_new_tokens=1)


@pytest.mark.parametrize("second", [(64, 64), (32, 64)])
def test_videos_side_by_side_are_one(made, model, second):
    """Where they have no numbers either. In 4.7 the positions take them for one as well."""
    if second != (64, 64) and not MIXED:
        pytest.skip("the tower of 5.17 takes frames of one size only")
    inputs = made(
        text=["<|video_pad|><|video_pad|>?"],
        videos=[frames_of(2, 64, 64), frames_of(2, *second, seed=1)],
        do_sample_frames=False,
        use_image_id=False,
        **WHOLE,
    )
    with PRUNED(model) as run:
        if second == (64, 64):
            generate(model, inputs, max_new_tokens=1)
            assert [len(record.frames_before) for record in run.records] == [4]
        else:
            with pytest.raises(ValueError, match=r"have \d+ and \d+ tokens"):
                generate(model, inputs)


@pytest.mark.parametrize("spec", ["fastv@0.5", "pdrop@0.4", "sparsevlm@0.5"])
def test_inside_the_llm(spec, version):
    method, native = compressor(spec), Native(f"minicpmv{version}")
    call = native.call("two")
    with method(native.model):
        out = generate_inside(native.model, call.inputs)
    # The rotary embedding of 5.17 takes nothing but positions of mRoPE.
    prompts = [replace(dense, positions=dense.positions.expand(3, -1)) for dense in call.prompts]
    assert_follows_inside(out, [greedy(native, dense, method) for dense in prompts])
