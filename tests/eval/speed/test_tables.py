"""How benchmarks write numbers."""

from __future__ import annotations

import pytest

from eval.speed.tables import milliseconds


@pytest.mark.parametrize(
    ("value", "text"), [(12.345, "12.35"), (0.1, "0.10"), (0.0949, "0.095"), (0.0042, "0.0042"), (0.0, "0")]
)
def test_a_short_time_keeps_its_digits(value, text):
    assert milliseconds(value) == text
