"""The base of all compression methods, `Compressor`, and the result of a selection, `Kept`."""

from __future__ import annotations

import dataclasses
import math
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from vidcom2.attachment import Attachment, Block
from vidcom2.families import attach
from vidcom2.features import all_finite, check_features, full_precision, require_finite
from vidcom2.settings import changed_settings, check_choice, check_numbers, plain_numbers, setting_fields


@dataclass(frozen=True, repr=False)
class Kept:
    """The tokens of one video that stay.

    Attributes:
        index: int64 [N], the kept positions in the flattened T·M tokens, ascending.
        budgets: int64 [T], how many tokens of each frame stay. They sum to N.
        features: [N, D], the kept tokens of a method that merges. None means the tokens at `index`, unchanged.
        by_hand: The tokens that the caller asked of each frame, None where nothing was asked. Empty if the caller had
            no say.
    """

    index: Tensor
    budgets: Tensor
    features: Tensor | None = None
    by_hand: tuple[int | None, ...] = ()

    def __repr__(self) -> str:
        merged = ", merged" if self.features is not None else ""
        return f"<Kept {len(self.index)} tokens of {len(self.budgets)} frames{merged}>"

    def apply(self, x: Tensor) -> Tensor:
        """Return the kept tokens [N, D] of the features x [T, M, D].

        Raises:
            ValueError: x has another number of frames than the video that was selected from.
        """
        if len(x) != len(self.budgets):
            raise ValueError(
                f"features of shape {tuple(x.shape)} are not those of the {len(self.budgets)} frames selected"
            )
        return x.flatten(0, 1).index_select(0, self.index) if self.features is None else self.features


