"""How model families are evaluated: one file each, a protocol (frames, prompts) and an engine (the loaded model)."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from llava.mm_utils import get_model_name_from_path
from llava.model.checkpoint import checkpoint_config

from .base import Engine
from .llava import LLAVA_PROTOCOLS, LlavaEngine, LlavaProtocol
from .qwen import QWEN_PROTOCOLS, QwenEngine, QwenProtocol
from .zero3 import load_sharded

Protocol = LlavaProtocol | QwenProtocol


def protocol_for(model: str) -> Protocol:
    """The protocol of a checkpoint, by its config.json.

    LLaVA-Video's where its config says grid newlines or its name says so. ValueError for a family without a protocol,
    OSError where there is no config.json, ImportError where what reads its videos is not installed.
    """
    try:
        config = checkpoint_config(model)
    except OSError as error:
        raise type(error)(f"--model {error}") from error
    family = config.get("model_type")
    if family in QWEN_PROTOCOLS:
        if find_spec("qwen_vl_utils") is None:
            raise ImportError(f"evaluating {family} models needs qwen-vl-utils: pip install qwen-vl-utils")
        return QWEN_PROTOCOLS[family]
    if not str(family).startswith("llava") or "text_config" in config:
        raise ValueError(
            f"{model} is a {family!r} model; evaluated are LLaVA checkpoints in LLaVA-NeXT's layout and "
            f"{', '.join(QWEN_PROTOCOLS)}"
        )
    name = get_model_name_from_path(model).lower()
    video = config.get("mm_newline_position") == "grid" or "llava-video" in name
    return LLAVA_PROTOCOLS["llava_vid" if video else "llava_onevision"]


def load_engine(
    model: str, protocol: Protocol, device: str, dtype: str, attn: str | None = None, zero3: Path | None = None
) -> Engine:
    """Load a checkpoint.

    device: "cpu", "cuda:0", or "auto" to spread the model over all GPUs. dtype: "float16" | "bfloat16" | "float32".
    attn: None for the best installed attention. zero3: a DeepSpeed configuration, to spread the model over the
    processes of the group, see eval.models.zero3. Raises what loading the checkpoint raises.
    """

    def load(device_map: str | None) -> Engine:
        if isinstance(protocol, QwenProtocol):
            return QwenEngine(model, protocol, device_map, dtype, attn)
        return LlavaEngine(model, protocol, device_map, dtype, attn)

    return load(device) if zero3 is None else load_sharded(lambda: load(None), zero3, device, dtype)
