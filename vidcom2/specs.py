"""Methods by name, and the spec, the text such as "vidcom2@0.25" that names a method with its settings."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint
from typing import Any

from vidcom2.compressor import Compressor
from vidcom2.frame_adjustment import FrameAdjustment
from vidcom2.plugins import PluginError, find_plugin, import_plugin, origin, plugin_names
from vidcom2.settings import setting_fields

METHODS: dict[str, type[Compressor]] = {}
"""The registered methods by name. Those of other packages are here once they are used; see `all_methods`."""

ALIASES: dict[str, str] = {}
"""Further names of methods, such as "dense" for "none"."""

NAME = re.compile(r"\w[\w-]*", re.ASCII)
"""A name that a spec can spell. Specs give `+`, `.`, `@`, `:`, `=` and lists of specs give `,` a meaning."""


# ---- methods


def register(name: str, *aliases: str) -> Callable[[type[Compressor]], type[Compressor]]:
    """Return a class decorator that makes a method known to `compressor(name)`. It stands above `@dataclass`.

    Args:
        name: The method's name, of letters, digits, `_` and `-`.
        aliases: Further names. The spec of an object has `name`.

    Raises:
        ValueError: A name is taken, or a spec cannot spell it.
        TypeError: What is decorated is not a `Compressor` with `@dataclass(frozen=True)` of its own, or a name in
            its `presets` is not a classmethod.
    """

    def add(cls: type[Compressor]) -> type[Compressor]:
        for one in (name, *aliases):
            if not NAME.fullmatch(one):
                raise ValueError(f"compressor name {one!r} cannot be written in a spec; use letters, digits, _ and -")
            if one in METHODS or one in ALIASES:
                raise ValueError(f"compressor {one!r} is registered twice")
        _check_class(name, cls)
        cls.name = name
        METHODS[name] = cls
        ALIASES.update(dict.fromkeys(aliases, name))
        return cls

    return add


def _check_class(name: str, cls: Any) -> None:
    if not (isinstance(cls, type) and issubclass(cls, Compressor)):
        raise TypeError(f"@register({name!r}) is on {cls!r}, which is not a subclass of vidcom2.Compressor")
    if "__dataclass_fields__" not in vars(cls):
        raise TypeError(
            f"{cls.__name__} is not a dataclass, so it has no settings of its own; write @dataclass(frozen=True) "
            f"between @register({name!r}) and the class"
        )
    for preset in cls.presets:
        if not NAME.fullmatch(preset) or not callable(getattr(cls, preset, None)):
            raise TypeError(f"{cls.__name__}.presets names {preset!r}, which is not a classmethod of the class")


def method_names() -> list[str]:
    """Return the names of all methods, sorted: the registered ones and those of installed packages.

    This imports no other package.
    """
    return sorted({*METHODS, *filter(NAME.fullmatch, plugin_names())})


def all_methods() -> dict[str, type[Compressor]]:
    """Return all methods by name, with those of installed packages. A package that fails is left out with a warning."""
    for name in plugin_names():
        try:
            if (entry := find_plugin(name)) is not None and (name not in METHODS or not _is_from(METHODS[name], entry)):
                _load(entry)
        except PluginError as error:
            warnings.warn(str(error), RuntimeWarning, stacklevel=2)
    return dict(METHODS)


def find_method(name: str) -> type[Compressor]:
    """Return the method of a name or alias. If it is not registered, load it from the package that declares it.

    Raises:
        ValueError: No method has this name.
        PluginError: The package that declares it cannot be used.
    """
    if name not in METHODS and name not in ALIASES:
        entry = find_plugin(name)
        if entry is None:
            raise ValueError(f"compressor {name!r} is unknown; known are {', '.join(method_names())}")
        _load(entry)
    return METHODS[ALIASES.get(name, name)]


def _load(entry: EntryPoint) -> None:
    """Import a plugin, which registers its method; if anything fails, nothing of it stays registered."""
    methods, aliases = dict(METHODS), dict(ALIASES)
    try:
        if entry.name in METHODS or entry.name in ALIASES:
            raise PluginError(f"{origin(entry)} claims the name of a method that exists; it has to choose another")
        import_plugin(entry)
        if entry.name not in METHODS and entry.name not in ALIASES:
            raise PluginError(f"{origin(entry)} does not register a method {entry.name!r}; it lacks @register")
    except PluginError:
        METHODS.clear()
        METHODS.update(methods)
        ALIASES.clear()
        ALIASES.update(aliases)
        raise


def _is_from(method: type[Compressor], entry: EntryPoint) -> bool:
    return method.__module__.partition(".")[0] == entry.module.partition(".")[0]


# ---- specs


def compressor(spec: str, **settings: Any) -> Compressor:
    """Build a compressor from its name or spec. "none" and "dense" give `Dense`, which compresses nothing.

    A spec is `name[+fca][.preset][@retention][:setting=value ...]`, for example `vidcom2.released@0.15` or
    `vidcom2@0.25:rounding=exact:positions=original`. `+fca` gives a method VidCom²'s budgets for the frames; the
    settings of `FrameAdjustment` are then `:fca.tau=0.02` and so on.

    Args:
        spec: The spec.
        settings: Settings of the method. They win over those in the spec.

    Returns:
        An object of the method's class.

    Raises:
        TypeError: The spec is not a text.
        ValueError: The method, preset or setting is unknown (the message lists the known ones), or a value is out of
            range. `PluginError`, a ValueError, if another package declares the method and fails.
    """
    if not isinstance(spec, str):
        raise TypeError(f"compressor spec {spec!r} is not a text such as 'vidcom2@0.25'")
    head, chosen = _split(spec)
    head, dot, preset = head.partition(".")
    name, plus, addition = head.partition("+")
    method = find_method(name)
    name = method.name
    if name == "none" and (plus or dot or chosen or settings):
        given = f" with {', '.join(settings)}" if settings else ""
        raise ValueError(f"compressor spec {spec!r}{given}: {head} compresses nothing, and has no settings")
    if plus and addition != "fca":
        raise ValueError(f"{addition!r} in compressor spec {spec!r} cannot be added to a method; only +fca can")
    if plus and not method.takes_fca():
        able = ", ".join(sorted(other for other in METHODS if METHODS[other].takes_fca()))
        raise ValueError(f"{name!r} has frame budgets of its own, so it cannot take +fca; these can: {able}")
    if preset and preset not in method.presets:
        raise ValueError(f"{name!r} has no preset {preset!r}; it has {', '.join(method.presets) or 'none'}")

    adjustment = {key[4:]: chosen.pop(key) for key in list(chosen) if key.startswith("fca.")}
    if adjustment and not plus:
        raise ValueError(f"compressor spec {spec!r} has settings fca.{', fca.'.join(adjustment)}, but no +fca")
    if plus:
        _check_known("fca", FrameAdjustment, adjustment)
        chosen["fca"] = FrameAdjustment(**adjustment)
    chosen |= settings
    _check_known(name, method, chosen)
    return getattr(method, preset)(**chosen) if preset else method(**chosen)


def _split(spec: str) -> tuple[str, dict[str, Any]]:
    """A spec's part before @ and :, and the settings behind them."""
    head, *pairs = spec.strip().split(":")
    head, at, retention = head.partition("@")
    if at and not retention:
        raise ValueError(f"compressor spec {spec!r} has no retention behind @; write {head}@0.25")
    chosen: dict[str, Any] = {"retention": _value(retention)} if at else {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"{pair!r} in compressor spec {spec!r} is not setting=value")
        if key in chosen:
            raise ValueError(f"compressor spec {spec!r} says {key} twice")
        chosen[key] = _value(value)
    return head, chosen


