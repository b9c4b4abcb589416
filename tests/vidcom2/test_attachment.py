"""The life of a compressor on a model: what `with` and `attach` promise, also where they are misused."""

from __future__ import annotations

import copy
import gc
import io
import threading
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import torch

from tests.llava.test_batches import batch as llava_batch
from tests.llava.tiny import prompt as llava_prompt
from tests.llava.tiny import tiny_model
from tests.vidcom2.hf_tiny import batch, tiny
from tests.vidcom2.test_matrix import llava_samples
from tests.vidcom2.test_transformers import rows_of, traces
from vidcom2 import VidCom2, compressor

DECODE: dict[str, Any] = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
SPECS = ("vidcom2@0.3", "fastv@0.5:k=1")
over_specs = pytest.mark.parametrize("spec", SPECS)
over_trees = pytest.mark.parametrize("tree", ["llava", "qwen2_vl"])


class Subject:
    """A model of one tree, with calls that differ."""

    def __init__(self, tree: str, path: Any):
        self.tree = tree
        self.model = tiny_model(path, seed=5, num_hidden_layers=3) if tree == "llava" else tiny(tree)

    def inputs(self, case: str) -> dict[str, Any]:
        if self.tree != "llava":
            return batch(rows_of(self.tree, case))
        ids, arguments = llava_batch(llava_samples(case))
        return {"inputs": ids, **arguments}

    def answer(self, case: str = "one") -> list[list[int]]:
        return self.model.generate(**self.inputs(case), **DECODE).tolist()

    def fail(self) -> None:
        """A call that fails before the model sees it."""
        broken = self.inputs("one")
        pixels = "images" if self.tree == "llava" else "pixel_values_videos"
        broken[pixels] = [broken[pixels][0][:, :, :5]] if self.tree == "llava" else broken[pixels][:, :5]
        with pytest.raises((RuntimeError, ValueError)):
            self.model.generate(**broken, **DECODE)


@pytest.fixture
def subject(tree, tmp_path):
    return Subject(tree, tmp_path)


# ---- records


@over_trees
@over_specs
def test_records_are_those_of_this_compressor(subject, spec):
    with VidCom2(0.6)(subject.model):
        subject.answer()
    with compressor(spec)(subject.model) as run:
        assert run.records == []
        subject.fail()
        assert run.records == []
        subject.answer()
        (record,) = run.records
        assert record.method == compressor(spec).spec
        subject.fail()
        assert run.records == []
        subject.answer()
    with VidCom2(0.6)(subject.model):
        subject.answer()
    subject.answer()
    assert run.records == [record]


@over_trees
@over_specs
def test_threads_keep_their_calls_apart(subject, spec):
    seen = []
    with compressor(spec)(subject.model) as run:
        expected, records = {}, {}
        for case in ("one", "padded"):
            expected[case], records[case] = subject.answer(case), run.records

        def answer(case: str) -> list[list[int]]:
            out = subject.answer(case)
            seen.append(run.records)
            return out

        cases = ["one", "padded"] * 4
        with ThreadPoolExecutor(3) as pool:
            assert list(pool.map(answer, cases)) == [expected[case] for case in cases]
    # A call has no records from its start until its video was found, and whole ones at its end.
    places = [[(record.sample, record.frames_before) for record in each] for each in records.values()]
    assert all([(record.sample, record.frames_before) for record in each] in ([], *places) for each in seen)
    assert run.records in records.values()


# ---- copies


@over_trees
@over_specs
def test_a_compressed_model_is_not_copied(subject, spec):
    dense = subject.answer()
    language_model = subject.model.model if subject.tree == "llava" else subject.model.model.language_model
    with compressor(spec)(subject.model):
        short = subject.answer()
        for copied in [subject.model] if subject.tree == "llava" else [subject.model, language_model]:
            with pytest.raises(TypeError, match="cannot be copied or pickled"):
                copy.deepcopy(copied)
        with pytest.raises(TypeError, match="cannot be copied or pickled"):
            torch.save(subject.model, io.BytesIO())
        assert subject.answer() == short != dense
    subject.model = copy.deepcopy(subject.model)
    assert subject.answer() == dense


# ---- blocks


def misuse(model: Any) -> None:
    with pytest.raises(AttributeError, match=r"no model and has no 'generate': write `with VidCom2\(...\)\(model\)"):
        VidCom2(0.25)(model).generate()
    gc.collect()  # the error holds the block


def test_a_block_that_is_never_entered(tmp_path):
    with pytest.warns(RuntimeWarning, match=r"VidCom2\(...\)\(LlavaQwenForCausalLM\) was never entered"):
        misuse(tiny_model(tmp_path))


@over_trees
@over_specs
def test_a_block_without_a_call(subject, spec):
    with (
        pytest.warns(RuntimeWarning, match=f"the model was not called while {spec} was on it"),
        compressor(spec)(subject.model),
    ):
        later = (subject.answer() for _ in range(1))
    next(later)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        with compressor(spec)(subject.model):
            if subject.tree == "llava":
                subject.model(llava_prompt(3)[None])  # plain forwards count, without a video too
            else:
                subject.model(input_ids=torch.tensor([[1, 2, 3]]))
        with pytest.raises(ZeroDivisionError), compressor(spec)(subject.model):
            raise ZeroDivisionError


class Gate:
    """Holds a call in its vision tower until it is opened."""

    def __init__(self, subject: Subject):
        self.subject, self.begun, self.go_on = subject, threading.Event(), threading.Event()
        model = subject.model
        tower = model.get_vision_tower() if subject.tree == "llava" else model.model.visual
        self.handle = tower.register_forward_pre_hook(self.wait)

    def wait(self, *args: Any) -> None:
        self.begun.set()
        assert self.go_on.wait(60)

    def begin(self, pool: ThreadPoolExecutor) -> Future[Any]:
        answer = pool.submit(self.subject.answer)
        assert self.begun.wait(60)
        return answer

    def open(self) -> None:
        self.handle.remove()
        self.go_on.set()


@over_trees
@over_specs
def test_a_call_that_outlives_the_block(subject, spec):
    """As a streamed answer does that is begun inside and read outside: whoever waits for it learns of it."""
    before, dense = traces(subject.model), subject.answer()
    gate = Gate(subject)
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(RuntimeError, match="ran in another thread"), compressor(spec)(subject.model) as run:
            answer = gate.begin(pool)
        gate.open()
        with pytest.raises(RuntimeError, match="taken off the model while this generate"):
            answer.result()
    assert run.records == []
    assert subject.answer() == dense
    assert traces(subject.model) == before
    with compressor(spec)(subject.model), ThreadPoolExecutor(1) as pool:
        assert pool.submit(subject.answer).result() == subject.answer() != dense


def test_a_thread_that_has_not_called_yet(tmp_path):
    subject, late = Subject("qwen2_vl", tmp_path), threading.Event()
    thread = threading.Thread(target=lambda: late.wait(60) and subject.answer(), name="streamer")
    told = r"the model was not called .*, as for thread streamer"
    with pytest.raises(RuntimeError, match=told), VidCom2(0.3)(subject.model):
        thread.start()
    late.set()
    thread.join()


def test_another_error_is_not_hidden_by_a_running_call(tmp_path):
    subject = Subject("qwen2_vl", tmp_path)
    gate = Gate(subject)

    def interrupted() -> None:
        with VidCom2(0.3)(subject.model):
            gate.begin(pool)
            raise KeyboardInterrupt

    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(KeyboardInterrupt):
            interrupted()
        gate.open()
