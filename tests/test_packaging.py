"""What an installation that is no checkout has, and which checkout's code runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

import vidcom2
from eval.models.zero3 import CONFIG as ZERO3
from eval.results import provenance
from eval.run import identity
from eval.run.flags import VARIABLES

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> ZipFile:
    """A real wheel, built from the files that git knows."""
    source = tmp_path_factory.mktemp("source")
    for file in tracked():
        if (ROOT / file).is_file():
            (source / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, source / file)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(source / "dist")]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = (source / "dist").glob("*.whl")
    return ZipFile(built)


def tracked() -> list[Path]:
    command = ["git", "ls-files", "eval", "llava", "vidcom2", "setup.py", "pyproject.toml", "README.md", "LICENSE"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [Path(file) for file in listed.splitlines()]


def installed_name(file: Path) -> str:
    """eval/ is installed as vidcom2_eval/."""
    return Path("vidcom2_eval", *file.parts[1:]).as_posix() if file.parts[0] == "eval" else file.as_posix()


def test_the_wheel_has_our_packages_and_every_file_that_code_reads(wheel):
    files = {name for name in wheel.namelist() if ".dist-info/" not in name}
    training = "eval/demo/training/"
    expected = [file for file in tracked() if len(file.parts) > 1 and not file.as_posix().startswith(training)]
    assert ZERO3.relative_to(ROOT) in expected
    assert files == {installed_name(file) for file in expected}
    assert {name.partition("/")[0] for name in files} == {"vidcom2", "llava", "vidcom2_eval"}
    assert {f"{package}/py.typed" for package in ("vidcom2", "llava", "vidcom2_eval")} <= files


def test_one_source_of_the_version(wheel):
    (metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    assert f"\nVersion: {vidcom2.__version__}\n" in wheel.read(metadata).decode()


@pytest.fixture(scope="module")
def installed(wheel: ZipFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command `vidcom2` as pip installs it: a script beside the packages."""
    site = tmp_path_factory.mktemp("site")
    wheel.extractall(site)
    (entry_points,) = site.glob("*.dist-info/entry_points.txt")
    (line,) = (line for line in entry_points.read_text().splitlines() if line.startswith("vidcom2 = vidcom2_eval"))
    module, _, function = line.removeprefix("vidcom2 = ").partition(":")
    script = site / "bin" / "vidcom2"
    script.parent.mkdir()
    script.write_text(
        f"import sys\nfrom {module} import {function}\nif __name__ == '__main__':\n    sys.exit({function}())\n"
    )
    return site


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A user's directory, whose modules have names like ours and cannot be imported."""
    names = ("eval", "llava") if sys.version_info >= (3, 11) else ("eval",)
    for name in names:
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the user\\'s own module was imported')\n")
    return tmp_path


def vidcom2_command(site: Path, cwd: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    env = {**clean, "PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(site / "bin" / "vidcom2"), *flags]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)


def test_the_installed_command_has_its_own_name(installed, theirs):
    done = vidcom2_command(installed, theirs, "--help")
    assert done.stdout.startswith("usage: vidcom2 "), done.stderr
    done = vidcom2_command(installed, theirs, "compare", "a", "b")
    assert (done.returncode, done.stderr.startswith("error: ")) == (1, True)


@pytest.mark.slow
def test_the_installed_command_answers_beside_a_users_own_modules(installed, theirs):
    """With a worker process that reads videos ahead."""
    flags = ("bench", "pipeline", "--videos", "1", "--per-video", "1", "--repeats", "2", "--device", "cpu")
    done = vidcom2_command(installed, theirs, *flags)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_installed_demo(installed, theirs):
    done = vidcom2_command(installed, theirs, "run", "--tasks", "mvbench", "--demo", "--limit", "1", "--output", "out")
    assert done.returncode == 0, done.stderr
    code = json.loads((theirs / "out" / "none" / "results.json").read_text())["run"]["code"]
    assert code["sources"] == identity.code()["sources"]


def test_an_installation_and_a_checkout_have_one_digest(installed):
    """A run that one of them began may go on with the other."""
    program = f"import sys; sys.path.insert(0, {str(installed)!r}); from vidcom2_eval.run import identity as i"
    command = [sys.executable, "-c", f"{program}; print(i.__file__, i.code()['sources'])"]
    file, digest = subprocess.run(command, cwd=installed, capture_output=True, text=True, check=True).stdout.split()
    assert Path(file).is_relative_to(installed)
    assert digest == identity.code()["sources"]


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
