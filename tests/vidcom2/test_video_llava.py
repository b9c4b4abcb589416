"""Video-LLaVA beside the matrix of tests/vidcom2/test_kinds.py: its processor, two videos in a row, and methods inside
the LLM."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf

from tests.vidcom2.hf_tiny import batch, prompt, randomise, text, tiny, video
from tests.vidcom2.kinds.video_llava import SIDE, config
from tests.vidcom2.processed import assert_finds_the_frames, byte_tokenizer, frames_of
from tests.vidcom2.rows import PATCH
from tests.vidcom2.test_in_llm import Native, greedy
from tests.vidcom2.test_in_llm import assert_follows as assert_follows_inside
from tests.vidcom2.test_in_llm import generate as generate_inside
from tests.vidcom2.test_transformers import PRUNED, encodes_first, generate
from vidcom2 import compressor

KIND = "video_llava"
SPECIAL = ["<pad>", "<image>", "<video>"]
M = SIDE**2 + 1


def processor() -> Any:
    sizes: dict[str, Any] = {"size": {"shortest_edge": PATCH * SIDE}}
    sizes["crop_size"] = {"height": PATCH * SIDE, "width": PATCH * SIDE}
    return hf.VideoLlavaProcessor(
        image_processor=hf.VideoLlavaImageProcessor(**sizes),
        video_processor=hf.VideoLlavaVideoProcessor(**sizes),
        tokenizer=byte_tokenizer(SPECIAL),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def model_for(processor: Any) -> Any:
    """A tiny model with the processor's token ids."""
    settings = config(layers=2)
    settings.text_config.vocab_size = len(processor.tokenizer)
    settings.image_token_index, settings.video_token_index = processor.image_token_id, processor.video_token_id
    model = hf.VideoLlavaForConditionalGeneration(settings)
    randomise(model)
    return model.eval()


def test_the_processors_frames_are_found():
    """Three videos and an image, in two prompts. A frame's class token comes first."""
    made = processor()
    model = model_for(made)
    inputs = made(
        text=["a <video> and <image><video> differ?", "This is <video>: what happens here?"],
        images=[frames_of(1, 20, 16)[0]],
        videos=[frames_of(4, 16, 20, seed=seed) for seed in range(3)],
        padding=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        out = model.model.get_video_features(inputs["pixel_values_videos"], return_dict=True)
    features = out.pooler_output
    assert tuple(features.shape[:2]) == (12, M)
    assert_finds_the_frames(model, inputs, [list(own) for own in features.split(4)])
    with PRUNED(model) as run:
        generate(model, inputs, max_new_tokens=1)
    assert [record.frames_before for record in run.records] == [(M,) * 4] * 3


def neighbours() -> dict[str, Any]:
    return batch([prompt(KIND, text(2), video(3), video(3), text(4), video(3), text(1))])


def test_a_forward_tells_videos_without_text_between():
    model = tiny(KIND)
    with PRUNED(model) as run, torch.no_grad():
        model(**neighbours())
    assert [len(record.frames_before) for record in run.records] == [3, 3, 3]


@encodes_first
def test_generate_needs_text_between_videos():
    """It hands over one list of encoded frames, so a video must be a run of tokens."""
    model = tiny(KIND)
    with PRUNED(model), pytest.raises(ValueError, match="put text between two videos"):
        generate(model, neighbours())


@pytest.mark.parametrize("spec", ["fastv@0.5", "pdrop@0.4", "sparsevlm@0.5"])
def test_inside_the_llm(spec):
    method, native = compressor(spec), Native(KIND)
    call = native.call("two")
    with method(native.model):
        out = generate_inside(native.model, call.inputs)
    assert_follows_inside(out, [greedy(native, dense, method) for dense in call.prompts])
