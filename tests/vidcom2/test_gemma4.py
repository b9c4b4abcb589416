"""Gemma 4 beside the matrix of tests/vidcom2/test_kinds.py: its processor, padding between turns, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf

from tests.vidcom2.hf_tiny import batch, prompt, randomise, text, tiny, video
from tests.vidcom2.kinds.gemma4 import POOL, STACKED, config
from tests.vidcom2.processed import assert_finds_the_frames, byte_tokenizer, frames_of, metadata
from tests.vidcom2.rows import PATCH
from tests.vidcom2.test_in_llm import LAYERS
from tests.vidcom2.test_transformers import PRUNED, answers, assert_follows, generate, references
from vidcom2 import VidCom2, compressor

KINDS = ("gemma4", "gemma4-large")
NAMED = {"image_token": "<|image|>", "boi_token": "<|image>", "eoi_token": "<image|>"}
NAMED |= {"audio_token": "<|audio|>", "boa_token": "<|audio>", "eoa_token": "<audio|>"}


def processor() -> Any:
    sizes = {"patch_size": PATCH, "pooling_kernel_size": POOL, "max_soft_tokens": 70}
    return hf.Gemma4Processor(
        feature_extractor=hf.Gemma4AudioFeatureExtractor(),
        image_processor=hf.Gemma4ImageProcessor(**sizes),
        tokenizer=byte_tokenizer(["<pad>", *NAMED.values(), "<|video|>"], **NAMED),
        video_processor=hf.Gemma4VideoProcessor(**sizes),
    )


@pytest.mark.skipif(STACKED, reason="videos of different sizes are stacked, which fails")
@pytest.mark.parametrize("large", [False, True])
def test_the_processors_frames_are_found(large):
    """Two videos in one prompt and a third in another, of different shapes, so that their frames differ in tokens."""
    made, settings = processor(), config(large, layers=3)
    settings.text_config.vocab_size = settings.text_config.vocab_size_per_layer_input = len(made.tokenizer)
    settings.image_token_id, settings.video_token_id = made.image_token_id, made.video_token_id
    settings.audio_token_id = made.audio_token_id
    settings.vision_config.position_embedding_size = 1024
    model = hf.AutoModelForImageTextToText.from_config(settings)
    randomise(model)
    model.eval()
    videos = [frames_of(4, 16, 24, seed=1), frames_of(2, 32, 16, seed=2), frames_of(3, 24, 24, seed=3)]
    inputs = made(
        text=["a<|video|> and <|video|> differ?", "This is <|video|> a longer question: what happens?"],
        videos=videos,
        video_metadata=[metadata(len(frames)) for frames in videos],
        do_sample_frames=False,
        return_tensors="pt",
    )
    names = ("pixel_values_videos", "video_position_ids", "num_frames_per_video")
    with torch.no_grad():
        out = model.model.get_video_features(**{name: inputs[name] for name in names}, return_dict=True)
    assert len({len(own) // t for own, t in zip(out.pooler_output, (4, 2, 3), strict=True)}) > 1
    frames = [own.chunk(t) for own, t in zip(out.pooler_output, (4, 2, 3), strict=True)]
    assert_finds_the_frames(model, inputs, frames)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("positions", ["original", "repack"])
def test_padding_between_turns(kind, positions):
    """Gemma's outer part builds the masks, which count rows that are gone: what is padding must still be known.

    The window is wide, because transformers counts padding in it.
    """
    model, given = tiny(kind), VidCom2(0.3, positions=positions)
    model.model.language_model.config.sliding_window = 256
    rows = [prompt(kind, text(2), video(4), text(3), seed=1), prompt(kind, text(7), video(4), text(9), seed=2)]
    with given(model):
        first = generate(model, batch(rows))
        before = batch(rows)["attention_mask"]
        more = [prompt(kind, text(n), seed=n) for n in (3, 6)]
        second = batch(more)
        held = torch.ones(2, first.sequences.shape[1] - before.shape[1], dtype=torch.long)
        out = generate(
            model,
            {
                "input_ids": torch.cat([first.sequences, second["input_ids"]], dim=1),
                "attention_mask": torch.cat([before, held, second["attention_mask"]], dim=1),
            },
            past_key_values=first.past_key_values,
        )
    told = [row + own + new for row, own, new in zip(rows, answers(first), more, strict=True)]
    assert_follows(out, references(model, told, given))


@pytest.mark.parametrize("kind", KINDS)
def test_a_window_is_of_rows(kind):
    """Positions are numbered anew unless asked, since a window of rows would reach over more positions than it has."""
    model, row = tiny(kind), prompt(kind, text(3), video(4), text(4))
    with PRUNED(model) as run:
        usual = generate(model, batch([row]))
    assert [record.positions for record in run.records] == ["repack"]
    with VidCom2(0.3, positions="original")(model) as run:
        other = generate(model, batch([row]))
    assert [record.positions for record in run.records] == ["original"]
    assert not torch.equal(torch.stack(usual.logits), torch.stack(other.logits))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spec", ["fastv@0.5", "pdrop@0.4", "sparsevlm@0.5"])
def test_inside_the_llm_is_refused(kind, spec):
    model = tiny(kind, layers=LAYERS)
    with (
        pytest.raises(ValueError, match=r"sliding window\. Use a method that drops tokens before"),
        compressor(spec)(model),
    ):
        pass


@pytest.mark.parametrize("kind", KINDS)
def test_beams_and_no_cache(kind):
    model, inputs = tiny(kind), batch([prompt(kind, text(3), video(4), text(4)), prompt(kind, text(9))])
    with PRUNED(model):
        settings = [
            {"use_cache": True},
            {"use_cache": False},
            {"cache_implementation": "static", "disable_compile": True},
        ]
        greedy = [answers(generate(model, inputs, **each)) for each in settings]
        beams = [answers(generate(model, inputs, num_beams=2, **each)) for each in settings[:2]]
    assert greedy[0] == greedy[1] == greedy[2]
    assert beams[0] == beams[1]
