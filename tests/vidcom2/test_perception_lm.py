"""PerceptionLM beside the matrix of tests/vidcom2/test_kinds.py: its processor, encoded videos, and methods inside the
LLM."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf

pytest.importorskip("timm", reason="it has PerceptionLM's vision tower")

from tests.vidcom2.hf_tiny import batch, prompt, randomise, text, tiny, video
from tests.vidcom2.kinds.perception_lm import SIDE, M, config
from tests.vidcom2.processed import assert_finds_the_frames, byte_tokenizer, frames_of
from tests.vidcom2.rows import PATCH
from tests.vidcom2.test_in_llm import Native, greedy
from tests.vidcom2.test_in_llm import assert_follows as assert_follows_inside
from tests.vidcom2.test_in_llm import generate as generate_inside
from tests.vidcom2.test_transformers import PRUNED, encodes_first, generate
from vidcom2 import compressor

KIND = "perception_lm"
SPECIAL = ["<pad>", "<|image|>", "<|video|>"]


def processor() -> Any:
    size = {"height": PATCH * SIDE, "width": PATCH * SIDE}
    return hf.PerceptionLMProcessor(
        image_processor=hf.PerceptionLMImageProcessor(tile_size=PATCH * SIDE, max_num_tiles=4),
        video_processor=hf.PerceptionLMVideoProcessor(size=size),
        tokenizer=byte_tokenizer(SPECIAL, image_token="<|image|>", video_token="<|video|>"),
        patch_size=PATCH,
        pooling_ratio=2,
    )


def model_for(processor: Any) -> Any:
    """A tiny model with the processor's token ids."""
    settings = config(layers=2)
    settings.text_config.vocab_size = len(processor.tokenizer)
    settings.image_token_id, settings.video_token_id = processor.image_token_id, processor.video_token_id
    model = hf.PerceptionLMForConditionalGeneration(settings)
    randomise(model)
    return model.eval()


def test_the_processors_frames_are_found():
    """Three videos and an image of several tiles, in two prompts; two of the videos have no text between."""
    made = processor()
    model = model_for(made)
    inputs = made(
        text=["a <|video|><|video|> and <|image|> differ?", "This is <|video|>: what happens here?"],
        images=[frames_of(1, 40, 20)[0]],
        videos=[frames_of(4, 16, 24, seed=seed) for seed in range(3)],
        padding=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        out = model.model.get_image_features(inputs["pixel_values_videos"], return_dict=True)
    features = out.pooler_output
    assert tuple(features.shape[:2]) == (12, M)
    assert_finds_the_frames(model, inputs, [list(own) for own in features.split(4)])
    with PRUNED(model) as run:
        generate(model, inputs, max_new_tokens=1)
    assert [record.frames_before for record in run.records] == [(M,) * 4] * 3


@encodes_first
def test_encoded_videos_answer_as_their_pixels():
    model, inputs = tiny(KIND), batch([prompt(KIND, text(2), video(3), text(4), video(3), text(5))])
    with PRUNED(model) as run, torch.no_grad():
        expected = generate(model, inputs)
        encoded = model.model.get_image_features(inputs.pop("pixel_values_videos"), return_dict=True)
        out = generate(model, inputs, mm_encoder_outputs={"video": encoded})
    assert [record.frames_before for record in run.records] == [(M,) * 3] * 2
    assert torch.equal(torch.stack(out.logits), torch.stack(expected.logits))


@pytest.mark.parametrize("spec", ["fastv@0.5", "pdrop@0.4", "sparsevlm@0.5"])
def test_inside_the_llm(spec):
    method, native = compressor(spec), Native(KIND)
    call = native.call("two")
    with method(native.model):
        out = generate_inside(native.model, call.inputs)
    assert_follows_inside(out, [greedy(native, dense, method) for dense in call.prompts])
