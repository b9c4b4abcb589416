"""What every compression method shares: its settings, its result, its registry and how it is attached."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from vidcom2.attachment import Attachment, Block
from vidcom2.budget import equal_budgets, total_budget
from vidcom2.frames import FrameAdjustment
from vidcom2.settings import check_choice, check_numbers, plain_numbers
from vidcom2.uniqueness import by_frames

METHODS: dict[str, type[Compressor]] = {}
"""All methods by name; filled by `register`, read by `compressor`, the eval CLI and the docs."""


@dataclass(frozen=True)
class Kept:
    """Which of the T·M visual tokens stay.

    index:    int64 [N], ascending positions in the flattened T·M tokens.
    budgets:  int64 [T], tokens kept per frame; sums to N.
    features: [N, D] for methods that merge tokens; None means the tokens at `index` as they are.
    """

    index: Tensor
    budgets: Tensor
    features: Tensor | None = None

    def apply(self, x: Tensor) -> Tensor:
        """The kept tokens [N, D] of x [T, M, D]."""
        return x.flatten(0, 1).index_select(0, self.index) if self.features is None else self.features


@dataclass(frozen=True)
class Record:
    """What one visual input of a call cost the LLM. Everything is a count of LLM input rows, unless said.

    frames_before, frames_after: patch tokens of each frame; separators_*: newline tokens.
    sample: row of the batch. start: where the visual rows begin in the (padded) sequence of that row.
    cut: visual rows lost because the sequence was longer than the model's `tokenizer_model_max_length`.
    layers: of methods inside the LLM, visual rows that each of its layers processed, merged tokens and separators
        included. Their frames_after are the patch tokens in the last layer, merged ones left out.
    """

    sample: int
    modality: Literal["video", "image"]
    method: str
    positions: str
    start: int
    frames_before: tuple[int, ...]
    frames_after: tuple[int, ...]
    separators_before: int
    separators_after: int
    cut: int = 0
    layers: tuple[int, ...] = ()

    @property
    def tokens_before(self) -> int:
        return sum(self.frames_before) + self.separators_before

    @property
    def tokens_after(self) -> float:
        """What the LLM really saw: kept patches and separators, less what a too long sequence lost. A whole number,
        but for methods inside the LLM: there it is the mean over the layers."""
        if self.layers:
            return sum(self.layers) / len(self.layers)
        return self.prompt_rows

    @property
    def prompt_rows(self) -> int:
        """The visual input's rows in the prompt that the LLM got."""
        if self.layers:
            return self.layers[0]
        return sum(self.frames_after) + self.separators_after - self.cut

    @property
    def retention(self) -> float:
        """The actual one, separators included."""
        return self.tokens_after / self.tokens_before


