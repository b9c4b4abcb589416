"""Where the rows of a language model's input go when others are dropped."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Moved:
    """Where the rows that stay go.

    Attributes:
        order: int64 [B, N'], the column that each row comes from.
        live: bool [B, N'], which rows are no padding.
    """

    order: Tensor
    live: Tensor

    def pick(self, x: Tensor) -> Tensor:
        """Return the rows that stay of x [..., B, N]."""
        return x.gather(-1, self.order.expand(*x.shape[:-2], *self.order.shape))

    def pick_rows(self, x: Tensor) -> Tensor:
        """Return the rows that stay of x [B, N, D]."""
        return x.gather(1, self.order[..., None].expand(-1, -1, x.shape[-1]))
