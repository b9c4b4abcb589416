"""What all models of this package have in common, and what they say in the log."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import vllm
from vllm.logger import init_logger

from vidcom2.vllm.serving import Numbering, Serving, serving_of

logger = init_logger("vllm.plugins.vidcom2")  # vLLM shows what is logged below "vllm"

TESTED = ("0.32.0",)
"""Versions of vLLM with which this package was tested. It overrides methods that vLLM may change in any version."""
MANY_IMAGES = 4
"""A prompt with this many images and no video is probably about a video whose frames were sent as images."""


class Serves:
    """Mixin of a vLLM model: its compressor.

    Attributes:
        compresses_videos: Tells this package's models from vLLM's own; see `refuses`.
        numbering: How the model numbers kept tokens.
        serving: The compressor of the engine.
        config: The model's config.
    """

    compresses_videos: ClassVar[bool] = True
    numbering: ClassVar[Numbering] = "repack"
    serving: Serving
    config: Any

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        self.serving = serving_of(self.config, self.numbering)
        stages = vllm_config.parallel_config.pipeline_parallel_size
        if stages > 1 and self.serving.compressor.drops and self.numbering == "original":
            raise ValueError(
                f"--pipeline-parallel-size {stages}: only the first stage knows which tokens stay, so the others lack "
                "their positions. Use --tensor-parallel-size"
            )
        announce(self.serving, type(self), vllm_config)

    def get_encoder_cudagraph_config(self) -> Any:
        """Record graphs of the tower for images only: a graph would return a video's rows before compression."""
        config = super().get_encoder_cudagraph_config()  # type: ignore[misc]
        if not self.serving.compressor.drops:
            return config
        return replace(config, modalities=[one for one in config.modalities if one != "video"])


def announce(serving: Serving, model: type, vllm_config: Any) -> None:
    """Log what is compressed and how, and warn of a flag without effect and of an untested vLLM.

    Raises:
        ValueError: vLLM would prune the same videos once more.
    """
    logger.info_once(str(serving))
    if vllm.__version__ not in TESTED:
        logger.warning_once("vidcom2 was tested with vLLM %s, and this is %s", ", ".join(TESTED), vllm.__version__)
    pruning = vllm_config.model_config.multimodal_config.get_video_pruning_spec()
    if pruning is None:
        return
    name = model.__name__
    if not getattr(model, "supports_multimodal_pruning", False):
        logger.warning_once("--video-pruning-rate %s has no effect: vLLM does not prune videos of %s", pruning[1], name)
    elif serving.compressor.drops:
        raise ValueError(
            f"--video-pruning-rate {pruning[1]} and {serving.asked.spec} would both prune a video: leave one out"
        )


class Watches:
    """Mixin of a vLLM processor: warns of a prompt in which nothing can be compressed, though it looks like a video."""

    info: Any

    def apply(self, inputs: Any, timing_ctx: Any) -> Any:
        """Process a prompt, as vLLM does."""
        counts = inputs.mm_data_items.get_all_counts()
        if counts.get("image", 0) >= MANY_IMAGES and not counts.get("video"):
            serving = serving_of(self.info.get_hf_config(), "repack")
            if serving.compressor.drops:
                logger.warning_once(
                    "A prompt has %s images and no video. vidcom2 compresses videos only: send frames as one video",
                    counts["image"],
                )
        return super().apply(inputs, timing_ctx)  # type: ignore[misc]
