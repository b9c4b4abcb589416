"""Records as JSON and back, also from files of earlier versions."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from eval.results.load import load_run
from eval.results.records import record
from eval.results.sample import Reading, Sample
from eval.results.schema import RunSettings, ScoredSample, Summary
from eval.results.stats import paired_interval
from tests.eval.reports.test_compare import COMPRESSED, line, lines, write

READING = Reading("pyav", "because", 2, "proved")


def test_a_sample_comes_back_as_it_was():
    scored = line("mvbench_action_count", 3, 1.0, reading=READING, frames=4, tokens_after=25)
    content = json.loads(json.dumps(asdict(scored)))
    assert record(ScoredSample, content) == scored
    assert content["reading"] == {"reader": "pyav", "why": "because", "decord_differs": 2, "decord": "proved"}
    raw = Sample("t", 1, "v.mp4", None, "A", None, 4, 1.0, 100, 25, {"decode": 1.0}, reading=READING, asked="abc")
    assert record(Sample, json.loads(json.dumps(asdict(raw)))) == raw


def test_a_summary_comes_back_as_it_was_with_its_settings_in_order(tmp_path):
    settings = {"versions": {"torch": "2.6", "av": None}, "protocol": "p", "data": None, "limit": 2}
    run = write(tmp_path / "run", lines(COMPRESSED), **settings)
    text = (run / "results.json").read_text()
    summary = Summary.from_json(json.loads(text))
    assert json.dumps(summary.to_json(), indent=2, ensure_ascii=False) + "\n" == text
    told = json.loads(text)["run"]
    assert list(told)[-3:] == ["processes", "generation", "limit"]
    assert (told["versions"], told["limit"], told["data"]) == ({"torch": "2.6", "av": None}, 2, None)
    assert RunSettings.from_json(told) == summary.run
    assert (summary.run.model, summary.run.sampling, summary.run.limit) == ("m", "uniform:8", 2)


def test_files_of_earlier_versions_are_read(tmp_path):
    """Those that do not say what newer ones do; what they have not got, nobody asked for then."""
    run = write(tmp_path / "run", lines(COMPRESSED))
    whole = load_run(run)
    results = json.loads((run / "results.json").read_text())
    for newer in ("parsers", "videos", "harness_scores", "provenance"):
        del results[newer]
    del results["run"]["generation"]
    results["unknown"] = {"to": "this version"}
    (run / "results.json").write_text(json.dumps(results))
    older = [json.loads(text) for text in (run / "samples.jsonl").read_text().split("\n") if text]
    for sample in older:
        for newer in ("scores", "positions", "reading"):
            del sample[newer]
        sample["unknown"] = 1
    (run / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in older))
    found = load_run(run)
    assert found.scores == whole.scores
    assert found.summary.scores == whole.summary.scores
    assert found.summary.provenance.git_commit is None
    assert found.samples[0].reading is None
    assert found.read_by("legacy").scores == whole.scores
    assert paired_interval(found.scores, whole.scores, found.categories, found.overall) == (0, 0, 0)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (("scores",), "Summary lacks scores"),
        (("scores", "categories", "state_change", "failed"), "CategoryScore lacks failed"),
        (("run", "compressor"), '"run" lacks compressor'),
        (("run",), "Summary lacks run"),
    ],
    ids=str,
)
def test_what_is_missing_is_named(path, message, tmp_path):
    run = write(tmp_path / "run", lines(COMPRESSED))
    results = json.loads((run / "results.json").read_text())
    place = results
    for part in path[:-1]:
        place = place[part]
    del place[path[-1]]
    (run / "results.json").write_text(json.dumps(results))
    with pytest.raises(ValueError, match=rf"results\.json is damaged \({message}\): run again with --overwrite"):
        load_run(run)


def test_what_is_no_object_is_no_record():
    with pytest.raises(ValueError, match='"run" is \\[\\], no object'):
        Summary.from_json({"run": []})
    with pytest.raises(ValueError, match=r"\[\] is no dict"):
        record(ScoredSample, asdict(line("mvbench_action_count", 0, 1.0)) | {"seconds": []})
    with pytest.raises(ValueError, match=r"\[\] is no ScoredSample"):
        record(ScoredSample, [])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'x' is no Reading"):
        record(ScoredSample, asdict(line("mvbench_action_count", 0, 1.0)) | {"reading": "x"})
