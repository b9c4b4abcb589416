"""Under flash attention, which reads packed sequences from gaps between position ids."""

from __future__ import annotations

import pytest

from tests.vidcom2.flash_cpu import install
from tests.vidcom2.hf_tiny import batch, prompt, text, tiny, video
from tests.vidcom2.test_transformers import answers, assert_follows, first_turn, generate, model_of, over_kinds
from tests.vidcom2.test_transformers import references as reference_answers
from vidcom2 import VidCom2


@pytest.fixture
def flash_of(monkeypatch):
    install(monkeypatch)

    def make(kind: str):
        model = tiny(kind)
        model.config._attn_implementation = "flash_attention_2"
        return model

    return make


@over_kinds
@pytest.mark.parametrize("positions", ["original", "repack"])
def test_one_turn(flash_of, kind, positions):
    compressor = VidCom2(0.3, positions=positions)
    rows = [prompt(kind, text(5), video(4), text(6))]
    with compressor(flash_of(kind)) as run:
        out = generate(run.model, batch(rows))
    assert_follows(out, reference_answers(model_of(kind), rows, compressor))


@pytest.mark.parametrize("kind", ["llava_onevision", "llava_next_video", "internvl"])
@pytest.mark.parametrize("positions", ["original", "repack"])
@pytest.mark.parametrize("before", ["text", "video"])
def test_a_video_in_the_second_turn(flash_of, kind, positions, before):
    """The new video meets a cache with rows: its gapped positions are one sequence that goes on."""
    compressor = VidCom2(0.3, positions=positions)
    rows = first_turn(kind, "one") if before == "video" else [prompt(kind, text(9))]
    with compressor(flash_of(kind)) as run:
        first = generate(run.model, batch(rows))
        turn = prompt(kind, text(3), video(4), text(7), seed=19)
        rows = [row + answer + turn for row, answer in zip(rows, answers(first), strict=True)]
        name = "pixel_values" if kind == "internvl" else "pixel_values_videos"
        both, new = batch(rows), batch([turn])
        inputs = {"input_ids": both["input_ids"], "attention_mask": both["attention_mask"], name: new[name]}
        out = generate(run.model, inputs, past_key_values=first.past_key_values)
    assert_follows(out, reference_answers(model_of(kind), rows, compressor))
