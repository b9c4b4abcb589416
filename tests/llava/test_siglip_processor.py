import numpy as np
import pytest
import torch
from PIL import Image
from transformers.image_utils import ChannelDimension

from llava.model.multimodal_encoder.siglip_processor import SigLipImageProcessor
from tests.golden import entries, load, requires_pillow_13

SMALL = SigLipImageProcessor(size=(8, 6))
RNG = np.random.default_rng(0)
FRAMES = RNG.integers(0, 256, (4, 10, 14, 3), dtype=np.uint8)


def pixels(images, processor=SMALL) -> torch.Tensor:
    return processor.preprocess(images, return_tensors="pt")["pixel_values"]


def close(ours: torch.Tensor, recorded: torch.Tensor) -> None:
    torch.testing.assert_close(ours, recorded, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(e["file"], marks=requires_pillow_13 if "200x120" in e["file"] else ())
        for e in entries("mm_utils")
        if "siglip_preprocess" in e["file"] and "modes" not in e["file"]
    ],
)
def test_recorded_pixels(file):
    recorded = load(file)
    array = recorded["image_u8"].numpy()
    image, processor98 = Image.fromarray(array), SigLipImageProcessor(size=(98, 98))
    close(pixels(image, processor98), recorded["size98"])
    close(pixels(np.stack([array, array[::-1]]), processor98)[..., ::4, ::4], recorded["array_pair_size98"])
    full = pixels(image, SigLipImageProcessor())
    close(full[..., ::12, ::12], recorded["size384_stride12"])
    torch.testing.assert_close(full.double().sum((-2, -1)), recorded["size384_sum"], atol=384 * 384 * 1e-7, rtol=0)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_recorded_image_modes(mode):
    recorded = load("mm_utils/siglip_preprocess_modes.safetensors")
    image = Image.fromarray(recorded["image_u8"].numpy()).convert(mode)
    close(pixels(image, SigLipImageProcessor(size=(98, 98)))[..., ::4, ::4], recorded[f"mode_{mode}"])


def test_values_are_between_minus_one_and_one():
    ramp = np.zeros((6, 8, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = 255, 51
    out = pixels(ramp, SigLipImageProcessor(size=(6, 8)))
    assert out.dtype == torch.float32
    assert out.shape == (1, 3, 6, 8)
    torch.testing.assert_close(out[0, :, 0, 0], torch.tensor([1.0, -0.6, -1.0]), atol=1e-6, rtol=0)


def test_all_input_forms_give_the_same_pixels():
    expected = torch.cat([pixels(Image.fromarray(frame)) for frame in FRAMES])
    assert expected.shape == (4, 3, 8, 6)
    tensor = torch.from_numpy(FRAMES)
    forms = {
        "array": FRAMES,
        "tensor": tensor,
        "channels first": tensor.permute(0, 3, 1, 2),
        "pil list": [Image.fromarray(frame) for frame in FRAMES],
        "array list": list(FRAMES),
        "tensor tuple": tuple(tensor),
    }
    for name, images in forms.items():
        assert torch.equal(pixels(images), expected), name
    assert torch.equal(pixels(FRAMES[1]), expected[1:2])
    assert torch.equal(pixels(tensor[1].permute(2, 0, 1)), expected[1:2])


def test_mean_and_std_are_per_channel():
    processor = SigLipImageProcessor(image_mean=(0.1, 0.2, 0.3), image_std=(1.0, 2.0, 4.0), size=(8, 6))
    raw = pixels(FRAMES) / 2 + 0.5
    mean, std = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1), torch.tensor([1.0, 2.0, 4.0]).view(3, 1, 1)
    torch.testing.assert_close(pixels(FRAMES, processor), (raw - mean) / std, atol=1e-6, rtol=0)


def test_channels_last_output():
    processor = SigLipImageProcessor(size=(8, 6), data_format=ChannelDimension.LAST)
    assert torch.equal(pixels(FRAMES, processor), pixels(FRAMES).permute(0, 2, 3, 1))


def test_numpy_output_and_crop_size():
    assert isinstance(SMALL.preprocess(FRAMES)["pixel_values"], np.ndarray)
    assert SMALL.crop_size == {"height": 8, "width": 6}
    assert SigLipImageProcessor().crop_size == {"height": 384, "width": 384}


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ([], "no image"),
        (FRAMES[0].astype(np.float32), "uint8 in 0..255, got float32"),
        (np.zeros((5, 7), np.uint8), r"got shape \(7,\)"),
        (np.zeros((2, 5, 7, 4), np.uint8), r"got shape \(5, 7, 4\)"),
    ],
)
def test_what_is_not_an_image_is_an_error(images, words):
    with pytest.raises(ValueError, match=words):
        pixels(images)
