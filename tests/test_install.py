"""What is promised of installing: setup.py lists what is imported, requirements.txt pins all that it asks for."""

from __future__ import annotations

import ast
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path
from typing import Any

import pytest
import setuptools
import torch
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from vidcom2.models.names import TESTED

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
OURS = {"vidcom2", "llava", "eval"}
LATE = {"decord", "torchcodec", "flash_attn", "deepspeed", "vllm", "openai"}
"""Imported inside functions only, where somebody asks for them; the error says how to install them. openai comes with
vLLM."""


@pytest.fixture
def setup(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What setup.py hands to setuptools; the installed metadata may be another checkout's."""
    given: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", given.update)
    runpy.run_path(str(ROOT / "setup.py"))
    return given


@cache
def locked() -> list[Requirement]:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if not line.startswith("#")]


def environment(python: str) -> dict[str, str]:
    on_linux = {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"}
    return {**default_environment(), **on_linux, "python_version": python, "python_full_version": f"{python}.2"}


def applies(requirement: Requirement, python: str, extra: str = "") -> bool:
    return requirement.marker is None or requirement.marker.evaluate({**environment(python), "extra": extra})


def pins(python: str) -> dict[str, str]:
    found = [(canonicalize_name(pin.name), str(pin.specifier)) for pin in locked() if applies(pin, python)]
    assert len(dict(found)) == len(found), "a package is pinned twice"
    return dict(found)


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_has_one_version_of_all_that_setup_asks_for(setup, python):
    pinned = pins(python)
    asked = [*setup["install_requires"], *setup["extras_require"]["eval"], *setup["extras_require"]["dev"]]
    for requirement in map(Requirement, asked):
        if applies(requirement, python):
            version = pinned[canonicalize_name(requirement.name)]
            assert version.startswith("==")
            assert requirement.specifier.contains(version[2:]), requirement


def test_the_lock_has_what_those_need_in_turn(setup):
    """As far as it is installed here, and for this Python."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    pinned = pins(python)
    waiting = [Requirement(line) for extra in ("eval", "dev") for line in setup["extras_require"][extra]]
    seen: set[str] = set()
    while waiting:
        requirement = waiting.pop()
        if str(requirement) in seen or not applies(requirement, python):
            continue
        seen.add(str(requirement))
        name = canonicalize_name(requirement.name)
        assert name in pinned
        try:
            needs = [Requirement(line) for line in requires(name) or []]
        except PackageNotFoundError:
            continue
        extras = requirement.extras or {""}
        waiting += [
            Requirement(str(need).partition(";")[0])
            for need in needs
            if any(applies(need, python, extra) for extra in extras)
        ]
    assert len(seen) > 100


def test_the_range_of_transformers_is_what_the_tests_pass_on(setup):
    (wanted,) = (line for line in setup["extras_require"]["llava"] if line.startswith("transformers"))
    (first, low), (last, high) = TESTED
    assert wanted == f"transformers>={first}.{low},<{last}.{high + 1}"


def test_the_lock_names_no_place():
    for pin in locked():
        assert pin.url is None
        assert re.fullmatch(r"==[\w.+]+", str(pin.specifier))
    assert not re.search(r"https?:|file:|--(extra-)?index|--find-links", (ROOT / "requirements.txt").read_text())


def test_every_promised_python_is_locked(setup):
    assert setup["python_requires"] == f">={PYTHONS[0]}"
    assert f"Python {PYTHONS[0]} to {PYTHONS[-1]}" in (ROOT / "README.md").read_text()


def imported(package: str) -> Iterator[tuple[str, bool]]:
    """Top-level names that the package's files import, and whether where the module is loaded."""
    for file in (ROOT / package).rglob("*.py"):
        if package == "eval" and file.parent.name == "web":
            continue  # a room with an extra of its own
        tree = ast.parse(file.read_text())
        of_vllm = file.parent.name == "vllm"  # vLLM itself loads these, where it is
        at_load = {node for statement in tree.body for node in walk_outside_functions(statement)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield alias.name.partition(".")[0], node in at_load and not of_vllm
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module.partition(".")[0], node in at_load and not of_vllm


def walk_outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        for child in ast.iter_child_nodes(node):
            yield from walk_outside_functions(child)


@pytest.mark.parametrize(
    ("package", "extra", "above"),
    [
        ("vidcom2", None, ()),
        ("llava", "llava", ()),
        ("eval", "eval", ("eval", "llava")),
        ("eval/web", "web", ()),
    ],
)
def test_what_is_imported_is_listed(setup, package, extra, above):
    listed = setup["install_requires"] + (setup["extras_require"][extra] if extra else [])
    names = {canonicalize_name(Requirement(line).name) for line in listed}
    distributions = packages_distributions()
    used = {(name, early) for name, early in imported(package) if name not in sys.stdlib_module_names | OURS}
    if package == "vidcom2":  # transformers is there where its models are, and layers.py is loaded for these only
        used = {(name, early) for name, early in used if name != "transformers"}
    for name, early in sorted(used):
        if name in LATE:
            assert not early or (package, name) == ("llava", "decord"), f"{package} imports {name} at once"
            continue
        owners = {canonicalize_name(owner) for owner in distributions[name]}
        assert owners & names, f"{package} imports {name}, which setup.py does not list"


WITH_TORCH_ALONE = """
import sys

sys.path[:0] = sys.argv[1:]
import torch
from vidcom2 import METHODS, VidCom2, compressor

for name in METHODS.keys() - {"none"}:
    print(name, len(compressor(name, retention=0.25).select(torch.randn(4, 16, 8)).index))
try:
    VidCom2(0.25).attach(torch.nn.Linear(2, 2))
except TypeError as error:
    print("refused:", error)
print("others:", [name for name in ("numpy", "transformers", "llava") if name in sys.modules])
"""


@pytest.fixture(scope="module")
def torch_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages that holds what `pip install -e .` brings: ours, torch, and what torch asks for."""
    folder = tmp_path_factory.mktemp("packages")
    allowed, waiting = set(), ["torch"]
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name not in allowed:
            allowed.add(name)
            try:
                needs = [Requirement(line) for line in requires(name) or []]
            except PackageNotFoundError:
                continue
            waiting += [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    packages = Path(torch.__file__).parents[1]
    for module, owners in packages_distributions().items():
        for there in (packages / module, packages / f"{module}.py"):
            if there.exists() and allowed & {canonicalize_name(owner) for owner in owners}:
                (folder / there.name).symlink_to(there)
    for ours in OURS:
        (folder / ours).symlink_to(ROOT / ours)
    return folder


def python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run it with nothing but these packages."""
    command = [sys.executable, "-I", "-S", "-W", "ignore", "-c", code, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_vidcom2_needs_torch_alone(setup, torch_alone):
    assert setup["install_requires"] == ["torch>=2.6"]
    done = python(WITH_TORCH_ALONE, torch_alone)
    assert done.returncode == 0, done.stderr
    *methods, refused, others = done.stdout.splitlines()
    assert len(methods) > 9
    assert "refused: Linear is of no family" in refused
    assert others == "others: []"


@pytest.mark.parametrize("package", ["llava", "eval"])
def test_without_its_extra_a_package_names_it(torch_alone, package):
    code = f"import runpy, sys; sys.path[:0] = sys.argv[1:]; runpy.run_module({package!r})"
    done = python(code, torch_alone)
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"ModuleNotFoundError: {package} needs transformers, ")
    assert last.endswith(f": pip install -c requirements.txt -e .[{package}]")


def test_without_its_extra_the_installed_evaluation_names_it(torch_alone, tmp_path):
    (tmp_path / "vidcom2_eval").symlink_to(ROOT / "eval")
    code = f"import sys; sys.path[:0] = [sys.argv[1], {str(tmp_path)!r}]; import vidcom2_eval"
    last = python(code, torch_alone).stderr.splitlines()[-1]
    assert last.startswith("ModuleNotFoundError: vidcom2_eval needs transformers, ")
    assert last.endswith(": pip install 'vidcom2[eval]'")


@pytest.mark.parametrize("package", ["llava", "eval"])
def test_all_that_is_imported_at_once_is_looked_for(package):
    early = {name for name, at_load in imported(package) if at_load}
    foreign = early - sys.stdlib_module_names - {*OURS, "torch", "decord"}
    assert set(import_module(package).NEEDED) == foreign


def test_extras_in_the_docs_exist(setup):
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    named = {extra for page in pages for extra in re.findall(r"\.\[(\w+)\]", page.read_text())}
    assert named >= {"llava", "eval"}
    assert named <= set(setup["extras_require"])
