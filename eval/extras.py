"""Packages that come with an extra of ours."""

from __future__ import annotations

from importlib.util import find_spec


def missing_package(error: Exception) -> str | None:
    """What to say of a package that is not installed; None for other errors, and for what is missing of our own."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return None
    package = error.name.partition(".")[0]
    if package in ("eval", "llava", "vidcom2"):
        return None
    install = "pip install -c requirements.txt -e '.[eval]'"
    return f'{package} is not installed, which the extra "eval" brings: in a checkout, {install}'


def require_harness() -> None:
    """ModuleNotFoundError where lmms-eval, which is imported only when the model is loaded, is not installed."""
    if find_spec("lmms_eval") is None:
        raise ModuleNotFoundError("No module named 'lmms_eval'", name="lmms_eval")
