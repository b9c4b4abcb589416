"""Where a result comes from is said without saying where the checkout lies."""

from __future__ import annotations

from pathlib import Path

from eval.results.provenance import command

ROOT = Path(__file__).resolve().parents[3]


def test_programs_of_the_checkout_are_named_as_in_it():
    assert command([str(ROOT / "eval" / "__main__.py"), "run", "--limit", "3"]) == [
        *("eval/__main__.py", "run", "--limit", "3")
    ]


def test_others_stay_as_they_are(tmp_path):
    assert command([str(tmp_path / "vidcom2"), "see"]) == [str(tmp_path / "vidcom2"), "see"]
    assert command(["-c"]) == ["-c"]
    assert command(["vidcom2", "see"]) == ["vidcom2", "see"]
