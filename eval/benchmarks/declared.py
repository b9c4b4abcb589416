"""lmms-eval's task files, read without importing lmms-eval, which takes long."""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """Reads `!function` tags as None instead of importing the function."""


_Loader.add_constructor("!function", lambda loader, node: None)


def task_folder() -> Path | None:
    """Return the directory of lmms-eval's task files. None where lmms-eval is not installed."""
    spec = find_spec("lmms_eval")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "tasks"


def declaration(file: Path) -> dict[str, Any]:
    """Return what a task file says, the files that it includes among it.

    Raises:
        ValueError: The file is no YAML file with keys and values.
    """
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is no YAML file ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} is no task file of lmms-eval: it has no keys")
    named = content.pop("include", None) or []
    included: dict[str, Any] = {}
    for name in reversed([named] if isinstance(named, str) else named):
        path = Path(name) if Path(name).is_file() else file.parent / name
        included |= declaration(path)
    return {**included, **content}


@lru_cache(maxsize=64)
def file_of(name: str) -> Path | None:
    """Return the file that declares one of lmms-eval's tasks or groups. None if there is none."""
    folder = task_folder()
    says = re.compile(rf"""^(task|group):\s*["']?{re.escape(name)}["']?\s*(#.*)?$""", re.MULTILINE)
    files = sorted(folder.rglob("*.yaml")) if folder is not None else []
    return next((file for file in files if says.search(file.read_text(encoding="utf-8"))), None)


def leaves(name: str) -> dict[str, Path]:
    """Return the tasks of a task or group of lmms-eval, each with the file that declares it. {} if there are none."""
    file = file_of(name)
    if file is None:
        return {}
    members = declaration(file).get("task") if declaration(file).get("group") == name else name
    if isinstance(members, str):
        return {name: file}
    return {task: path for member in members or () if isinstance(member, str) for task, path in leaves(member).items()}
