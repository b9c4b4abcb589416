"""Gated delta nets in float32 for vLLM on CPUs, whose own take bfloat16 only: transformers' loop over the tokens.

No annotations from the future: torch reads these when vLLM registers the operator.
"""

import itertools
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def install() -> None:
    """Put the operator in the place of vLLM's, in this process, before a model is built."""
    from vllm.model_executor.layers.mamba.ops.cpu import gdn_attention
    from vllm.utils.torch_utils import LayerNameType

    from vidcom2.vllm import qwen3_5

    def core(mixed_qkv: Tensor, b: Tensor, a: Tensor, core_attn_out: Tensor, layer_name: LayerNameType) -> None:
        _all_requests(mixed_qkv, b, a, core_attn_out, gdn_attention._resolve_layer_name(layer_name))

    gdn_attention.cpu_gdn_attention_core = core
    qwen3_5.require_dtype = lambda dtype: None


def _all_requests(qkv: Tensor, b: Tensor, a: Tensor, out: Tensor, name: str) -> None:
    """Fill out [rows, heads, D] for the requests of a step, whose rows lie one behind another. Note their states."""
    from vllm.forward_context import get_forward_context

    context: Any = get_forward_context()
    layer = context.no_compile_layers[name]
    if context.attn_metadata is None:  # vLLM measures memory
        return
    step = context.attn_metadata[layer.prefix]
    ends, slots = step.non_spec_query_start_loc.tolist(), step.non_spec_state_indices_tensor.tolist()
    for i, (begin, end) in enumerate(itertools.pairwise(ends)):
        began = i < step.num_decodes or bool(step.has_initial_state[i])
        if end > begin:
            out[begin:end] = _one_request(layer, qkv[begin:end], b[begin:end], a[begin:end], slots[i], began)


def _one_request(layer: Any, qkv: Tensor, b: Tensor, a: Tensor, slot: int, began: bool) -> Tensor:
    """Return [L, heads, D] for the rows qkv [L, channels] of a request."""
    from transformers.models.qwen3_5.modeling_qwen3_5 import torch_recurrent_gated_delta_rule

    convolved, state = layer.kv_cache[0][slot], layer.kv_cache[1][slot]  # [W - 1, channels], [heads, D, D of keys]
    weight = layer.conv1d.weight.view(qkv.shape[1], 1, -1)
    past = convolved if began else torch.zeros_like(convolved)
    rows = torch.cat((past, qkv))
    convolved.copy_(rows[len(rows) - len(past) :])
    mixed = F.silu(F.conv1d(rows.T[None], weight, groups=qkv.shape[1])[0].T)
    q, k, v = mixed.split([layer.key_dim, layer.key_dim, layer.value_dim], dim=1)
    copies = layer.num_v_heads // layer.num_k_heads
    q, k = (x.reshape(1, len(x), -1, layer.head_k_dim).repeat_interleave(copies, dim=2) for x in (q, k))
    result, last = torch_recurrent_gated_delta_rule(
        q,
        k,
        v.reshape(1, len(v), -1, layer.head_v_dim),
        g=(-layer.A_log.float().exp() * F.softplus(a.float() + layer.dt_bias))[None],
        beta=b.sigmoid()[None],
        initial_state=state.mT[None] if began else None,
        output_final_state=True,
        use_qk_l2norm_in_kernel=True,
    )
    assert last is not None
    state.copy_(last[0].mT)
    return result[0]
