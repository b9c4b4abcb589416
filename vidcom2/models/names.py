"""The names in transformers that vidcom2 depends on. To port it to another release, begin here.

The hooks and the llava tree ask this file for:

- the key-value cache of a call or an output. It is `past_key_values` up to 5.23 and `cache` from 5.24 on. There the
  forwards take the old name until 5.40, but hooks and outputs only have the new one;
- the mask of a call, and which tokens it says are no padding. It is None; int or bool [B, rows], 1 for tokens; bool or
  float [B, 1, n, rows], what each new token sees; or a dict of these by kind of layer;
- the arguments that keep flash attention from taking gaps between positions for packed sequences;
- transformers' private methods that the hooks wrap.

A cache must have `get_seq_length`, `get_query_offset`, `get_mask_sizes`, `crop`, `reorder_cache`,
`batch_repeat_interleave`, `batch_select_indices`, `is_compileable` and `is_linear`. caches.py replaces some of them in
subclasses.
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
"""Names of the key-value cache, newest first."""

PREFILL = "_prefill"
UPDATE = "_update_model_kwargs_for_generation"
"""Methods of a generating model. PREFILL runs generate()'s first step. UPDATE makes the arguments of the next step from
a step's output."""

DEEPSTACK = "_deepstack_process"
"""Method of Qwen3-VL's language model that adds features to visual rows between the layers. Others have none."""

INDEXED = ("indexed_attention", "qwen_sparse_attention")
"""Kinds of layers that choose which rows they attend to; in 5.17 Qwen4-Exp's have the second name."""

ATTENDING = ("full_attention", *INDEXED)
"""Kinds of layers, in a config's `layer_types` and in a dict of masks, that attend to all rows or choose among all."""

HASHED_IDS = "ple_input_ids"
"""Argument of Qwen4-Exp's language model with the token ids, whose n-grams it embeds. Others have none."""

ENCODED = "mm_encoder_outputs"
"""Argument of the outer model with the features of videos and images that are encoded already, by modality. From 5.23
on generate() sets it."""


def tested() -> str:
    """Return the releases of TESTED, for messages."""
    return " to ".join(map(_dotted, TESTED))


def _dotted(release: tuple[int, int]) -> str:
    return ".".join(map(str, release))


def minor_release(version: str) -> tuple[int, int]:
    """Return the major and minor number of a version of transformers, such as (5, 23) for "5.23.0"."""
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def untested() -> str | None:
    """Return a warning if the tests did not pass on the installed release of transformers; None if they did."""
    import transformers

    if TESTED[0] <= minor_release(transformers.__version__) <= TESTED[1]:
        return None
    return (
        f"vidcom2 is not tested with transformers {transformers.__version__}, but with {tested()}: answers may be "
        f"wrong without an error. Install one of these: pip install 'transformers>={_dotted(TESTED[0])},<"
        f"{_dotted((TESTED[1][0], TESTED[1][1] + 1))}'"
    )


@lru_cache(maxsize=1)
def warn_untested() -> None:
    """Warn, once a process, of a release of transformers that is `untested`."""
    if (warning := untested()) is not None:
        warnings.warn(warning, stacklevel=3)


# ---- the key-value cache


def cache_name(module: Any) -> str:
    """Return the name of the key-value cache among the arguments of a module's forward, or of a function.

    Raises:
        TypeError: If it has none by a known name.
    """
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
    """Return the key-value cache among a call's arguments, or in a model's output; None if there is none."""
    return next((found for name in CACHE if (found := call.get(name)) is not None), None)


def give_cache(module: Any, kwargs: dict[str, Any], cache: Any) -> None:
    """Put a key-value cache into the arguments of a module's call."""
    for name in CACHE:
        kwargs.pop(name, None)
    kwargs[cache_name(module)] = cache


def uses_cache(lm: Any, kwargs: dict[str, Any]) -> bool:
    """Return whether a call of a language model fills a key-value cache. It makes one if it gets none."""
    wanted = kwargs.get("use_cache")
    return bool(lm.config.use_cache if wanted is None else wanted)


# ---- embeddings, positions, masks


