"""GLM-4.xV beside the matrix of tests/vidcom2/test_kinds.py: its processors, images, and methods inside the LLM."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf

from tests.vidcom2.hf_tiny import batch, image, prompt, randomise, text, tiny, video
from tests.vidcom2.kinds.glm4v import config
from tests.vidcom2.processed import assert_finds_the_frames, byte_tokenizer, frames_of, metadata
from tests.vidcom2.rows import PATCH
from tests.vidcom2.test_in_llm import Native, greedy
from tests.vidcom2.test_in_llm import assert_follows as assert_follows_inside
from tests.vidcom2.test_in_llm import generate as generate_inside
from tests.vidcom2.test_transformers import PRUNED, generate
from vidcom2 import compressor

KINDS = ("glm4v", "glm4v_moe", "glm46v")
SPECIAL = ["<pad>", "<|image|>", "<|video|>"]
SPECIAL += [f"<|{end}_of_{what}|>" for what in ("image", "video") for end in ("begin", "end")]
over_kinds = pytest.mark.parametrize("kind", KINDS)


def processor(kind: str) -> Any:
    """The kind's own, for the patches of its tiny model. GLM-4.5V has GLM-4.1V's."""
    name = "Glm46V" if kind == "glm46v" else "Glm4v"
    sizes = {"patch_size": PATCH, "temporal_patch_size": 2, "merge_size": 2}
    size = {"shortest_edge": 4 * PATCH**2, "longest_edge": 4096 * PATCH**2}
    return getattr(hf, f"{name}Processor")(
        image_processor=getattr(hf, f"{name}ImageProcessor")(**sizes, size=size),
        tokenizer=byte_tokenizer(SPECIAL),
        video_processor=getattr(hf, f"{name}VideoProcessor")(**sizes, size=size),
    )


def model_for(processor: Any, kind: str) -> Any:
    """A tiny model with the processor's token ids."""
    settings = config(kind, layers=2)
    ids = processor.tokenizer.convert_tokens_to_ids
    settings.text_config.vocab_size = len(processor.tokenizer)
    settings.image_token_id, settings.video_token_id = ids("<|image|>"), ids("<|video|>")
    settings.video_start_token_id, settings.video_end_token_id = ids("<|begin_of_video|>"), ids("<|end_of_video|>")
    model = hf.AutoModelForImageTextToText.from_config(settings)
    randomise(model)
    return model.eval()


@over_kinds
def test_the_processors_frames_are_found(kind):
    """Two videos in one prompt and a third in another, of different sizes; a frame is two pictures."""
    made, shape = processor(kind), "<|begin_of_video|><|video|><|end_of_video|>"
    model = model_for(made, kind)
    videos = [frames_of(8, 16, 24, seed=1), frames_of(4, 32, 16, seed=2), frames_of(6, 24, 24, seed=3)]
    inputs = made(
        text=[f"a{shape} and {shape} differ?", f"This is {shape} a longer question: what happens?"],
        videos=videos,
        video_metadata=[metadata(len(frames)) for frames in videos],
        do_sample_frames=False,
        padding=True,
        return_tensors="pt",
    )
    assert inputs["video_grid_thw"].tolist() == [[4, 4, 6], [2, 8, 4], [3, 6, 6]]
    with torch.no_grad():
        out = model.model.get_video_features(inputs["pixel_values_videos"], inputs["video_grid_thw"], return_dict=True)
    frames = [own.chunk(t) for own, t in zip(out.pooler_output, (4, 2, 3), strict=True)]
    assert_finds_the_frames(model, inputs, frames)


@over_kinds
def test_images_alone_stay(kind):
    model, row = tiny(kind), prompt(kind, text(2), image(), text(4))
    bare = generate(model, batch([row]))
    with PRUNED(model):
        out = generate(model, batch([row]))
    assert torch.equal(out.sequences, bare.sequences)


@over_kinds
def test_an_image_beside_a_video_is_refused_by_the_model_itself(kind):
    """So every placeholder of a call with a video is a video's. If this fails, the layout must tell them apart."""
    model, inputs = tiny(kind), batch([prompt(kind, text(2), image(), text(3), video(3), text(4))])
    with pytest.raises(ValueError, match="do not match"):
        generate(model, inputs)
    with PRUNED(model), pytest.raises(ValueError, match="do not match"):
        generate(model, inputs)


@over_kinds
def test_without_token_types_is_refused(kind):
    """generate() would give the video the positions of text, without a word."""
    model, inputs = tiny(kind), batch([prompt(kind, text(2), video(3), text(4))])
    del inputs["mm_token_type_ids"]
    with PRUNED(model), pytest.raises(ValueError, match="mm_token_type_ids"):
        generate(model, inputs)


@over_kinds
@pytest.mark.parametrize("spec", ["fastv@0.5", "pdrop@0.4", "sparsevlm@0.5"])
def test_inside_the_llm(kind, spec):
    method, native = compressor(spec), Native(kind)
    call = native.call("two")
    with method(native.model):
        out = generate_inside(native.model, call.inputs)
    assert_follows_inside(out, [greedy(native, dense, method) for dense in call.prompts])
