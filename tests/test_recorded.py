"""The recordings that are committed are whole, and a clone without ../shared tests against each of their kinds."""

from __future__ import annotations

import hashlib
import json

import pytest

from tests.golden import COMMITTED, PLACES, listed, path

KINDS = {"model", "operators", "paper", "baselines", "mm_utils"}
MANIFEST = json.loads((COMMITTED / "manifest.json").read_text())


def test_every_file_is_as_it_was_recorded():
    recorded = {entry["file"]: entry["sha256"] for entry in MANIFEST["entries"]}
    for checkpoint in MANIFEST["checkpoints"].values():
        recorded |= {file: about["sha256"] for file, about in checkpoint["files"].items()}
    assert len(recorded) > 50
    for file, digest in recorded.items():
        assert hashlib.sha256((COMMITTED / file).read_bytes()).hexdigest() == digest, file


@pytest.mark.parametrize("there", [True, False])
def test_what_is_committed_comes_first_and_is_enough(monkeypatch, tmp_path, there):
    if not there:
        for place in PLACES:
            monkeypatch.setitem(PLACES, place, tmp_path)
    listed.cache_clear()
    try:
        for place, key in (("", "entries"), ("inllm", "files")):
            committed = json.loads((COMMITTED / place / "manifest.json").read_text())[key]
            found = listed(key, place)
            assert found[: len(committed)] == committed
            assert len(found) > len(committed) or not (there and PLACES[place].is_dir())
            assert all(path(entry["file"], place) == COMMITTED / place / entry["file"] for entry in committed)
    finally:
        listed.cache_clear()


def test_each_kind_is_there():
    assert {entry["kind"] for entry in MANIFEST["entries"]} == KINDS
    methods = {
        entry["file"].split("/")[1].split("_")[0] for entry in MANIFEST["entries"] if entry["kind"] == "baselines"
    }
    authors = {
        "aot",
        "dycoke",
        "evs",
        "fastvid",
        "flashvid",
        "holitom",
        "simplecluster",
        "unicomp",
        "vcast",
        "visionzip",
    }
    assert methods == authors
    inside = json.loads((COMMITTED / "inllm" / "manifest.json").read_text())["files"]
    assert {entry["method"] for entry in inside} == {"fastv_kvcache", "pdrop", "sparsevlm_v1"}
    size = sum(file.stat().st_size for file in COMMITTED.rglob("*") if file.is_file())
    assert size < 9e6
