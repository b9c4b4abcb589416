"""What an installation that is no checkout has, and which checkout's code runs."""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from eval.models.zero3 import CONFIG as ZERO3
from eval.results import provenance

ROOT = Path(__file__).parents[1]


def test_every_file_that_code_reads_is_in_the_wheel(monkeypatch):
    told: dict[str, Any] = {}
    monkeypatch.setattr("setuptools.setup", lambda **settings: told.update(settings))
    monkeypatch.chdir(ROOT)
    runpy.run_path("setup.py")
    command = ["git", "ls-files", "eval", "llava", "vidcom2"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")
    others = [Path(file) for file in listed if file and not file.endswith(".py")]
    assert ZERO3.relative_to(ROOT) in others
    for file in others:
        packages = [parent for parent in file.parents if ".".join(parent.parts) in told["packages"]]
        patterns = told["package_data"].get(".".join(packages[0].parts), [])
        assert any(fnmatch(str(file.relative_to(packages[0])), pattern) for pattern in patterns), file


def commit(repository: Path, *files: str) -> str:
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        command = ["git", "-C", str(repository), *identity, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init", "-q")
    git("add", *files)
    git("commit", "-qm", "first")
    return git("rev-parse", "HEAD")


def test_the_commit_is_of_our_own_repository(tmp_path, monkeypatch):
    """Not of one that the environment lies in."""
    installed = tmp_path / "venv" / "site-packages" / "eval"
    installed.mkdir(parents=True)
    shutil.copy(provenance.__file__, installed)
    (tmp_path / "theirs.txt").touch()
    commit(tmp_path, "theirs.txt")
    monkeypatch.setattr(provenance, "__file__", str(installed / "provenance.py"))
    assert provenance.provenance().git_commit is None

    ours = tmp_path / "checkout" / "eval"
    ours.mkdir(parents=True)
    shutil.copy(provenance.__file__, ours)
    monkeypatch.setattr(provenance, "__file__", str(ours / "provenance.py"))
    made = commit(ours.parent, "eval/provenance.py")
    assert provenance.provenance().git_commit == made
    (ours / "provenance.py").write_text("changed")
    assert provenance.provenance().git_commit == f"{made}-dirty"


def second_checkout(path: Path) -> Path:
    """One whose evaluation says where it is, and does nothing else."""
    shutil.copytree(ROOT / "scripts", path / "scripts")
    for package in ("vidcom2", "llava", "eval"):
        (path / package).mkdir()
        (path / package / "__init__.py").touch()
    (path / "eval" / "__main__.py").write_text("print(__file__)\n")
    return path


def launched(checkout: Path, python: str) -> subprocess.CompletedProcess[str]:
    command = ["env", f"PYTHON={python}", "bash", str(checkout / "scripts" / "eval_mvbench.sh")]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 takes what is installed, or refuses")
def test_a_script_runs_the_code_of_its_own_checkout(tmp_path):
    """Another one's is installed in the active environment: this one's."""
    second = second_checkout(tmp_path / "second")
    done = launched(second, sys.executable)
    assert done.stdout.strip() == str(second / "eval" / "__main__.py"), done.stderr


def test_a_script_refuses_to_run_the_code_of_another_checkout(tmp_path):
    """As Python 3.10 would, which knows no -P."""
    old = tmp_path / "python3.10"
    old.write_text(f'#!/bin/sh\n[ "$1" = -P ] && exit 2\nexec {sys.executable} "$@"\n')
    old.chmod(0o755)
    done = launched(second_checkout(tmp_path / "second"), str(old))
    assert done.returncode == 1
    assert f"and this checkout is {tmp_path / 'second'}: install it there" in done.stderr