def together(kwargs: dict[str, Any]) -> Tensor:
    """Move a language model's arguments to the device of the new tokens, and return the new tokens.

    If a model is spread over several GPUs, its arguments can be on several: accelerate's hooks move them after ours.

    Returns:
        `inputs_embeds` [B, n, D] or, without these, `input_ids` [B, n].
    """
    new: Tensor = kwargs["input_ids"] if kwargs.get("inputs_embeds") is None else kwargs["inputs_embeds"]
    names = ("attention_mask", "position_ids", "visual_pos_masks", "deepstack_visual_embeds", HASHED_IDS)
    kwargs |= tree_map_only(Tensor, lambda part: part.to(new.device), {n: kwargs[n] for n in names if n in kwargs})
    return new


def valid_new(kwargs: dict[str, Any], length: int, past: int | None) -> Tensor | None:
    """Return which of the new tokens are no padding, bool [B, length]; None if the call does not say.

    Args:
        kwargs: A language model's arguments.
        length: How many tokens are new.
        past: How many rows come before them in a 4-D mask; None if that mask was built for other rows.
    """
    mask = _mask(kwargs)
    if mask is None or mask.ndim == 2:
        return None if mask is None else mask[:, -length:].bool()
    return None if past is None else _seen_by_last(mask)[:, past : past + length]


def valid_before(kwargs: dict[str, Any], length: int, past: int) -> Tensor | None:
    """Return which rows of an unpruned cache are no padding, bool [B, past]; None if the call does not say.

    Args:
        kwargs: A language model's arguments.
        length: How many tokens are new.
        past: How many rows the cache has.
    """
    mask = _mask(kwargs)
    if mask is None or mask.ndim == 2:
        return None if mask is None else mask[:, :-length].bool()
    return _seen_by_last(mask)[:, :past]


def _mask(kwargs: dict[str, Any]) -> Tensor | None:
    mask = kwargs.get("attention_mask")
    return next(mask[kind] for kind in ATTENDING if kind in mask) if isinstance(mask, dict) else mask


def _seen_by_last(mask: Tensor) -> Tensor:
    """The rows that the last token sees, all that are no padding: mask [B, 1, n, rows] -> bool [B, rows]."""
    last = mask[:, 0, -1]
    return last if last.dtype == torch.bool else last == 0


def causal_mask(lm: Any, hidden: Tensor, valid: Tensor | None, cache: Any, layer: int) -> Any:
    """Return the causal mask of a layer, in the form that the attention in use takes.

    Args:
        lm: The language model.
        hidden: [B, n, D], the new rows.
        valid: bool [B, rows], which of the cache's and the new rows are no padding; None if all.
        cache: The key-value cache; None for none.
        layer: Number of the layer.
    """
    from transformers.masking_utils import create_causal_mask

    return create_causal_mask(
        config=lm.config,
        inputs_embeds=hidden,
        attention_mask=None if valid is None else valid.to(hidden.device),
        layer_idx=layer if cache is not None else None,
        **{cache_name(create_causal_mask): cache},
    )


def linear_layers(lm: Any) -> frozenset[int]:
    """Return which layers of a language model have linear attention: a recurrent state, no keys and no values."""
    kinds = getattr(lm.config, "layer_types", None) or []
    return frozenset(i for i, kind in enumerate(kinds) if kind == "linear_attention")


def recurrent(cache: Any) -> bool:
    """Return whether a key-value cache also holds recurrent states, those of layers with linear attention."""
    return any(cache.is_linear)


def new_cache(lm: Any) -> Any:
    """Return an empty key-value cache of the kind that the language model makes itself."""
    from transformers import DynamicCache

    return DynamicCache(config=lm.config)


def one_sequence(lm: Any, positions: Tensor, rows: int) -> dict[str, Any]:
    """Return arguments that tell flash attention that the new tokens continue the rows of the cache.

    Without them transformers takes gaps in the positions of a single sequence for the borders of packed sequences, and
    shows the n new tokens only the first n rows. Other kernels need none.

    Args:
        lm: The language model.
        positions: [B, n] or, for mRoPE, [3 or 4, B, n], positions of the new tokens.
        rows: How many rows the cache has.
    """
    if "flash" not in str(lm.config._attn_implementation) or positions.ndim != 2 or len(positions) != 1:
        return {}
    new = positions.shape[-1]
    ends = [torch.tensor([0, end], dtype=torch.int32, device=positions.device) for end in (new, rows + new)]
    return {"cu_seq_lens_q": ends[0], "cu_seq_lens_k": ends[1], "max_length_q": new, "max_length_k": rows + new}
