"""Ways to call a LLaVA: the prompt's two names, prompts of one token, slots without images, turns on a cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.llava.tiny import prompt, tiny_model, video
from vidcom2 import VidCom2
from vidcom2.models.names import cache_of

IDS, SLOT = prompt(3, "video", 4, seed=1)[None], prompt("video")[None]
CALL: dict[str, Any] = {"images": [video(2)], "modalities": ["video"]}
DECODE: dict[str, Any] = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("tower"))


def test_the_prompt_has_two_names(model):
    expected = model.generate(IDS, **CALL, **DECODE)
    assert model.generate(input_ids=IDS, **CALL, **DECODE).tolist() == expected.tolist()
    assert model.generate(inputs=IDS, **CALL, **DECODE).tolist() == expected.tolist()
    with pytest.raises(ValueError, match="inputs or as input_ids; both came"):
        model.generate(IDS, input_ids=IDS, **CALL)
    with pytest.raises(ValueError, match="inputs or as input_ids; neither of them came"):
        model.generate(**CALL)


@pytest.mark.parametrize("ids", [IDS[0], IDS[:, :0], IDS[:0]])
def test_no_prompt(model, ids):
    with pytest.raises(ValueError, match=r"is not \[batch, tokens\]"):
        model.generate(ids, **CALL)


@torch.no_grad()
@pytest.mark.parametrize("ids", [SLOT, prompt(1)[None]], ids=["slot", "word"])
def test_a_prompt_of_one_token(model, ids):
    call = CALL if ids is SLOT else {}
    out = model.generate(ids, **call, **DECODE, output_logits=True, return_dict_in_generate=True)
    logits = model(ids, **call).logits
    assert logits.shape[1] == (33 if ids is SLOT else 1)
    torch.testing.assert_close(logits[:, -1], out.logits[0])


@pytest.mark.parametrize("ids", [IDS, SLOT])
def test_slots_without_images(model, ids):
    with pytest.raises(ValueError, match=r"image slots \(token -200\) but no images came"):
        model(ids)
    with pytest.raises(ValueError, match="image slots but 0 images"):
        model.generate(ids)


@torch.no_grad()
def test_a_second_turn_with_a_video(model):
    """Right on the cache alone; refused where the positions would begin anew."""
    turn, pixels = prompt(2, "video", 5, seed=2)[None], video(3, seed=2)
    whole = model(torch.cat([IDS, turn], dim=1), images=[*CALL["images"], pixels], modalities="video").logits

    def second(**more: Any) -> Any:
        first = model(IDS, **CALL, use_cache=True)
        return model(turn, images=[pixels], modalities="video", past_key_values=cache_of(first), **more).logits

    torch.testing.assert_close(second()[0, -1], whole[0, -1], atol=1e-4, rtol=0)
    for more in ({"position_ids": torch.arange(40, 47)[None]}, {"attention_mask": torch.ones(1, 8, dtype=torch.long)}):
        with pytest.raises(ValueError, match="images on a key-value cache with rows"):
            second(**more)
    with VidCom2(0.5, positions="original")(model), pytest.raises(ValueError, match="images on a key-value cache"):
        second()
    cache = cache_of(model(IDS, **CALL, use_cache=True))
    with pytest.raises(ValueError, match="a key-value cache of 40 rows came"):
        model.generate(turn, images=[pixels], modalities="video", past_key_values=cache)
