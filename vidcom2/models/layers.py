"""Dropping rows between the layers of a language model, by hooks, for the methods of vidcom2/inside.py.

No forward is copied. `LayerHooks` needs a language model with

- `layers`, each with `input_layernorm` and `self_attn` (with `q_proj`, `k_proj`, `head_dim`, `scaling`,
  `num_key_value_groups` and, if it norms the heads, `q_norm` and `k_norm`). A layer is called with
  `position_embeddings`, `attention_mask` and the key-value cache. Layers that `config.layer_types` says have linear
  attention need none of these modules;
- `rotary_emb`.

In a prefill (prefill.py) the hook before a layer ranks the video's tokens by attention rows that it computes from that
layer's queries and keys (attention.py), and drops rows from the hidden states (cutting.py). From there on it gives each
layer the mask and the rotary embedding of the rows that are left. The layers of the key-value cache then differ in
length (caches.py). A decoding step (`passes.Step`) gives each layer the mask and the rotary embedding for its own rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import get_ident
from typing import Any

from torch import Tensor

from vidcom2.inside import NOMINAL, InsideLLM, Stage
from vidcom2.models import names
from vidcom2.models.caches import Layered, layered, valid_rows
from vidcom2.models.calls import Uncopied
from vidcom2.models.names import cache_name, cache_of, give_cache, new_cache, together, uses_cache
from vidcom2.models.passes import Pass, Step
from vidcom2.models.prefill import Prefill
from vidcom2.models.prompts import Prompt
from vidcom2.models.visual import Visual
from vidcom2.models.wrap import wrap

INSTEAD = "Use a method that drops tokens before the LLM, such as vidcom2"
"""What an error advises where a model cannot lose tokens between its layers."""


class LayerHooks(Uncopied):
    """A method on one language model. Several threads may call the model.

    Args:
        method: The method.
        lm: The language model.
        find: Called before each forward with the language model's arguments. Returns the prompt, or None if the call is
            no prefill with a video.
        report: Called with the videos after each prefill.

    Raises:
        ValueError: If the method does not suit the language model.
        TypeError: If the language model's forward has no key-value cache by a known name.
    """

    def __init__(
        self,
        method: InsideLLM,
        lm: Any,
        find: Callable[[dict[str, Any]], Prompt | None],
        report: Callable[[Sequence[Visual]], None],
    ):
        linear = names.linear_layers(lm)
        method.check(len(lm.layers), linear)
        cache_name(lm)
        self.method, self.lm, self.find, self.report = method, lm, find, report
        self.runs: dict[int, Pass] = {}  # by thread
        self.attached = True
        stages = method.schedule(len(lm.layers), NOMINAL, linear)
        self.require(stages)
        rotary = lm.rotary_emb
        self.handles = [
            lm.register_forward_pre_hook(self.before, with_kwargs=True),
            lm.register_forward_hook(self.after),
            lm.register_forward_hook(self.forget, always_call=True),
            rotary.register_forward_pre_hook(self.note_positions, with_kwargs=True),
        ]
        for index, layer in enumerate(lm.layers):
            self.handles.append(layer.register_forward_pre_hook(self.layer_hook(index), with_kwargs=True))
        if method.eager:
            for stage in stages:
                self.handles.append(lm.layers[stage.rank].self_attn.register_forward_hook(self.note_weights))
        self.undo = wrap(lm, names.DEEPSTACK, self.deepstack) if hasattr(lm, names.DEEPSTACK) else None

    def require(self, stages: Sequence[Stage]) -> None:
        """Raise ValueError for attention that the method cannot rank by or cannot shorten."""
        method, config = self.method, self.lm.config
        if method.eager and config._attn_implementation != "eager":
            raise ValueError(
                f"{method.spec} ranks by the layers' own attention weights, but this model was loaded with "
                f"attn_implementation={config._attn_implementation!r}: load it with 'eager', or use attention='rows'"
            )
        kinds = getattr(config, "layer_types", None) or []
        if any(kind in names.INDEXED for kind in kinds):
            raise ValueError(
                f"{method.name} cannot drop tokens inside {type(self.lm).__name__}: its layers with indexed attention "
                f"share one list of positions, and choose the tokens they attend to. {INSTEAD}"
            )
        if stages and "sliding_attention" in kinds[0 if method.selects else stages[0].cut :]:
            raise ValueError(
                f"{method.name} cannot shorten {type(self.lm).__name__}'s layers with a sliding window. {INSTEAD}"
            )

    def remove(self) -> None:
        """Take everything off the language model."""
        for handle in self.handles:
            handle.remove()
        if self.undo is not None:
            self.undo()
        self.attached = False

    @property
    def run(self) -> Pass | None:
        """The forward that this thread is in; None if it needs nothing."""
        return self.runs.get(get_ident())

    # ---- around the language model

    def before(self, lm: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Begin a prefill with videos, or a step on a cache that such a prefill filled."""
        self.forget(lm, args, None)  # after a KeyboardInterrupt torch does not call it
        prompt = self.find(kwargs)
        cache = cache_of(kwargs)
        if prompt is not None and prompt.videos:
            self.runs[get_ident()] = self.prefill(prompt, cache, kwargs)
        elif isinstance(cache, Layered) and cache.segments:
            length = together(kwargs).shape[1]
            self.runs[get_ident()] = Step(lm, cache, length, valid_rows(kwargs, length, cache))
        return args, kwargs

    def prefill(self, prompt: Prompt, cache: Any, kwargs: dict[str, Any]) -> Prefill:
        """Begin a prefill. Raise ValueError for a cache that cannot have layers of different lengths."""
        embeds = together(kwargs)
        if cache is not None and cache.is_compileable:
            raise ValueError(
                f"{self.method.name} gives the layers caches of different lengths, which {type(cache).__name__} "
                "cannot have: leave cache_implementation unset"
            )
        if cache is not None and cache.get_seq_length() > 0:
            raise ValueError(
                f"{self.method.name} takes videos in the first turn of a chat only: begin a new one without "
                f"{cache_name(self.lm)}"
            )
        if self.method.retention < 1 and cache is None and uses_cache(self.lm, kwargs):
            give_cache(self.lm, kwargs, cache := new_cache(self.lm))
        return Prefill(self.method, self.lm, cache, embeds, prompt)

    def after(self, lm: Any, args: Any, output: Any) -> None:
        """End a prefill: its cache learns which layers are shorter, and its videos are reported."""
        run = self.run
        if not isinstance(run, Prefill):
            return
        if run.segments and run.cache is not None:
            layered(run.cache, self, run.segments, run.prompt.valid.shape[1])
        for visual in run.visuals:
            self.method.verify(visual.counts, len(visual.place.columns), visual.place.frames)
        self.report(run.visuals)

    def forget(self, lm: Any, args: Any, output: Any) -> None:
        """End a forward, also one that failed."""
        self.runs.pop(get_ident(), None)

    # ---- inside the language model

    def note_positions(self, rotary: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before `rotary_emb`: note the positions of the first call, the model's own."""
        run = self.run
        if run is not None and run.positions is None:
            run.positions = kwargs["position_ids"] if "position_ids" in kwargs else args[1]

    def layer_hook(self, index: int) -> Callable[..., Any]:
        """Return the hook before layer `index`."""

        def before_layer(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if (run := self.run) is None:
                return None
            hidden = run.before_layer(index, layer, args[0], kwargs)
            return (hidden, *args[1:]), kwargs

        return before_layer

    def note_weights(self, attention: Any, args: Any, output: Any) -> None:
        """After the attention of a layer that ranks: score by its weights, in the order (output, weights)."""
        if isinstance(run := self.run, Prefill):
            run.rank_by(attention, output[1])

    def deepstack(self, original: Callable[..., Tensor], hidden: Tensor, visual: Tensor, embeds: Tensor) -> Tensor:
        """Around the method that adds deepstack features: leave those of dropped rows out."""
        if isinstance(self.run, Prefill) and self.run.segments:
            visual, embeds = self.run.deepstack(visual, embeds)
        return original(hidden, visual, embeds)
