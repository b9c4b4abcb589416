"""Images or video frames to the pixels that a SigLIP tower takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import BatchFeature
from transformers.image_utils import ChannelDimension

Images = Image.Image | NDArray[np.uint8] | torch.Tensor | Sequence[Image.Image | NDArray[np.uint8] | torch.Tensor]
"""One image or several; `SigLipImageProcessor.preprocess` lists the forms."""


class SigLipImageProcessor:
    """Converts to RGB, resizes to a fixed size whatever the aspect ratio, rescales, normalises.

    Defaults and attributes are those of upstream's `SigLipImageProcessor`.

    Args:
        image_mean: Mean per channel, subtracted after rescaling.
        image_std: Standard deviation per channel.
        size: (height, width) of the result in pixels.
        crop_size: "height" and "width" in pixels, by default those of `size`. Not used here: `llava.mm_utils` reads it.
        resample: PIL's resizing filter.
        rescale_factor: Factor from uint8 levels to the range of `image_mean`.
        data_format: Whether channels come first or last in the result.
    """

    def __init__(
        self,
        image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5),
        image_std: tuple[float, float, float] = (0.5, 0.5, 0.5),
        size: tuple[int, int] = (384, 384),
        crop_size: dict[str, int] | None = None,
        resample: Image.Resampling = Image.Resampling.BICUBIC,
        rescale_factor: float = 1 / 255,
        data_format: ChannelDimension = ChannelDimension.FIRST,
    ) -> None:
        self.image_mean = image_mean
        self.image_std = image_std
        self.size = size
        self.crop_size = crop_size or {"height": size[0], "width": size[1]}
        self.resample = resample
        self.rescale_factor = rescale_factor
        self.data_format = data_format

    def preprocess(self, images: Images, return_tensors: str | None = None) -> BatchFeature:
        """Turn images into pixels.

        Args:
            images: One PIL image; one uint8 array or tensor [H, W, 3] or [3, H, W]; a stack [n, H, W, 3] or
                [n, 3, H, W] of them; or a sequence of any of the single forms.
            return_tensors: "pt" for a tensor, None for a numpy array.

        Returns:
            `pixel_values`, float32 [n, 3, height, width], or [n, height, width, 3] if channels come last.

        Raises:
            ValueError: If there is no image, or one has another dtype or shape.
        """
        pixels = self.resized(images)
        per_channel: tuple[int, ...] = (3,)
        if self.data_format == ChannelDimension.FIRST:
            pixels, per_channel = pixels.transpose(0, 3, 1, 2), (3, 1, 1)
        values = pixels.astype(np.float32, order="C")
        values *= np.float32(self.rescale_factor)
        values -= np.asarray(self.image_mean, dtype=np.float32).reshape(per_channel)
        values /= np.asarray(self.image_std, dtype=np.float32).reshape(per_channel)
        return BatchFeature(data={"pixel_values": values}, tensor_type=return_tensors)

    def resized(self, images: Images) -> NDArray[np.uint8]:
        """Return images in the size of the result, uint8 [n, height, width, 3]. `preprocess` does not change them then.

        Raises:
            ValueError: As `preprocess`.
        """
        height, width = self.size
        frames = [np.asarray(im.resize((width, height), self.resample)) for im in _pil_images(images)]
        if not frames:
            raise ValueError("there is no image to preprocess")
        return np.stack(frames)


def _pil_images(images: Images) -> Iterator[Image.Image]:
    """Yield every image of a batch, or the only one, as RGB."""
    if isinstance(images, Image.Image):
        yield images.convert("RGB")
    elif isinstance(images, np.ndarray | torch.Tensor) and images.ndim == 3:
        yield _pil_image(images)
    else:
        for image in images:
            yield image.convert("RGB") if isinstance(image, Image.Image) else _pil_image(image)


def _pil_image(image: NDArray[np.uint8] | torch.Tensor) -> Image.Image:
    """Convert one array [H, W, 3] or [3, H, W]. If both forms fit, the last axis counts as the channels."""
    array = np.asarray(image.cpu() if isinstance(image, torch.Tensor) else image)
    # A float frame could be in 0..1 or 0..255; guessing from its values would make black frames ambiguous.
    if array.dtype != np.uint8:
        raise ValueError(f"frames must be uint8 in 0..255, got {array.dtype}")
    if array.ndim == 3 and array.shape[2] == 3:
        return Image.fromarray(array)
    if array.ndim == 3 and array.shape[0] == 3:
        return Image.fromarray(np.ascontiguousarray(array.transpose(1, 2, 0)))
    raise ValueError(f"a frame must be (H, W, 3) or (3, H, W), got shape {array.shape}")
