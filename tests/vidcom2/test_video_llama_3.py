"""VideoLLaMA 3 beside the matrix of tests/vidcom2/test_kinds.py: its processor, the tokens that it drops itself, and
methods inside the LLM."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf

from tests.vidcom2.hf_tiny import randomise
from tests.vidcom2.kinds.video_llama_3 import config
from tests.vidcom2.processed import assert_finds_the_frames, byte_tokenizer, frames_of, metadata
from tests.vidcom2.rows import PATCH
from tests.vidcom2.test_in_llm import Native, greedy
from tests.vidcom2.test_in_llm import assert_follows as assert_follows_inside
from tests.vidcom2.test_in_llm import generate as generate_inside
from tests.vidcom2.test_transformers import PRUNED, generate
from vidcom2 import compressor

KIND = "video_llama_3"
SPECIAL = ["<pad>", "<|image_pad|>", "<|video_pad|>"]


def processor() -> Any:
    size = {"shortest_edge": 4 * PATCH**2, "longest_edge": 4096 * PATCH**2}
    return hf.VideoLlama3Processor(
        image_processor=hf.VideoLlama3ImageProcessor(patch_size=PATCH, merge_size=1, size=size),
        tokenizer=byte_tokenizer(SPECIAL),
        video_processor=hf.VideoLlama3VideoProcessor(patch_size=PATCH, merge_size=2, size=size),
    )


def model_for(processor: Any) -> Any:
    """A tiny model with the processor's token ids."""
    settings = config(layers=4)
    settings.text_config.vocab_size = len(processor.tokenizer)
    settings.image_token_id, settings.video_token_id = processor.image_token_id, processor.video_token_id
    model = hf.VideoLlama3ForConditionalGeneration(settings)
    randomise(model)
    return model.eval()


def processed(made: Any, videos: list[np.ndarray], **settings: Any) -> Any:
    return made(
        text=["a<|video_pad|> and <|image_pad|><|video_pad|> differ?", "This is <|video_pad|>: what happens here?"],
        images=[frames_of(1, 16, 24)[0]],
        videos=videos,
        video_metadata=[metadata(len(frames)) for frames in videos],
        do_sample_frames=False,
        padding=True,
        return_tensors="pt",
        **settings,
    )


@pytest.mark.parametrize("own", [True, False])
def test_the_processors_frames_are_found(own):
    """With its own dropping of tokens as well, where it finds nothing to drop."""
    made = processor()
    model = model_for(made)
    videos = [frames_of(4, 16, 24, seed=1), frames_of(1, 32, 16, seed=2), frames_of(3, 24, 24, seed=3)]
    inputs = processed(made, videos, use_token_compression=own)
    assert inputs["video_grid_thw"].tolist() == [[4, 4, 6], [1, 8, 4], [3, 6, 6]]
    names = ("pixel_values_videos", "video_grid_thw", "video_merge_sizes")
    with torch.no_grad():
        out = model.model.get_video_features(**{name: inputs[name] for name in names}, return_dict=True)
    frames = [list(own.chunk(t)) for own, t in zip(out.pooler_output, (4, 1, 3), strict=True)]
    assert_finds_the_frames(model, inputs, frames)
    with PRUNED(model) as run:
        generate(model, inputs, max_new_tokens=1)
    assert [record.frames_before for record in run.records] == [(6,) * 4, (8,), (9,) * 3]


@pytest.mark.parametrize("spec", ["vidcom2@0.3", "fastv@0.6"])
def test_frames_that_the_processor_made_unequal_are_refused(spec):
    made = processor()
    model, videos = model_for(made), [frames_of(count, 16, 24, seed=count) for count in (4, 2, 3)]
    videos[2][1, :8, :8] = videos[2][0, :8, :8]  # one token's picture does not change
    with compressor(spec)(model):
        with pytest.raises(ValueError, match=r"dropped 1 of 54 .* pass use_token_compression=False"):
            generate(model, processed(made, videos))
        generate(model, processed(made, videos, use_token_compression=False), max_new_tokens=1)


@pytest.mark.parametrize("spec", ["fastv@0.5", "pdrop@0.4", "sparsevlm@0.5"])
def test_inside_the_llm(spec):
    method, native = compressor(spec), Native(KIND)
    call = native.call("two")
    with method(native.model):
        out = generate_inside(native.model, call.inputs)
    assert_follows_inside(out, [greedy(native, dense, method) for dense in call.prompts])
