"""The whole LLaVA path against recorded upstream runs: embeddings, logits and greedy tokens of every case."""

from __future__ import annotations

import functools

import pytest
import torch
from PIL import Image

from llava.mm_utils import process_images
from llava.model.language_model.llava_qwen import LlavaQwenForCausalLM
from llava.model.multimodal_encoder.siglip_processor import SigLipImageProcessor
from tests.golden import entries, load, path, requires_pillow_13
from vidcom2 import VidCom2

CASES = [e for e in entries("model") if "checkpoint" in e["meta"]]
RESIZED_BOTH_WAYS = ("tiny98_d2_anyres_portrait", "tiny98_e1_two_images")
STRIDE_4 = "c6_stride_ignored"  # upstream ignores mm_spatial_pool_stride, we honour it


def case(entry: dict) -> str:
    return entry["file"].split("/")[1].removesuffix(".safetensors")


@functools.cache
def checkpoint(folder: str, tower: str, overrides: tuple) -> LlavaQwenForCausalLM:
    config = LlavaQwenForCausalLM.config_class.from_pretrained(path(folder))
    for key, value in (("mm_vision_tower", str(path(tower))), *overrides):
        setattr(config, key, value)
    return LlavaQwenForCausalLM.from_pretrained(path(folder), config=config, dtype=torch.float32).eval()


def model_of(entry: dict) -> LlavaQwenForCausalLM:
    meta = entry["meta"]
    return checkpoint(meta["checkpoint"], meta["vision_tower"], tuple(meta["config_overrides"].items()))


def pixels(entry: dict, model: LlavaQwenForCausalLM, tensors: dict) -> list[torch.Tensor] | torch.Tensor:
    """The `images` argument of the case, made from its uint8 input with our own processor."""
    meta = entry["meta"]
    size = model.get_vision_tower().image_size
    processor = SigLipImageProcessor(size=(size, size), crop_size={"height": size, "width": size})
    frames = None
    if reference := meta.get("inputs_ref"):
        frames = load(reference["file"])[reference["tensor"]].numpy()
        if reference["tensor"] == "frames_lowres_u8":
            frames = frames.repeat(16, axis=1).repeat(16, axis=2)
    shapes = meta["images_arg"]
    if isinstance(shapes[0], int):  # one 5-D tensor
        return processor.preprocess(frames, return_tensors="pt")["pixel_values"][None]
    images = []
    for i, shape in enumerate(shapes):
        if f"image{i}_u8" in tensors:
            picture = Image.fromarray(tensors[f"image{i}_u8"].numpy())
            made = process_images([picture], processor, model.config)[0]
        elif len(shape) == 3:
            made = processor.preprocess(tensors["dummy_u8"].numpy()[None], return_tensors="pt")["pixel_values"][0]
        else:
            made = processor.preprocess(frames[: shape[0]], return_tensors="pt")["pixel_values"]
        assert list(made.shape) == shape
        images.append(made)
    return images


def compressor_of(entry: dict) -> VidCom2 | None:
    if settings := entry["meta"].get("vidcom2"):
        return VidCom2.released(settings["R"])
    return None


@pytest.mark.parametrize(
    "entry",
    [pytest.param(e, id=case(e), marks=requires_pillow_13 if case(e) in RESIZED_BOTH_WAYS else ()) for e in CASES],
)
def test_recorded_case(entry):
    meta, tensors, model = entry["meta"], load(entry["file"]), model_of(entry)
    images = pixels(entry, model, tensors)
    mask, positions, labels = (tensors.get(k) for k in ("attention_mask_in", "position_ids_in", "labels_in"))
    if case(entry) == "tiny98_f2_batch_text_video_mask_bool":
        mask = mask.bool()
    model.compressor = compressor_of(entry)
    try:
        with torch.inference_mode():
            ids, out_positions, out_mask, cache, embeds, out_labels = model.prepare_inputs_labels_for_multimodal(
                tensors["input_ids"], positions, mask, None, labels, images, meta["modalities"], meta["image_sizes"]
            )
            if case(entry).endswith(STRIDE_4):
                assert embeds.shape[1] == tensors["input_ids"].shape[1] - 1 + 8 * 2 * 2 + 1
                return
            returned = {
                "input_ids": ids,
                "position_ids": out_positions,
                "attention_mask": out_mask,
                "past_key_values": cache,
                "labels": out_labels,
            }
            assert [k for k, v in returned.items() if v is None] == meta["returned_none"]
            torch.testing.assert_close(embeds, tensors["inputs_embeds"], atol=1e-4, rtol=0)
            for name, value in (("labels_out", out_labels), ("position_ids_out", out_positions)):
                if name in tensors:
                    assert torch.equal(value, tensors[name])
            valid = torch.ones(embeds.shape[:2], dtype=torch.bool)
            if "attention_mask_out" in tensors:
                assert out_mask.dtype == mask.dtype
                assert torch.equal(out_mask.long(), tensors["attention_mask_out"].long())
                valid = out_mask.bool()

            logits = model(
                inputs_embeds=embeds, attention_mask=out_mask, position_ids=out_positions, use_cache=False
            ).logits
            assert torch.equal(logits.argmax(-1)[valid], tensors["argmax"][valid])
            if "logits_positions" in tensors:
                at = tensors["logits_positions"]
                logits, valid = logits[:, at], valid[:, at]
            torch.testing.assert_close(logits[valid], tensors["logits"][valid], atol=2e-4, rtol=0)

            if generate := meta.get("generate"):
                new = model.generate(
                    tensors["input_ids"],
                    images=images,
                    image_sizes=meta["image_sizes"],
                    modalities=meta["modalities"],
                    attention_mask=mask,
                    max_new_tokens=generate["max_new_tokens"],
                    min_new_tokens=generate["min_new_tokens"],
                    do_sample=False,
                )
                assert new.tolist() == tensors["generated_ids"].tolist()
    finally:
        records = model.visual_records
        model.compressor = None

    if settings := meta.get("vidcom2"):
        (record,) = records
        assert record.frames_after == tuple(tensors["vidcom2.k"].tolist())
        assert record.tokens_after == meta["output_shape"][1] - (tensors["input_ids"].shape[1] - 1)
        assert record.method.startswith(f"vidcom2@{settings['R']}")


@pytest.mark.parametrize("entry", [e for e in CASES if case(e) == "tiny98_a_ov_video"], ids=case)
def test_recorded_stages(entry):
    tensors, model = load(entry["file"]), model_of(entry)
    with torch.inference_mode():
        images = pixels(entry, model, tensors)[0][:2]
        torch.testing.assert_close(images, load("model/inputs_tiny98.safetensors")["pixel_values_frames0_1"])
        torch.testing.assert_close(model.get_vision_tower()(images), tensors["stage.tower_f0_1"], atol=1e-5, rtol=0)
        features = model.encode_images(images)
        torch.testing.assert_close(features, tensors["stage.projector_f0_1"], atol=1e-5, rtol=0)
        for mode in ("bilinear", "average", "max"):
            model.config.mm_spatial_pool_mode = mode
            pooled = model.get_2dPool(features)
            torch.testing.assert_close(pooled, tensors[f"stage.pool_{mode}"], atol=1e-5, rtol=0)
        model.config.mm_spatial_pool_mode = "bilinear"
