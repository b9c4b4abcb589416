"""transformers' own VideoLLMs, which `LAYOUTS` lists: Qwen2-VL to Qwen3.5, LLaVA-OneVision, InternVL, Gemma 4 and more.

These models have an outer part (`model.model`) that encodes the videos and puts their features among the text's
embeddings. Inside it is the language model (`model.model.language_model`). In older releases the outer part may be the
model itself; see `_parts`. No forward is copied or replaced. A compressed generate() runs like this:

1. `Hooks.generating` notes that this thread is in generate().
2. In the first step, the hook before the outer part (`Hooks.note_call`) keeps its arguments if they have a video. The
   outer part encodes and embeds everything as ever.
3. The hook before the language model (`Hooks.prune`) finds the videos' tokens by `input_ids` and the family's `Layout`,
   and has the compressor choose. Then it drops the other tokens from all arguments of the language model: embeddings,
   positions, mask, deepstack features, hashed token ids. The batch is padded on the left, to the longest prompt that is
   left. The `Record`s are written now.
4. The key-value cache becomes `Pruned`. It tells its logical length, dropped tokens included, so that generate() counts
   positions and rows as it would without compression.
5. In every further step, the hook before the language model (`Hooks.keep_in_step`) replaces the mask by that of the
   rows that are really in the cache, and mends the positions where they are repacked.
6. Steps on a static cache are compiled, and the hook stays out of the compiled graph. For these, `Hooks.update`
   shortens the mask between two steps.

A method inside the LLM changes nothing in 3. `InsideHooks` finds the videos there, and `LayerHooks` drops rows between
the layers (vidcom2/models/layers.py). Its cache is `Layered`.

To add a model of your own, put a `Layout` into `LAYOUTS`.
"""

from __future__ import annotations

from typing import Any

from vidcom2.compressor import Compressor
from vidcom2.inside import InsideLLM
from vidcom2.models import names
from vidcom2.models.hooks import Hooks
from vidcom2.models.inside import InsideHooks
from vidcom2.models.layouts import INTERNVL_ONE_VIDEO, LAYOUTS, REFUSED, Layout, Video
from vidcom2.unwrap import has

LANGUAGE_MODELS = ("language_model", "text_model")
"""Names of the language model in the outer part. SmolVLM has the latter."""

__all__ = ["INTERNVL_ONE_VIDEO", "LAYOUTS", "NEEDS", "Layout", "Video", "attach", "supports"]

NEEDS = (
    "a transformers model with `model.language_model` whose config.model_type is one of "
    f"{', '.join(LAYOUTS)} (describe others with a Layout in vidcom2.models.transformers.LAYOUTS)"
)
"""What a model of this family must have, for error messages."""


def supports(model: Any) -> bool:
    """Return whether `model` is one of transformers' models that `LAYOUTS` or `REFUSED` know, head or no head."""
    kind = _model_type(model)
    return (kind in LAYOUTS or kind in REFUSED) and _parts(model) is not None


def attach(compressor: Compressor, model: Any) -> Hooks:
    """Put a compressor on a model that `supports` accepts; see `vidcom2.families.Family`.

    Raises:
        TypeError: If the model is one of `REFUSED`.
    """
    kind, parts = str(_model_type(model)), _parts(model)
    if kind not in LAYOUTS:
        raise TypeError(f"{type(model).__name__} ({kind}) cannot be compressed: {REFUSED[kind]}")
    names.warn_untested()
    layout = LAYOUTS[kind]
    assert parts is not None
    if isinstance(compressor, InsideLLM):
        return InsideHooks(compressor, model, *parts, layout)
    return Hooks(compressor, model, *parts, layout)


def _model_type(model: Any) -> str | None:
    return getattr(model.config, "model_type", None) if has(model, "config") else None


def _parts(model: Any) -> tuple[Any, Any] | None:
    """Return the outer part of a model, the model itself if it has no head, and its language model; None without."""
    for name in LANGUAGE_MODELS:
        if has(model, name) and not has(model, "lm_head"):
            return model, getattr(model, name)
        if has(model, "model") and has(model.model, name):
            return model.model, getattr(model.model, name)
    # In transformers 5.17 the thinkers of Qwen-Omni encode the videos themselves.
    if has(model, "visual", "lm_head", "model") and has(model.model, "layers"):
        return model, model.model
    return None
