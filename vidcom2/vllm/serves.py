"""What all models of this package have in common."""

from __future__ import annotations

from typing import Any, ClassVar

from vllm.logger import init_logger

from vidcom2.vllm.serving import Numbering, Serving, serving_of

logger = init_logger(__name__)


class Serves:
    """Mixin of a vLLM model: its compressor.

    Attributes:
        numbering: How the model numbers kept tokens.
        serving: The compressor of the engine.
        config: The model's config.
    """

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
        logger.info_once(str(self.serving))
