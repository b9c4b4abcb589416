"""After an installation without lmms-eval."""

from __future__ import annotations

from eval.cli import main


def test_a_missing_harness_is_told_before_the_model_is_loaded(onevision, mvbench, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("eval.run.config.find_spec", lambda name: None)
    flags = ["--tasks", "mvbench", "--model", str(onevision), "--data", str(mvbench), "--output", str(tmp_path / "out")]
    assert main(["run", "--device", "cpu", *flags]) == 1
    assert capsys.readouterr().err == (
        "error: answering a benchmark needs lmms-eval: pip install -c requirements.txt -e .[eval]\n"
    )
    assert not (tmp_path / "out").exists()
