"""flash-attn's functions in plain PyTorch, so that transformers' own flash path runs on a CPU."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
import transformers.modeling_flash_attention_utils as flash
from torch import Tensor


def attend(q: Tensor, k: Tensor, v: Tensor, softmax_scale: float | None, causal: bool) -> Tensor:
    """q [n, heads, d], k and v [m, kv heads, d] -> [n, heads, d]. As in flash-attn, a causal mask ends at the last
    query and the last key."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    logits = torch.einsum("nhd,mhd->hnm", q, k) * (q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale)
    if causal:
        n, m = logits.shape[1:]
        logits = logits.masked_fill(torch.ones(n, m, dtype=torch.bool).triu(1 + m - n), -torch.inf)
    return torch.einsum("hnm,mhd->nhd", logits.softmax(dim=-1).nan_to_num(), v)


def flash_attn_func(
    q: Tensor, k: Tensor, v: Tensor, dropout_p: float = 0, softmax_scale: float | None = None, causal: bool = False
) -> Tensor:
    return torch.stack([attend(*each, softmax_scale, causal) for each in zip(q, k, v, strict=True)])


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0,
    softmax_scale: float | None = None,
    causal: bool = False,
) -> Tensor:
    out = torch.zeros_like(q)
    ends = zip(cu_seqlens_q[1:].tolist(), cu_seqlens_k[1:].tolist(), strict=True)
    at_q = at_k = 0
    for end_q, end_k in ends:
        out[at_q:end_q] = attend(q[at_q:end_q], k[at_k:end_k], v[at_k:end_k], softmax_scale, causal)
        at_q, at_k = end_q, end_k
    return out


def flash_attn_with_kvcache(*args: Any, **kwargs: Any) -> None:
    raise NotImplementedError


def install(patch: pytest.MonkeyPatch) -> None:
    """Have transformers take these functions for the package flash_attn."""
    package, padding = ModuleType("flash_attn"), ModuleType("flash_attn.bert_padding")
    for function in (flash_attn_func, flash_attn_varlen_func, flash_attn_with_kvcache):
        setattr(package, function.__name__, function)
    padding.pad_input, padding.unpad_input = flash._pad_input, flash._unpad_input  # type: ignore[attr-defined]
    patch.setitem(sys.modules, "flash_attn", package)
    patch.setitem(sys.modules, "flash_attn.bert_padding", padding)
    patch.setattr(flash, "is_flash_attn_2_available", lambda: True)
    patch.setattr(flash, "_loaded_implementation", None)  # or what was loaded first would stay
