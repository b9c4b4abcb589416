"""One run over every kind of odd and broken video: what can be read is answered, the rest is listed, nothing lost."""

from __future__ import annotations

import json

from eval.benchmarks.mvbench import MVBENCH_FOLDERS
from eval.cli import main
from eval.run.flags import FAILED_QUESTIONS
from tests.odd_videos import BROKEN, FINE

TASK = "action_count"


def test_every_video_is_answered_or_listed(onevision, tmp_path, capsys):
    folder = tmp_path / "data" / "video" / MVBENCH_FOLDERS[TASK]
    folder.mkdir(parents=True)
    makers = {**FINE, **{name: make for name, (make, _) in BROKEN.items()}}
    names = sorted(makers)  # odd and broken ones in turn
    for name in names:
        makers[name](folder / name)
    docs = [
        {"video": name, "question": "What is it?", "candidates": ["this", "that"], "answer": "this"} for name in names
    ]
    (tmp_path / "data" / "json").mkdir()
    (tmp_path / "data" / "json" / f"{TASK}.json").write_text(json.dumps(docs))

    output = tmp_path / "out"
    flags = ["run", "--device", "cpu", "--tasks", f"mvbench_{TASK}", "--model", onevision, "--sampling", "uniform:4"]
    assert main([*map(str, flags), "--data", str(tmp_path / "data"), "--output", str(output)]) == FAILED_QUESTIONS

    results = json.loads((output / "results.json").read_text())
    lines = [json.loads(line) for line in (output / "samples.jsonl").read_text().splitlines()]
    assert [line["doc_id"] for line in lines] == list(range(len(names))) == list(range(results["samples"]))
    listed = {failure["doc_id"]: failure for failure in results["failures"]}
    for name, line in zip(names, lines, strict=True):
        path = str(folder / name)
        assert line["video"] == path
        if name in FINE:
            assert line["doc_id"] not in listed, listed[line["doc_id"]]
            assert line["error"] is None
            assert isinstance(line["answer"], str)
            assert (line["frames"], line["tokens_before"]) == (4, 4 * 4 * 4 + 1)
        else:
            error = listed.pop(line["doc_id"])["error"]
            assert error.startswith(f"{path}: ")
            assert BROKEN[name][1] in error
            assert "\n" not in error
            assert (line["answer"], line["score"]) == (None, 0.0)
    assert not listed
    scores = results["scores"]["categories"][TASK]
    assert (scores["samples"], scores["failed"]) == (len(names), len(BROKEN))
    printed = capsys.readouterr().out
    assert all(f"{folder / name}" in printed.replace("\n", "") for name in BROKEN)