def _value(text: str) -> Any:
    """The Python literal that `text` is, or `text` itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _check_known(name: str, made: type, chosen: Mapping[str, Any]) -> None:
    known = [f.name for f in setting_fields(made)]
    if unknown := sorted(set(chosen) - set(known)):
        raise ValueError(f"{name!r} has no setting {', '.join(unknown)}; it has {', '.join(known)}")


def compressor_from_env(env: Mapping[str, str]) -> Compressor:
    """Build the compressor that the variables `COMPRESSOR` (a spec) and `R_RATIO` (its retention) ask for.

    R_RATIO alone means vidcom2. Without either there is no compression. With COMPRESSOR=none, R_RATIO is ignored. Only
    the entry points of the program call this, once each.

    Args:
        env: The environment, such as os.environ.

    Raises:
        ValueError: A variable is wrong (the message names both), or they give two different retentions.
    """
    spec, ratio = env.get("COMPRESSOR") or "", env.get("R_RATIO") or ""
    try:
        named = compressor(spec or ("vidcom2" if ratio else "none"))
        if named.name == "none" or not ratio:
            return named
        chosen = compressor(spec or "vidcom2", retention=_value(ratio))
        if chosen != named and ("@" in spec or ":retention=" in spec):
            raise ValueError("they give two retentions; leave one of them out")
        return chosen
    except ValueError as error:
        raise ValueError(f"COMPRESSOR={spec!r} R_RATIO={ratio!r} in the environment: {error}") from error