@dataclass(frozen=True)
class Compressor:
    """Base of all methods: a method is a small frozen dataclass with `_select`.

    retention: R in (0, 1], share of the visual tokens to keep; 1 keeps every token, for every method.
    positions: "repack" numbers the shortened sequence 0..L'-1; "original" lets every token keep the position it
        had in the full sequence. None takes what was released for the model's family.
    newlines: what becomes of a LLaVA-Video grid's row newlines. "released": each frame's kept tokens, then all
        its newlines. "rows": raster order, a newline after each row that kept a token, empty rows vanish.

    Raises ValueError for settings out of range.

    What the table in docs/methods.md says about a method:
    venue, paper: where it was published, and the paper's URL.
    needs_attention: scores come from attention rows. flash_attention: flash and SDPA attention stay on.
    video_specific: looks across frames. frame_adaptive: what is in a frame decides its budget.
    merges: kept tokens are means of several. reachable: which retention it really gives.
    """

    retention: float = 0.25
    positions: Literal["repack", "original"] | None = field(default=None, kw_only=True)
    newlines: Literal["released", "rows"] = field(default="released", kw_only=True)

    name: ClassVar[str] = ""
    presets: ClassVar[tuple[str, ...]] = ()
    venue: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    stage: ClassVar[Literal["before LLM", "inside LLM"]] = "before LLM"
    needs_attention: ClassVar[bool] = False
    video_specific: ClassVar[bool] = False
    frame_adaptive: ClassVar[bool] = False
    flash_attention: ClassVar[bool] = True
    merges: ClassVar[bool] = False
    reachable: ClassVar[str] = "any"

    def __post_init__(self) -> None:
        plain_numbers(self)
        r = self.retention
        if isinstance(r, bool) or not isinstance(r, (int, float)) or not 0 < r <= 1:
            raise ValueError(f"retention={r!r} must be a number in (0, 1]; 0.25 keeps a quarter of the tokens")
        check_numbers(self)
        check_choice(self, "positions", (None, "repack", "original"))
        check_choice(self, "newlines", ("released", "rows"))

    def select(self, x: Tensor) -> Kept:
        """Choose the tokens of one video to keep.

        x: [T, M, D] float tensor (T frames, M tokens per frame, D hidden size), any device and float dtype.
        Raises ValueError for another rank, an empty or a non-float tensor, and for NaN or Inf features.
        """
        check_features(x)
        if self.retention == 1:
            return keep_all(x)
        with full_precision(x.device):
            return self._select(x)

    def _select(self, x: Tensor) -> Kept:
        raise NotImplementedError

    @property
    def settings(self) -> dict[str, Any]:
        """Every setting with its value, for results and provenance."""
        return dataclasses.asdict(self)

    @property
    def spec(self) -> str:
        """The shortest text that `compressor` turns back into this object; identifies it in results and caches."""
        fca: FrameAdjustment | None = getattr(self, "fca", None)
        changed = _changed(self, "", ("retention", "fca")) + (_changed(fca, "fca.") if fca else [])
        return f"{self.name}{'+fca' if fca else ''}@{self.retention}{''.join(changed)}"

    def attach(self, model: nn.Module) -> Attachment:
        """Compress every later call of `model` until `.detach()`. Prefer `with compressor(model):`.

        Raises TypeError for a model of an unknown family and RuntimeError for one that is compressed already.
        """
        from vidcom2.models import attach

        return Attachment(self, model, attach(self, model))

    def __call__(self, model: nn.Module) -> Block:
        """`with compressor(model) as run:` compresses the calls of `model` inside the block; see `Block`."""
        return Block(self, model)


def _changed(settings: Any, prefix: str, skip: tuple[str, ...] = ()) -> list[str]:
    """A dataclass's settings that are not at their default, as parts of a spec."""
    return [
        f":{prefix}{f.name}={_short(value)}"
        for f in dataclasses.fields(settings)
        if f.name not in skip and (value := getattr(settings, f.name)) != f.default
    ]


def _short(value: Any) -> Any:
    """2 for 2.0, as one writes it; anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


@dataclass(frozen=True)
class Ranking(Compressor):
    """Base of methods that rank tokens: they say which of a frame's tokens are best, and any budgets will do.

    fca: gives the frames VidCom²'s budgets ("name+fca"); None, equal ones. Either way (unless fca.rounding says
        otherwise) they add up to round(R·T·M), but never to less than one token for each frame.

    A subclass has `scores`; one that does more with its budgets than keep the best has `keep` instead.
    """

    fca: FrameAdjustment | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fca is not None and not isinstance(self.fca, FrameAdjustment):
            raise ValueError(f"fca={self.fca!r} must be a FrameAdjustment or None; in a spec, write {self.name}+fca")

    def scores(self, x: Tensor) -> Tensor:
        """How much each token of x [T, M, D] deserves to stay: [T, M]; only the order within a frame matters."""
        raise NotImplementedError

    def budgets(self, x: Tensor) -> Tensor:
        """Tokens that each frame of x [T, M, D] may keep: int64 [T] in [1, M]. Does not wait for the device."""
        if self.fca is not None:
            return self.fca.budgets(x, self.retention)
        frames, m = x.shape[:2]
        return equal_budgets(total_budget(self.retention, frames, m), frames).to(x.device)

    def keep(self, x: Tensor, budgets: Tensor, size: int) -> Kept:
        """Keep budgets[t] of the tokens of each frame t of x [T, M, D]; size is the sum of the budgets."""
        return Kept(top_per_frame(self.scores(x), budgets, size), budgets)

    def _select(self, x: Tensor) -> Kept:
        budgets = self.budgets(x)
        size, finite = torch.stack([budgets.sum(), all_finite(x).long()]).tolist()  # the only host synchronisation
        require_finite(bool(finite), x)
        return self.keep(x, budgets, size)


def keep_all(x: Tensor) -> Kept:
    """Every token of x [T, M, D]. Raises ValueError for NaN or Inf."""
    require_finite(bool(all_finite(x)), x)
    frames, m = x.shape[:2]
    return Kept(torch.arange(frames * m, device=x.device), torch.full((frames,), m, device=x.device))


def full_precision(device: torch.device) -> Any:
    """A context without autocast, in which scores are computed, so that they do not depend on the caller's."""
    return torch.autocast(device.type, enabled=False) if torch.is_autocast_enabled(device.type) else nullcontext()