@dataclass(frozen=True)
class Compressor:
    """Base of all methods. A method is a small frozen dataclass that has its settings as fields, and `_select`.

    Args:
        retention: R in (0, 1], the share of the visual tokens to keep. 1 keeps every token, with every method.
        positions: How the LLM numbers the shortened sequence. "repack" numbers it 0..L'-1. "original" leaves every
            token the position that it has in the full sequence. None does what the released code does for the
            model's family; methods inside the LLM have a default of their own.
        newlines: What becomes of the row newlines of a LLaVA-Video grid. "released" puts the newlines of a frame
            behind its kept tokens. "rows" puts one newline behind each row that kept a token, and drops the others.

    Raises:
        ValueError: A setting is out of range.

    Attributes:
        name: The name in specs; `register` sets it.
        presets: Names of classmethods that build other forms, such as "released" for `name.released`.
        venue: Where the method was published; empty for a control.
        paper: URL of the paper; empty for a control.
        stage: Where tokens are dropped, "before LLM" or "inside LLM".
        needs_attention: Whether tokens are ranked by rows of the LLM's attention.
        video_specific: Whether the method looks across frames.
        frame_adaptive: Whether the content of a frame decides how many of its tokens stay.
        flash_attention: Whether the LLM can run flash or SDPA attention under the method.
        merges: Whether kept tokens may be means of several. If not, `_select` runs without gradients.
        drops: Whether the method removes tokens at all. Only `Dense` does not.
        uses_grid: Whether the method looks at where in its frame a token is. It then has `_select_grid`, not `_select`.
        reachable: Which retention the method really gives, in words, for docs/methods.md.
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
    drops: ClassVar[bool] = True
    uses_grid: ClassVar[bool] = False
    reachable: ClassVar[str] = "any"

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "__repr__" not in vars(cls):
            cls.__repr__ = cls.__repr__  # type: ignore[method-assign]  # pinned, or @dataclass would write its own

    def __post_init__(self) -> None:
        plain_numbers(self)
        r = self.retention
        if isinstance(r, bool) or not isinstance(r, (int, float)) or not 0 < r <= 1:
            raise ValueError(f"retention={r!r} must be a number in (0, 1]; 0.25 keeps a quarter of the tokens")
        check_numbers(self)
        check_choice(self, "positions", (None, "repack", "original"))
        check_choice(self, "newlines", ("released", "rows"))

    def select(self, x: Tensor, grid: tuple[int, int] | None = None) -> Kept:
        """Choose which tokens of one video stay before the LLM. A method inside the LLM keeps all of them here.

        The choice has no gradient. Through `Kept.apply`, gradients reach the kept tokens of x, and those that were
        merged into them.

        Args:
            x: Features [T, M, D] of T frames with M tokens each and hidden size D, of any float dtype, on any device.
            grid: Rows and columns of a frame, whose M tokens come row by row. None stands for a square. Only methods
                with `uses_grid` need it.

        Returns:
            The kept tokens. Its tensors are on the device of x.

        Raises:
            TypeError: x is not a tensor; or x has a gradient, and the method merges without saying so.
            ValueError: x has another rank, holds no token, or is not of a float dtype; or the M tokens of a frame are
                not this grid. `NotFinite`, a ValueError, if x holds NaN or Inf.
        """
        check_features(x)
        if self.retention == 1:
            return keep_all(x)
        with full_precision(x.device), nullcontext() if self.merges else torch.no_grad():
            kept = self._select_grid(x, *self._grid_of(x.shape[1], grid)) if self.uses_grid else self._select(x)
        if kept.features is not None and not self.merges and x.requires_grad and torch.is_grad_enabled():
            raise TypeError(
                f"{self.name} merges tokens but does not say so, and its merged tokens would have no gradient: give "
                f"{type(self).__name__} `merges: ClassVar[bool] = True`"
            )
        return kept

    def _select(self, x: Tensor) -> Kept:
        """`select` for checked features and R < 1. It has to refuse NaN and Inf itself; see `require_finite`."""
        raise NotImplementedError

    def _select_grid(self, x: Tensor, rows: int, columns: int) -> Kept:
        """`_select` for a method with `uses_grid`. A frame's tokens are rows · columns = M."""
        raise NotImplementedError

    def _grid_of(self, m: int, grid: tuple[int, int] | None) -> tuple[int, int]:
        """Rows and columns of a frame of m tokens: `grid`, or a square."""
        if grid is None:
            grid = (math.isqrt(m),) * 2
            if m != grid[0] ** 2:
                raise ValueError(
                    f"{self.name} looks at where in the frame a token is, and {m} tokens are no square: pass "
                    "grid=(rows, columns) to select. In a model whose frames have no rows, take another method"
                )
        if m != grid[0] * grid[1]:
            raise ValueError(f"grid={grid!r} has {grid[0] * grid[1]} tokens, but a frame has {m}")
        return grid

    def total(self, frames: int, m: int) -> int | None:
        """Return how many tokens stay of every video of one shape, for callers that must know before they see it.

        Args:
            frames: T.
            m: M, tokens per frame.

        Returns:
            The number of tokens. None if it depends on the content.
        """
        return frames * m if self.retention == 1 else None

    @property
    def tells_places(self) -> bool:
        """Whether `Kept.index` says where the kept tokens come from. A form that loses track of it overrides this."""
        return True

    @property
    def settings(self) -> dict[str, Any]:
        """Every setting with its value, as it is written to result files."""
        values = dataclasses.asdict(self)
        return {f.name: values[f.name] for f in setting_fields(self)}

    @classmethod
    def takes_fca(cls) -> bool:
        """Whether `name+fca` exists: whether the method has a setting `fca` (see `FrameAdjustment`)."""
        return any(f.name == "fca" for f in setting_fields(cls))

    @classmethod
    def takes_budgets(cls) -> bool:
        """Whether a caller can give frames budgets by hand, by a setting `budgets` (see `Ranking`)."""
        return any(f.name == "budgets" for f in setting_fields(cls))

    def with_budgets(self, budgets: Any) -> Compressor:
        """Return a copy with a caller's budgets for the frames.

        Args:
            budgets: See `Ranking`.

        Raises:
            ValueError: The method takes none, or has some already, or they are impossible.
        """
        if not self.takes_budgets():
            raise ValueError(f"{self.name} takes no budgets by hand; docs/methods.md says which methods do")
        if getattr(self, "budgets", None) is not None:
            raise ValueError(f"{self.spec} has budgets already: leave one of the two out")
        changed: Any = {"budgets": budgets}
        return dataclasses.replace(self, **changed)

    @property
    def spec(self) -> str:
        """The shortest text that `vidcom2.compressor` turns back into this object. It names results and caches.

        A mask, or budgets that are a function, stand there by a name in `<>`, which cannot be turned back.
        """
        fca = getattr(self, "fca", None) if self.takes_fca() else None
        changed = changed_settings(self, skip=("retention", "fca"))
        if fca is not None:
            changed |= {f"fca.{name}": value for name, value in changed_settings(fca).items()}
        pairs = "".join(f":{name}={_short(value)}" for name, value in changed.items())
        return f"{self.name}{'+fca' if fca else ''}@{self.retention}{pairs}"

    def __repr__(self) -> str:
        if "name" in vars(type(self)) and "=<" not in self.spec:  # the text builds an equal object
            return f"compressor({self.spec!r})"
        return f"<{type(self).__name__} {self.spec}>"

    def attach(self, model: nn.Module) -> Attachment:
        """Compress every call of `model` until `.detach()`. Prefer `with compressor(model):`.

        Raises:
            TypeError: No family of models that vidcom2 knows fits `model`.
            RuntimeError: `model` is compressed already.
        """
        return Attachment(self, model, attach(self, model))

    def __call__(self, model: nn.Module) -> Block:
        """Return a context manager: `with compressor(model) as run:` compresses the calls of `model` inside it.

        Args:
            model: A model of a supported family, or a module that holds one.

        Returns:
            A `Block`; entering it gives the `Attachment`.
        """
        return Block(self, model)


def keep_all(x: Tensor) -> Kept:
    """Keep every token of the features x [T, M, D].

    Raises:
        NotFinite: x holds NaN or Inf.
    """
    require_finite(bool(all_finite(x)), x)
    frames, m = x.shape[:2]
    return Kept(torch.arange(frames * m, device=x.device), torch.full((frames,), m, device=x.device))


def _short(value: Any) -> Any:
    """2 for 2.0, as one writes it, and a name for a function; any other value unchanged."""
    if callable(value):
        return f"<{getattr(value, '__qualname__', value)}>"
    return int(value) if isinstance(value, float) and value.is_integer() else value
