"""How each model family is evaluated: a protocol (frames and prompts, those of lmms-eval's wrapper) and an engine.

A new family is a file here with both, its line in `protocol_for`, and its line in `load_engine`. The engine offers what
`base.Engine` lists.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from llava.mm_utils import get_model_name_from_path
from llava.model.checkpoint import checkpoint_config

from .base import Engine
from .llava import LLAVA_PROTOCOLS, LlavaEngine, LlavaProtocol
from .qwen import QwenEngine
from .qwen_protocol import QWEN_PROTOCOLS, QwenProtocol
from .zero3 import load_sharded

Protocol = LlavaProtocol | QwenProtocol


def protocol_for(model: str) -> Protocol:
    """Return the protocol of a checkpoint, by its config.json.

    A LLaVA checkpoint has LLaVA-Video's protocol if its config asks for grid newlines or its name says LLaVA-Video.

    Args:
        model: Checkpoint directory or hub name.

    Raises:
        ValueError: The family has no protocol.
        OSError: There is no config.json.
        ImportError: The package that reads the family's videos is not installed.
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
    model: str,
    protocol: Protocol,
    device: str,
    dtype: str,
    attn: str | None = None,
    zero3: Path | None = None,
    bits: int | None = None,
) -> Engine:
    """Load a checkpoint.

    Args:
        model: Checkpoint directory or hub name.
        protocol: From `protocol_for`.
        device: "cpu", "cuda:0", or "auto" to spread the model over all GPUs.
        dtype: "float16", "bfloat16" or "float32".
        attn: Attention implementation of the LLM. None: the best that is installed.
        zero3: A DeepSpeed configuration, to shard the model over torch.distributed's group; see `zero3.py`.
        bits: 4 or 8 to hold the LLM in fewer bits, by bitsandbytes. None: in `dtype`.

    Raises:
        ValueError, OSError, ImportError: The checkpoint cannot be loaded.
    """

    def load(device_map: str | None) -> Engine:
        if isinstance(protocol, QwenProtocol):
            return QwenEngine(model, protocol, device_map, dtype, attn, bits=bits)
        return LlavaEngine(model, protocol, device_map, dtype, attn, bits=bits)

    return load(device) if zero3 is None else load_sharded(lambda: load(None), zero3, device, dtype)