def has_float64(device: torch.device) -> bool:
    return device.type != "mps"


def check_features(x: Tensor) -> None:
    """Raise ValueError unless x is a non-empty [T, M, D] float tensor."""
    if x.ndim != 3:
        raise ValueError(f"features of shape {tuple(x.shape)} are not [T, M, D]; pass one video, split into its frames")
    if 0 in x.shape:
        raise ValueError(f"features of shape {tuple(x.shape)} hold no token")
    if not x.is_floating_point():
        raise ValueError(f"features are {x.dtype}; pass a floating-point tensor")


def all_finite(x: Tensor) -> Tensor:
    """0-d bool tensor: x [T, ...] holds no NaN or Inf, and is not so large that its sum overflows float32."""
    if x.device.type == "cpu":  # where a sum in another dtype casts all of x first
        (sums,) = by_frames(lambda x: (x.flatten(1).sum(dim=1, dtype=torch.float32),), x)
        return sums.sum().isfinite()
    return x.sum(dtype=torch.float32).isfinite()


class NotFinite(ValueError):
    """Features hold NaN or Inf: no token can be chosen."""


def require_finite(finite: bool, x: Tensor) -> None:
    """Raise NotFinite, naming the tensor, where `finite` is False."""
    if not finite:
        raise NotFinite(
            f"features of shape {tuple(x.shape)} and {x.dtype} hold NaN or Inf (or overflow {torch.float32}): "
            "look at the vision tower's input and at its dtype"
        )


def top_per_frame(scores: Tensor, budgets: Tensor, size: int) -> Tensor:
    """Positions of the `budgets[t]` highest scores of each frame, ascending in the flattened T·M tokens.

    scores: [T, M]; budgets: int64 [T] with sum `size`. Returns int64 [size]. Equal scores: the earlier token.
    Vectorised over frames, and without a host synchronisation, since the caller knows the size.
    """
    frames, m = scores.shape
    best = scores.argsort(dim=1, descending=True, stable=True)
    first = torch.arange(m, device=scores.device) < budgets[:, None]
    keep = torch.empty_like(first).scatter_(1, best, first).flatten()
    # Scatter each kept position to its place in the output, counted from 1; the rest goes to a spare slot 0.
    place = keep.cumsum(0) * keep
    index = torch.empty(size + 1, dtype=torch.int64, device=scores.device)
    return index.scatter_(0, place, torch.arange(frames * m, device=scores.device))[1:]


def register(name: str) -> Callable[[type[Compressor]], type[Compressor]]:
    """Class decorator: make a method known to `compressor(name)`."""

    def add(cls: type[Compressor]) -> type[Compressor]:
        if name in METHODS:
            raise ValueError(f"compressor {name!r} is registered twice")
        cls.name = name
        METHODS[name] = cls
        return cls

    return add


