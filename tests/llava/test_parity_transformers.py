"""Our towers and our whole model against transformers' own classes with the same random weights."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from llava.constants import IMAGE_TOKEN_INDEX
from llava.model.multimodal_encoder.builder import build_vision_tower
from llava.model.multimodal_encoder.vit import VisionConfig
from llava.model.multimodal_projector.builder import build_vision_projector
from tests.llava.tiny import LANGUAGE, MULTIMODAL, SIZE, TOWER, VOCAB, prompt, randomise, tiny_model, video

THEIRS: dict[str, tuple[Any, Any]] = {
    "siglip": (SiglipVisionConfig, SiglipVisionModel),
    "clip": (CLIPVisionConfig, CLIPVisionModel),
}
VIDEO, IMAGE = VOCAB - 1, VOCAB - 2


def copy_weights(ours: nn.Module, theirs: nn.Module, rename: Callable[[str], str]) -> None:
    """Load every weight of `ours` into `theirs`; all that is left there must belong to parts a LLaVA does not run."""
    missing, unexpected = theirs.load_state_dict({rename(k): v for k, v in ours.state_dict().items()}, strict=False)
    assert not unexpected
    unused = (".head.", "head.", f"encoder.layers.{TOWER['num_hidden_layers'] - 1}.")
    assert all(any(part in key for part in unused) for key in missing), missing


def tower_prefix(theirs: nn.Module) -> str:
    """What stands before a vision tower's keys: `vision_model.` in some releases of transformers."""
    return next(key for key in theirs.state_dict() if key.endswith("embeddings.patch_embedding.weight")).removesuffix(
        "embeddings.patch_embedding.weight"
    )


# ---- towers


@pytest.fixture(params=["siglip", "clip"])
def saved_tower(request, tmp_path):
    """One of transformers' vision models with random weights, saved by transformers into tmp_path."""
    config_class, model_class = THEIRS[request.param]
    theirs = model_class(config_class(**TOWER)).eval()
    randomise(theirs, seed=3)
    theirs.save_pretrained(tmp_path / "tower")
    return theirs


def tower_config(tmp_path, **settings: Any) -> SimpleNamespace:
    return SimpleNamespace(mm_vision_tower=str(tmp_path / "tower"), **settings)


@pytest.mark.parametrize("layer", [-1, -2, -3, 0, 1])
@pytest.mark.parametrize("feature", ["patch", "cls_patch"])
@torch.no_grad()
def test_towers_equal_transformers(saved_tower, tmp_path, layer, feature):
    ours = build_vision_tower(
        tower_config(tmp_path, mm_vision_select_layer=layer, mm_vision_select_feature=feature)
    ).eval()
    ours.load_model()
    pixels = video(3)
    if isinstance(saved_tower, CLIPVisionModel):
        expected = saved_tower(pixels, output_hidden_states=True).hidden_states[layer]
        expected = expected[:, 1:] if feature == "patch" else expected
    else:  # the SigLIP tower has no such settings
        expected = saved_tower(pixels, output_hidden_states=True).hidden_states[-2]
    torch.testing.assert_close(ours(pixels), expected, atol=1e-5, rtol=0)
    assert ours.hidden_size == 32
    assert (ours.image_size, ours.num_patches_per_side, ours.num_patches) == (56, 7, 49)
    assert ours.image_processor.crop_size == {"height": 56, "width": 56}


def test_tower_runs_in_its_own_dtype_and_answers_in_the_images(saved_tower, tmp_path):
    ours = build_vision_tower(tower_config(tmp_path)).to(torch.bfloat16)
    assert ours.dtype == torch.bfloat16
    features = ours(video(2).half())
    assert features.dtype == torch.float16
    assert torch.equal(features, torch.cat(ours(list(video(2).half()))))


@pytest.mark.parametrize("family", ["siglip", "clip"])
def test_omitted_geometry_is_the_family_default(family):
    config = THEIRS[family][0]()
    ours = VisionConfig.from_dict({"model_type": f"{family}_vision_model"})
    assert {k: getattr(config, k) for k in vars(ours) if k != "model_type"} == {
        k: v for k, v in vars(ours).items() if k != "model_type"
    }


def test_nested_and_foreign_tower_configs():
    nested = VisionConfig.from_dict({"model_type": "siglip", "vision_config": {"hidden_size": 64}})
    assert nested.hidden_size == 64
    for kind in ("siglip2_vision_model", "dinov2", ""):
        with pytest.raises(ValueError, match="not supported"):
            VisionConfig.from_dict({"model_type": kind})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mm_vision_select_feature": "cls"}, "mm_vision_select_feature='cls'"),
        ({"mm_vision_select_layer": -5}, "mm_vision_select_layer=-5"),
        ({"mm_vision_select_layer": 4}, "mm_vision_select_layer=4"),
    ],
)
def test_clip_settings_out_of_range(tmp_path, settings, message):
    CLIPVisionConfig(**TOWER).save_pretrained(tmp_path / "tower")
    with pytest.raises(ValueError, match=message):
        build_vision_tower(tower_config(tmp_path, **settings))


# ---- projector


def projector(kind: str) -> nn.Module:
    module = build_vision_projector(SimpleNamespace(mm_projector_type=kind, mm_hidden_size=6, hidden_size=4))
    randomise(module)
    return module


