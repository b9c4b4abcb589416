"""lmms-eval's task files, read without importing lmms-eval, which takes long."""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

ENCODING = "utf-8-sig"
"""UTF-8, with or without the mark that some of the files begin with."""
NAMES = re.compile(r"""^["']?(?:task|group)["']?[ \t]*:[ \t]*["']?([^\s"'#\[]+)""", re.MULTILINE)
"""Finds the names that a task file declares, without the time that parsing two thousand files takes."""


class _Loader(yaml.SafeLoader):
    """Reads `!function` tags as None instead of importing the function."""


_Loader.add_constructor("!function", lambda loader, node: None)


def task_folder() -> Path | None:
    """Return the directory of lmms-eval's task files. None where lmms-eval is not installed."""
    spec = find_spec("lmms_eval")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "tasks"


def declaration(file: Path, by: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return what a task file says, the files that it includes among it.

    Args:
        file: The task file.
        by: The files that include it, the outermost first.

    Raises:
        ValueError: The file, or one that it includes, is no YAML file with keys and values, or includes itself.
    """
    if file in by:
        raise ValueError(f"{file} includes itself ({' -> '.join(path.name for path in (*by, file))}): mend its include")
    try:
        content = yaml.load(file.read_text(encoding=ENCODING), _Loader)
    except OSError as error:
        from_where = f", which {by[-1]} includes," if by else ""
        raise ValueError(f"{file}{from_where} cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is no YAML file ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} is no task file of lmms-eval: it has no keys")
    included: dict[str, Any] = {}
    for path in reversed(_includes(file, content)):
        included |= declaration(path, (*by, file))
    content.pop("include", None)
    return {**included, **content}


def _includes(file: Path, content: dict[str, Any]) -> list[Path]:
    """Return the files that the content of a task file includes."""
    named = content.get("include") or []
    names = [named] if isinstance(named, str) else named
    return [Path(name) if Path(name).is_file() else file.parent / name for name in names]


def sources(file: Path) -> list[Path]:
    """Return the files that a task file of the user's rests on: what it includes, its functions, and local questions.

    Raises:
        ValueError: As for `declaration`.
    """
    data = (declaration(file).get("dataset_kwargs") or {}).get("data_files") or []
    parts = list(data.values()) if isinstance(data, dict) else [data]
    questions = [Path(name) for part in parts for name in ([part] if isinstance(part, str) else part)]
    return [*_written(file), *(path for path in questions if path.is_file())]


def _written(file: Path) -> list[Path]:
    """Return a task file, the modules of its functions, and the same of what it includes."""
    text = file.read_text(encoding=ENCODING)
    modules = sorted(set(re.findall(r"!function\s+([\w.]+)\.\w+", text)))
    functions = [path for name in modules if (path := file.parent / f"{name.replace('.', '/')}.py").is_file()]
    included = [path for one in _includes(file, yaml.load(text, _Loader)) for path in _written(one)]
    return [file, *functions, *included]


def all_names() -> set[str]:
    """Return the names of lmms-eval's tasks and groups, to find one that is spelt nearly so."""
    folder = task_folder()
    files = folder.rglob("*.yaml") if folder is not None else ()
    return {name for file in files for name in NAMES.findall(file.read_text(encoding=ENCODING))}


@lru_cache(maxsize=64)
def file_of(name: str) -> Path | None:
    """Return the file that declares one of lmms-eval's tasks or groups. None if there is none."""
    folder = task_folder()
    files = sorted(folder.rglob("*.yaml")) if folder is not None else []
    return next((file for file in files if name in NAMES.findall(file.read_text(encoding=ENCODING))), None)


def leaves(name: str) -> dict[str, Path]:
    """Return the tasks of a task or group of lmms-eval, each with the file that declares it. {} if there are none."""
    file = file_of(name)
    if file is None:
        return {}
    members = declaration(file).get("task") if declaration(file).get("group") == name else name
    if isinstance(members, str):
        return {name: file}
    return {task: path for member in members or () if isinstance(member, str) for task, path in leaves(member).items()}