def compressor(spec: str, **settings: Any) -> Compressor | None:
    """Build a compressor from its name or spec; "none" and "dense" give None, which means no compression.

    A spec is `name[+fca][.preset][@retention][:setting=value ...]`, for example `vidcom2.released@0.15` or
    `vidcom2@0.25:rounding=exact:positions=original`. `+fca` gives a method VidCom²'s budgets for frames
    (`FrameAdjustment`, whose own settings are `:fca.tau=0.02` and so on). Keyword settings win over those in the spec.

    Raises ValueError that names an unknown method, preset or setting and lists the known ones.
    """
    head, *pairs = spec.strip().split(":")
    head, at, retention = head.partition("@")
    if at and not retention:
        raise ValueError(f"compressor spec {spec!r} has no retention behind @; write {head}@0.25")
    head, dot, preset = head.partition(".")
    name, plus, addition = head.partition("+")
    if head in ("none", "dense"):
        if at or dot or pairs or settings:
            given = f" with {', '.join(settings)}" if settings else ""
            raise ValueError(f"compressor spec {spec!r}{given}: {head} compresses nothing, and has no settings")
        return None
    if name not in METHODS:
        raise ValueError(f"compressor {name!r} is unknown; known are {', '.join(sorted(METHODS))} and none")
    method = METHODS[name]
    if plus and addition != "fca":
        raise ValueError(f"{addition!r} in compressor spec {spec!r} cannot be added to a method; only +fca can")
    if plus and not _has_fca(method):
        able = ", ".join(sorted(other for other in METHODS if _has_fca(METHODS[other])))
        raise ValueError(f"{name!r} has frame budgets of its own, so it cannot take +fca; these can: {able}")
    if preset and preset not in method.presets:
        raise ValueError(f"{name!r} has no preset {preset!r}; it has {', '.join(method.presets) or 'none'}")

    chosen: dict[str, Any] = {"retention": _value(retention)} if retention else {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"{pair!r} in compressor spec {spec!r} is not setting=value")
        if key in chosen:
            raise ValueError(f"compressor spec {spec!r} says {key} twice")
        chosen[key] = _value(value)
    adjustment = {key[4:]: chosen.pop(key) for key in list(chosen) if key.startswith("fca.")}
    if adjustment and not plus:
        raise ValueError(f"compressor spec {spec!r} has settings fca.{', fca.'.join(adjustment)}, but no +fca")
    if plus:
        _check_known("fca", FrameAdjustment, adjustment)
        chosen["fca"] = FrameAdjustment(**adjustment)
    chosen |= settings
    _check_known(name, method, chosen)
    return getattr(method, preset)(**chosen) if preset else method(**chosen)


def _has_fca(method: type[Compressor]) -> bool:
    return "fca" in {f.name for f in dataclasses.fields(method)}


def _check_known(name: str, made: type, chosen: Mapping[str, Any]) -> None:
    known = [f.name for f in dataclasses.fields(made)]
    if unknown := sorted(set(chosen) - set(known)):
        raise ValueError(f"{name!r} has no setting {', '.join(unknown)}; it has {', '.join(known)}")


def compressor_from_env(env: Mapping[str, str]) -> Compressor | None:
    """What `COMPRESSOR` (a spec) and `R_RATIO` (its retention) ask for, as the scripts read them.

    R_RATIO alone is vidcom2's; neither of them is no compression; with COMPRESSOR=none, R_RATIO has nothing to say.
    Only the edges of the program call this, once, with os.environ. Raises ValueError naming a bad variable, and for two
    different retentions.
    """
    spec, ratio = env.get("COMPRESSOR") or "", env.get("R_RATIO") or ""
    try:
        named = compressor(spec or ("vidcom2" if ratio else "none"))
        if named is None or not ratio:
            return named
        chosen = compressor(spec or "vidcom2", retention=_value(ratio))
        if chosen != named and ("@" in spec or ":retention=" in spec):
            raise ValueError("they tell two retentions, leave one of them out")
        return chosen
    except ValueError as error:
        raise ValueError(f"COMPRESSOR={spec!r} R_RATIO={ratio!r} in the environment: {error}") from error


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
