"""Methods from other packages, found by the entry point group "vidcom2.methods".

A package declares one entry point per method. The name is the method's name, the value is the module that registers it:

    [project.entry-points."vidcom2.methods"]
    change = "my_package.change"

Nothing of another package is imported before a spec asks for its method (see `specs.find_method`), so a broken package
cannot break `import vidcom2`.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

GROUP = "vidcom2.methods"


class PluginError(ValueError):
    """A method of another package cannot be used. The message names the package and its entry point."""


def plugin_names() -> list[str]:
    """Return the names of all methods that installed packages declare, sorted. Imports none of them."""
    return sorted({entry.name for entry in entry_points(group=GROUP)})


def find_plugin(name: str) -> EntryPoint | None:
    """Return the entry point of the method `name`, or None if no package declares one.

    Raises:
        PluginError: Several packages declare it.
    """
    found = {entry.value: entry for entry in entry_points(group=GROUP, name=name)}
    if len(found) > 1:
        claims = " and ".join(sorted(origin(entry) for entry in found.values()))
        raise PluginError(f"method {name!r} is declared twice, by {claims}; uninstall one of these packages")
    return next(iter(found.values()), None)


def import_plugin(entry: EntryPoint) -> None:
    """Import what an entry point names.

    Raises:
        PluginError: The import fails.
    """
    try:
        entry.load()
    except Exception as error:
        raise PluginError(
            f"method {entry.name!r} cannot be loaded from {origin(entry)}: {type(error).__name__}: {error}. Repair or "
            "uninstall that package"
        ) from error


def origin(entry: EntryPoint) -> str:
    """Return the package and the entry point in words, for messages."""
    package = f"package {entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown package"
    return f"{package} (entry point {entry.name} = {entry.value} in {GROUP})"
