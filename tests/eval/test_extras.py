"""After an installation without the extra "eval"."""

from __future__ import annotations

import subprocess
import sys

from eval.cli import main
from eval.extras import missing_package

WITHOUT = """
import runpy, sys
sys.modules["{missing}"] = None
sys.argv = ["eval", "run", "--tasks", "mvbench"]
runpy.run_module("eval", run_name="__main__", alter_sys=True)
"""


def test_the_extra_is_named():
    done = subprocess.run([sys.executable, "-c", WITHOUT.format(missing="rich")], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        'error: rich is not installed, which the extra "eval" brings: in a checkout, '
        "pip install -c requirements.txt -e '.[eval]'\n"
    )


def test_the_extra_is_named_where_a_package_is_imported_late(onevision, mvbench, monkeypatch, tmp_path, capsys):
    """Before the model is loaded, which takes minutes."""
    monkeypatch.setattr("eval.extras.find_spec", lambda name: None)
    flags = ["--tasks", "mvbench", "--model", str(onevision), "--data", str(mvbench), "--output", str(tmp_path / "out")]
    assert main(["run", "--device", "cpu", *flags]) == 1
    assert capsys.readouterr().err.startswith("error: lmms_eval is not installed, ")
    assert not (tmp_path / "out").exists()


def test_errors_of_our_own_stay_what_they_are():
    assert missing_package(ModuleNotFoundError("No module named 'eval.nothing'", name="eval.nothing")) is None
    assert missing_package(ImportError("reading videos with decord needs decord: pip install decord")) is None
