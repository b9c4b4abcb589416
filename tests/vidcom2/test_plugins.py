"""Methods of other packages: a made-up distribution on sys.path, found by its entry points."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import torch

from vidcom2 import METHODS, PluginError, all_methods, compressor, method_names
from vidcom2.table import table

METHOD = """
from dataclasses import dataclass

from vidcom2 import Ranking, register


@register({name!r})
@dataclass(frozen=True)
class Longest(Ranking):
    power: float = 2.0

    def scores(self, x):
        return x.norm(dim=-1) ** self.power
"""


@pytest.fixture(autouse=True)
def forgotten(monkeypatch) -> Iterator[None]:
    """What a test registers and imports is forgotten after it."""
    specs = import_module("vidcom2.specs")
    monkeypatch.setattr(specs, "METHODS", dict(METHODS))
    monkeypatch.setattr(specs, "ALIASES", dict(specs.ALIASES))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a distribution with one module and entry points on sys.path."""
    monkeypatch.syspath_prepend(tmp_path)

    def put(package: str, source: str, *names: str) -> Path:
        (tmp_path / f"{package}.py").write_text(source, encoding="utf-8")
        info = tmp_path / f"{package}-1.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.5\n", encoding="utf-8")
        points = "".join(f"{name} = {package}\n" for name in names)
        (info / "entry_points.txt").write_text(f"[vidcom2.methods]\n{points}", encoding="utf-8")
        return tmp_path

    return put


def test_a_spec_loads_the_method(install):
    install("longest_tokens", METHOD.format(name="longest"), "longest")
    assert "longest" in method_names()
    assert "longest_tokens" not in sys.modules
    made = compressor("longest+fca@0.5:power=3")
    assert made.spec == "longest+fca@0.5:power=3"
    assert len(made.select(torch.randn(4, 6, 8)).index) == 12
    assert compressor("longest").spec == "longest@0.25"  # a second time, from METHODS


def test_an_object_brings_its_method_to_another_process(install, tmp_path):
    path = install("longest_tokens", METHOD.format(name="longest"), "longest")
    made = compressor("longest@0.5:power=3")
    (tmp_path / "made.pickle").write_bytes(pickle.dumps(made))
    code = (
        "import pickle, sys; sys.path.insert(0, sys.argv[1])\n"
        "made = pickle.load(open(sys.argv[1] + '/made.pickle', 'rb'))\n"
        "from vidcom2 import METHODS, compressor\n"
        "assert METHODS['longest'] is type(made) and compressor(made.spec) == made\n"
        "print(made)"
    )
    root = str(Path(__file__).resolve().parents[2])
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.stdout.strip() == repr(made), done.stderr


def test_a_broken_package_breaks_its_own_method_only(install):
    install("broken_tokens", "import no_such_module", "broken")
    assert compressor("vidcom2@0.5").spec == "vidcom2@0.5"
    assert "broken" in method_names()
    for _ in range(2):
        with pytest.raises(
            PluginError,
            match=r"'broken' cannot be loaded from package broken_tokens 1\.5 \(entry point broken = broken_tokens .*"
            "No module named 'no_such_module'.*uninstall",
        ):
            compressor("broken@0.5")
    with pytest.warns(RuntimeWarning, match=r"package broken_tokens 1\.5"):
        assert "broken" not in all_methods()


def test_what_fails_after_registering_leaves_nothing(install):
    install("late_tokens", METHOD.format(name="late") + "\nraise OSError('no disk')\n", "late")
    for _ in range(2):
        with pytest.raises(PluginError, match="no disk"):
            compressor("late")
    assert "late" not in import_module("vidcom2.specs").METHODS


def test_a_package_that_registers_something_else(install):
    install("other_tokens", METHOD.format(name="other"), "longest")
    with pytest.raises(PluginError, match=r"other_tokens 1\.5 .* does not register a method 'longest'"):
        compressor("longest")


def test_a_name_that_exists_is_refused(install):
    builtin = METHODS["vidcom2"]
    install("thief_tokens", METHOD.format(name="vidcom2"), "vidcom2", "thief")
    assert type(compressor("vidcom2")) is builtin
    with pytest.warns(RuntimeWarning) as told:
        assert all_methods()["vidcom2"] is builtin
    assert any("(entry point vidcom2 = thief_tokens" in str(one.message) for one in told)
    with pytest.raises(PluginError, match=r"thief_tokens 1\.5 .*compressor 'vidcom2' is registered twice"):
        compressor("thief")


def test_two_packages_with_one_name(install):
    install("longest_tokens", METHOD.format(name="longest"), "longest")
    install("lengthy_tokens", METHOD.format(name="longest"), "longest")
    with pytest.raises(PluginError, match=r"declared twice, by package lengthy_tokens 1\.5 .* and .*longest_tokens"):
        compressor("longest")


def test_unknown_names_list_those_of_packages(install):
    install("longest_tokens", METHOD.format(name="longest"), "longest")
    with pytest.raises(ValueError, match=r"'lngest' is unknown; known are .*longest.*vidcom2"):
        compressor("lngest")


def test_the_table_shows_them_when_asked(install):
    install("longest_tokens", METHOD.format(name="longest"), "longest")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "| longest |" in table(all_methods())
    assert "| longest |" not in table(METHODS)