@torch.no_grad()
def test_projectors():
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(projector("identity")(x), x)
    linear = projector("linear")
    assert list(linear.state_dict()) == ["weight", "bias"]
    torch.testing.assert_close(linear(x), x @ linear.weight.T + linear.bias)
    for depth in (1, 2, 3):
        mlp = projector(f"mlp{depth}x_gelu")
        state, expected = mlp.state_dict(), x
        assert list(state) == [f"{2 * i}.{kind}" for i in range(depth) for kind in ("weight", "bias")]
        for i in range(depth):
            expected = gelu(expected) if i else expected  # the exact one, not tanh
            expected = expected @ state[f"{2 * i}.weight"].T + state[f"{2 * i}.bias"]
        torch.testing.assert_close(mlp(x), expected)
    default = build_vision_projector(SimpleNamespace(mm_hidden_size=6, hidden_size=4))
    assert isinstance(default, nn.Linear)


@pytest.mark.parametrize("kind", ["mlp2x_relu", "pooler", "mlp2x_res2x_gelu", ""])
def test_unknown_projector(kind):
    with pytest.raises(ValueError, match="is not supported"):
        projector(kind)


# ---- the whole model


@pytest.fixture
def pair(tmp_path):
    """Our model and transformers' LLaVA-OneVision with the same weights."""
    ours = tiny_model(tmp_path)
    config = LlavaOnevisionConfig(
        vision_config={"model_type": "siglip_vision_model", **TOWER},
        text_config={"model_type": "qwen2", **LANGUAGE},
        vision_feature_layer=-2,
        vision_feature_select_strategy="full",
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        image_grid_pinpoints=MULTIMODAL["image_grid_pinpoints"],
        vision_aspect_ratio=MULTIMODAL["image_aspect_ratio"],
        tie_word_embeddings=False,
    )
    theirs = LlavaOnevisionForConditionalGeneration(config).eval()
    before = tower_prefix(theirs)

    def rename(key: str) -> str:
        for old, new in (
            ("model.vision_tower.vision_tower.vision_model.", before),
            ("model.mm_projector.0.", "model.multi_modal_projector.linear_1."),
            ("model.mm_projector.2.", "model.multi_modal_projector.linear_2."),
            ("model.image_newline", "model.image_newline"),
            ("model.", "model.language_model."),
        ):
            if key.startswith(old):
                return new + key.removeprefix(old)
        return key

    copy_weights(ours, theirs, rename)
    return ours, theirs


def expand(ids: Tensor, counts: list[tuple[int, int]]) -> Tensor:
    """Our prompt [n] as transformers wants it: every slot replaced by (placeholder, how often)."""
    supply = iter(counts)
    pieces = []
    for token in ids.tolist():
        placeholder, count = next(supply) if token == IMAGE_TOKEN_INDEX else (token, 1)
        pieces += [placeholder] * count
    return torch.tensor([pieces])


def assert_same(ours: Any, theirs: Any, ids: Tensor, our_inputs: dict[str, Any], full_ids: Tensor, inputs: Any) -> None:
    """Equal logits at every position, equal greedy tokens."""
    with torch.inference_mode():
        logits = ours(input_ids=ids[None], use_cache=False, **our_inputs).logits
        expected = theirs(input_ids=full_ids, use_cache=False, **inputs).logits
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
        new = ours.generate(ids[None], **our_inputs, max_new_tokens=10, do_sample=False)
        all_ids = theirs.generate(input_ids=full_ids, **inputs, max_new_tokens=10, do_sample=False)
    assert new.tolist() == all_ids[:, full_ids.shape[1] :].tolist()
    assert len(set(new[0].tolist())) > 2


@pytest.mark.parametrize("frames", [1, 5])
def test_video_prompt(pair, frames):
    ours, theirs = pair
    pixels, ids = video(frames), prompt(4, "video", 6).clamp_max(VOCAB - 3)
    full = expand(ids, [(VIDEO, frames * 16 + 1)])
    assert_same(
        ours, theirs, ids, {"images": [pixels], "modalities": ["video"]}, full, {"pixel_values_videos": pixels[None]}
    )


@pytest.mark.parametrize(("size", "grid"), [((56, 56), (1, 1)), ((112, 50), (2, 1)), ((100, 170), (2, 3))])
def test_image_prompt(pair, size, grid):
    """anyres tiles, unpadded, with a newline after each row. size: (width, height)."""
    ours, theirs = pair
    pixels, ids = video(1 + grid[0] * grid[1]), prompt(4, "image", 6).clamp_max(VOCAB - 3)
    inputs = {"images": [pixels], "modalities": ["image"], "image_sizes": [size]}
    with torch.inference_mode():
        ours(input_ids=ids[None], **inputs)
    full = expand(ids, [(IMAGE, ours.visual_records[0].tokens_after)])
    theirs_inputs = {"pixel_values": pixels[None], "image_sizes": torch.tensor([size[::-1]])}
    assert_same(ours, theirs, ids, inputs, full, theirs_inputs)


def test_two_videos_and_an_image_in_one_prompt(pair):
    ours, theirs = pair
    first, second, picture = video(2, seed=1), video(2, seed=2), video(2, seed=3)
    ids = prompt(3, "video", 4, "image", 2, "video", 3).clamp_max(VOCAB - 3)
    full = expand(ids, [(VIDEO, 33), (IMAGE, 49 + 7 * 8), (VIDEO, 33)])
    assert_same(
        ours,
        theirs,
        ids,
        {
            "images": [first, picture, second],
            "modalities": ["video", "image", "video"],
            "image_sizes": [(SIZE, SIZE)] * 3,
        },
        full,
        {
            "pixel_values_videos": torch.stack([first, second]),
            "pixel_values": picture[None],
            "image_sizes": torch.tensor([[SIZE, SIZE]]),
        },
    )
