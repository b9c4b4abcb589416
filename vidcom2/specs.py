"""Methods by name, and the text ("vidcom2@0.25") that names a method with its settings."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from vidcom2.compressor import Compressor
from vidcom2.frame_adjustment import FrameAdjustment

METHODS: dict[str, type[Compressor]] = {}
"""All methods by name; filled by `register`, read by `compressor`, the eval CLI and the docs."""


ALIASES: dict[str, str] = {}
"""Other names for methods."""


def register(name: str, *aliases: str) -> Callable[[type[Compressor]], type[Compressor]]:
    """Class decorator: make a method known to `compressor(name)`, and under other names too."""

    def add(cls: type[Compressor]) -> type[Compressor]:
        for one in (name, *aliases):
            if one in METHODS or one in ALIASES:
                raise ValueError(f"compressor {one!r} is registered twice")
        cls.name = name
        METHODS[name] = cls
        ALIASES.update(dict.fromkeys(aliases, name))
        return cls

    return add


def compressor(spec: str, **settings: Any) -> Compressor:
    """Build a compressor from its name or spec; "none" and "dense" give `Dense`, which compresses nothing.

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
    name = ALIASES.get(name, name)
    if name not in METHODS:
        raise ValueError(f"compressor {name!r} is unknown; known are {', '.join(sorted(METHODS))}")
    if name == "none" and (at or plus or dot or pairs or settings):
        given = f" with {', '.join(settings)}" if settings else ""
        raise ValueError(f"compressor spec {spec!r}{given}: {head} compresses nothing, and has no settings")
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


def compressor_from_env(env: Mapping[str, str]) -> Compressor:
    """What `COMPRESSOR` (a spec) and `R_RATIO` (its retention) ask for, as the scripts read them.

    R_RATIO alone is vidcom2's; neither of them is no compression; with COMPRESSOR=none, R_RATIO has nothing to say.
    Only the edges of the program call this, once, with os.environ. Raises ValueError naming a bad variable, and for two
    different retentions.
    """
    spec, ratio = env.get("COMPRESSOR") or "", env.get("R_RATIO") or ""
    try:
        named = compressor(spec or ("vidcom2" if ratio else "none"))
        if named.name == "none" or not ratio:
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
