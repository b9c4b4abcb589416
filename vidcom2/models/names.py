"""What transformers calls the things that we lean on. To port this project to another release, begin here.

The hooks (transformers.py, layers.py) and the llava tree ask this file for:

- the key-value cache of a call or an output: `past_key_values` to 5.23, `cache` from 5.24 on, where the old name is
  taken until 5.40 by the forwards, but appears neither in what hooks see nor in outputs;
- the mask of a call, and which tokens it says are no padding: None; int or bool [B, rows], 1 for tokens; bool or float
  [B, 1, n, rows], what each new token sees; or a dict of these by kind of layer;
- what keeps flash attention from taking gaps between positions for packed sequences;
- transformers' private methods that we wrap.

What a cache must know, and is given by transformers.py and layers.py in subclasses: `get_seq_length`,
`get_query_offset`, `get_mask_sizes`, `crop`, `reorder_cache`, `batch_repeat_interleave`, `batch_select_indices`,
`is_compileable`.
"""

from __future__ import annotations

import inspect
import warnings
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

TESTED = ((5, 17), (5, 24))
"""The first and the last minor release of transformers that the test suite passes on."""

CACHE = ("cache", "past_key_values")
"""Names of the key-value cache, the newest first."""

PREFILL = "_prefill"
UPDATE = "_update_model_kwargs_for_generation"
"""Methods of a generating model: its first step; and what makes the next step's arguments of a step's output."""

DEEPSTACK = "_deepstack_process"
"""Method of a language model that adds features to visual rows between layers (Qwen3-VL's); others have none."""

ENCODED = "mm_encoder_outputs"
"""Argument of the outer model with what its vision tower gave already, by modality. From 5.23 on generate() sets it."""


def tested() -> str:
    """The releases of TESTED, for messages."""
    return " to ".join(map(_dotted, TESTED))


def _dotted(release: tuple[int, int]) -> str:
    return ".".join(map(str, release))


@lru_cache(maxsize=1)
def warn_untested() -> None:
    """Warn, once a process, where the installed transformers is none that the tests passed on."""
    import transformers

    major, minor = (int(part) for part in transformers.__version__.split(".")[:2])
    if not TESTED[0] <= (major, minor) <= TESTED[1]:
        warnings.warn(
            f"vidcom2 is not tested with transformers {transformers.__version__}, but with {tested()}: answers may be "
            f"wrong without an error. Install one of these: pip install 'transformers>={_dotted(TESTED[0])},<"
            f"{_dotted((TESTED[1][0], TESTED[1][1] + 1))}'",
            stacklevel=3,
        )


# ---- the key-value cache


def cache_name(module: Any) -> str:
    """What the module's forward, or a function, calls its key-value cache. Raises TypeError where it has none."""
    forward = getattr(module, "forward", module)
    return _cache_name(getattr(forward, "__func__", forward))


@lru_cache(maxsize=64)
def _cache_name(function: Any) -> str:
    parameters = inspect.signature(function).parameters
    for name in CACHE:
        if name in parameters:
            return name
    import transformers

    raise TypeError(
        f"{getattr(function, '__qualname__', function)} of transformers {transformers.__version__} has no argument "
        f"{' or '.join(CACHE)}, so that the key-value cache would not be found. vidcom2 is tested with transformers "
        f"{tested()}"
    )


def cache_of(call: Any) -> Any:
    """The key-value cache among a call's arguments, or in a model's output; None where there is none."""
    return next((found for name in CACHE if (found := call.get(name)) is not None), None)


def give_cache(module: Any, kwargs: dict[str, Any], cache: Any) -> None:
    """Have the module called with this key-value cache."""
    for name in CACHE:
        kwargs.pop(name, None)
    kwargs[cache_name(module)] = cache


def uses_cache(lm: Any, kwargs: dict[str, Any]) -> bool:
    """Whether a language model, called so, fills a key-value cache, its own if it is given none."""
    wanted = kwargs.get("use_cache")
    return bool(lm.config.use_cache if wanted is None else wanted)


# ---- embeddings, positions, masks


def together(kwargs: dict[str, Any]) -> Tensor:
    """Brings a language model's arguments to the device of the new tokens, which it returns.

    Of a model spread over several GPUs they can be on several: accelerate's hooks move them later than ours.
    """
    new: Tensor = kwargs["input_ids"] if kwargs.get("inputs_embeds") is None else kwargs["inputs_embeds"]
    names = ("attention_mask", "position_ids", "visual_pos_masks", "deepstack_visual_embeds")
    kwargs |= tree_map_only(Tensor, lambda part: part.to(new.device), {n: kwargs[n] for n in names if n in kwargs})
    return new


def valid_new(kwargs: dict[str, Any], length: int, past: int | None) -> Tensor | None:
    """Which of the new tokens are no padding: bool [B, length]; None where the call does not say.

    past: rows before them that a mask of what each token sees was built for; None where it was built for others.
    """
    mask = _mask(kwargs)
    if mask is None or mask.ndim == 2:
        return None if mask is None else mask[:, -length:].bool()
    return None if past is None else _seen_by_last(mask)[:, past : past + length]


def valid_before(kwargs: dict[str, Any], length: int, past: int) -> Tensor | None:
    """The same of the rows in the cache, of which nothing was pruned yet: bool [B, rows]."""
    mask = _mask(kwargs)
    if mask is None or mask.ndim == 2:
        return None if mask is None else mask[:, :-length].bool()
    return _seen_by_last(mask)[:, :past]


def _mask(kwargs: dict[str, Any]) -> Tensor | None:
    mask = kwargs.get("attention_mask")
    return mask["full_attention"] if isinstance(mask, dict) else mask


def _seen_by_last(mask: Tensor) -> Tensor:
    """What the last token sees, which is all that is no padding: mask [B, 1, n, rows] -> bool [B, rows]."""
    last = mask[:, 0, -1]
    return last if last.dtype == torch.bool else last == 0


def causal_mask(lm: Any, hidden: Tensor, valid: Tensor | None, cache: Any, layer: int) -> Any:
    """The mask for rows `hidden` [B, n, D] at a layer, as the attention in use takes it. valid: bool [B, rows] or
    None, which of the cache's and the new rows are no padding."""
    from transformers.masking_utils import create_causal_mask

    return create_causal_mask(
        config=lm.config,
        inputs_embeds=hidden,
        attention_mask=None if valid is None else valid.to(hidden.device),
        layer_idx=layer if cache is not None else None,
        **{cache_name(create_causal_mask): cache},
    )


def new_cache(lm: Any) -> Any:
    from transformers import DynamicCache

    return DynamicCache(config=lm.config)


def one_sequence(lm: Any, positions: Tensor, rows: int) -> dict[str, Any]:
    """Arguments that tell flash attention that new tokens go on with the `rows` in the cache; none for other kernels.

    positions: [B, n], or mRoPE's [3 or 4, B, n], of the new tokens. Without these arguments transformers takes gaps in
    the positions of a single sequence for the borders of packed ones, and shows the n new tokens the first n rows only.
    """
    if "flash" not in str(lm.config._attn_implementation) or positions.ndim != 2 or len(positions) != 1:
        return {}
    new = positions.shape[-1]
    ends = [torch.tensor([0, end], dtype=torch.int32, device=positions.device) for end in (new, rows + new)]
    return {"cu_seq_lens_q": ends[0], "cu_seq_lens_k": ends[1], "max_length_q": new, "max_length_k": rows + new}
