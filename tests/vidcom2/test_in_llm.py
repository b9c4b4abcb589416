"""Methods that drop tokens between the LLM's layers: recorded runs of their authors' code, and a slow reference."""

from __future__ import annotations

import ast
import copy
import functools
import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor

from tests.golden import listed, load, path
from tests.llava import tiny as llava_tiny
from tests.llava.slow import Sample, inputs_of
from tests.vidcom2.hf_slow import lm_of, shorten
from tests.vidcom2.hf_tiny import STACKED, Row, batch, image, prompt, text, tiny, video
from tests.vidcom2.kinds import NEW
from tests.vidcom2.layers_slow import Dense, Outcome, pick, run
from tests.vidcom2.test_transformers import assert_close, traces
from vidcom2 import METHODS, Attachment, FrameAdjustment, VidCom2, compressor
from vidcom2.inside import InsideLLM, choose_per_frame
from vidcom2.methods.fastv import FastV
from vidcom2.methods.pdrop import PDrop
from vidcom2.methods.sparsevlm import SparseVLM
from vidcom2.models.layers import LayerHooks
from vidcom2.models.names import cache_of
from vidcom2.models.prompts import Place, Prompt
from vidcom2.models.visual import Visual

LAYERS, STEPS = 6, 4
GOLDEN_METHODS = ("fastv_kvcache", "pdrop", "sparsevlm_v1", "sparsevlm_v2")

# ---- the authors' code, as recorded


def golden_cases() -> list[Any]:
    return [
        pytest.param(case, attention, id=f"{case['method']}-{case['case']}-{attention}")
        for case in listed("files", "inllm")
        for attention in (("rows",) if case["method"] == "pdrop" else ("rows", "eager"))
        if case["method"] in GOLDEN_METHODS
    ]


@functools.cache
def golden_model(name: str, attention: str) -> Any:
    config = json.loads(path(f"model_{name}.config.json", "inllm").read_text())
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": config.pop("rope_theta")}
    model = hf.LlamaForCausalLM._from_config(hf.LlamaConfig(**config), attn_implementation=attention)
    model.load_state_dict(load(f"model_{name}.safetensors", "inllm"))
    return model.eval()


def golden_method(case: dict[str, Any], layers: int, attention: str) -> InsideLLM:
    """The `released` preset, with the case's settings in place of the authors' defaults."""
    settings: dict[str, Any] = {} if case["method"] == "pdrop" else {"attention": attention}
    if case["method"] == "fastv_kvcache":
        make, settings = FastV.released, settings | {"k": case["K"], "keep": 1 - case["fastv_r"]}
    elif case["method"] == "pdrop":
        make, settings = PDrop.released, {"layers": tuple(case["layer_list"]), "ratios": tuple(case["ratios"])}
    else:
        shares = tuple(budget / case["V"] for budget in case["budgets"])
        make, settings = SparseVLM.released, settings | {"layers": tuple(case["pruning_layers"]), "shares": shares}
        settings["version"] = int(case["method"][-1])
        settings["heads"] = case["heads_selected"] or 14
    loose = make(0.5, **settings)
    amounts = sum(loose.processed(loose.schedule(layers, 576), layers, 576)) / layers / 576
    return make(amounts, **settings)


@contextmanager
def bare(method: InsideLLM, lm: Any, prompts: list[Prompt]) -> Iterator[list[Visual]]:
    """A method on a language model alone; takes the next of `prompts` for each forward of more than one row."""
    seen: list[Visual] = []
    pending = iter(prompts)

    def find(kwargs: dict[str, Any]) -> Prompt | None:
        return next(pending) if kwargs["inputs_embeds"] is not None and kwargs["inputs_embeds"].shape[1] > 1 else None

    hooks = LayerHooks(method, lm, find, seen.extend)
    try:
        yield seen
    finally:
        hooks.remove()


@contextmanager
def observed(lm: Any) -> Iterator[list[list[tuple[Tensor, int]]]]:
    """For each forward, what each layer gets: hidden states, and the length of its cache after it."""
    calls: list[list[tuple[Tensor, int]]] = []

    def note(layer: Any, args: Any, kwargs: Any) -> None:
        if layer is lm.layers[0]:
            calls.append([])
        calls[-1].append((args[0].clone(), cache_of(kwargs).get_seq_length(layer.self_attn.layer_idx)))

    handles = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in lm.layers]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize(("case", "attention"), golden_cases())
def test_released_equals_the_authors_code(case, attention):
    gold = load(case["file"], "inllm")
    model = golden_model(case["model"], "sdpa" if attention == "rows" else "eager")
    s, v, n = case["S"], case["V"], gold["inputs_embeds"].shape[1]
    real = torch.ones(1, n, dtype=torch.bool)
    text = real.clone()
    text[:, s : s + v] = False
    prompt = Prompt([Place(0, torch.arange(s, s + v), 1)], real, text, n)
    method = golden_method(case, model.config.num_hidden_layers, attention)
    with bare(method, model.model, [prompt]) as seen, observed(model.model) as calls:
        out = model.generate(
            inputs_embeds=gold["inputs_embeds"],
            attention_mask=torch.ones(1, n, dtype=torch.long),
            max_new_tokens=8,
            do_sample=False,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
    assert out.sequences[0].tolist() == gold["generated_ids"].tolist()
    torch.testing.assert_close(torch.cat(out.logits), gold["step_logits"], atol=1e-4, rtol=0)

    (visual,) = seen
    assert [len(hidden[0]) for hidden, _ in calls[0]] == gold["layer_seq_len_prefill"].tolist()
    lengths = [[past + hidden.shape[1] for hidden, past in call] for call in calls]
    for name, rows in (("kv_lengths", lengths), ("kv_lengths_end", lengths[-1])):
        if name in gold:
            assert rows == gold[name].tolist()
    if "kept_visual" in gold:
        assert visual.history[0].tolist() == gold["kept_visual"].tolist()
        torch.testing.assert_close(visual.ranked[0], gold["scores"], atol=1e-6, rtol=0)
    for i, (ids, scores) in enumerate(zip(visual.history, visual.ranked, strict=True)):
        if f"stage{i}_scores" not in gold:
            continue
        kept = gold[f"stage{i}_kept_visual" if case["method"] == "pdrop" else f"stage{i}_kept_ids"]
        merged = gold.get(f"stage{i}_merged_ids", kept[:0])
        assert ids.tolist() == [*kept.tolist(), *merged.tolist()]
        atol = 3e-4 if case["method"] == "sparsevlm_v2" else 1e-6
        torch.testing.assert_close(scores, gold[f"stage{i}_scores"], atol=atol, rtol=0)
        first = visual.stages[i].cut
        torch.testing.assert_close(calls[0][first][0][0], gold[f"stage{i}_hidden"], atol=1e-4, rtol=0)


# ---- a slow reference


@dataclass
class Call:
    """Inputs of a model's generate(), and the rows that its LLM should get for each prompt of the batch."""

    inputs: dict[str, Any]
    prompts: list[Dense]


class Llava:
    """The llava tree."""

    def __init__(self, newlines: str = "one_token"):
        path = Path(tempfile.mkdtemp())
        settings = {"num_hidden_layers": LAYERS, "mm_newline_position": newlines}
        self.model = llava_tiny.tiny_model(path, "qwen", seed=5, **settings)
        self.eager = llava_tiny.tiny_model(path, "qwen", seed=5, **settings)
        self.eager.set_attn_implementation("eager")
        self.lm, self.newlines = self.eager.model, newlines

    def call(self, case: str) -> Call:
        """Lengths of text, and between them frames of videos (0 for an image)."""
        parts = {
            "one": [[5, 4, 6]],
            "padded": [[2, 3, 3], [7, 5, 9]],
            "text_only": [[4, 3, 5], [11]],
            "two": [[3, 2, 4, 4, 5], [2, 5, 3]],
            "image": [[2, 0, 3, 3, 4], [6, 4, 3, 0, 7], [3, 0, 5]],
        }
        samples = []
        for i, lengths in enumerate(parts[case]):
            ids = llava_tiny.prompt(*(n if j % 2 == 0 else "slot" for j, n in enumerate(lengths)), seed=i)
            visuals = [("video" if n else "image", llava_tiny.video(n or 1, seed=10 * i + n)) for n in lengths[1::2]]
            samples.append(Sample(ids, visuals))
        longest = max(len(sample.ids) for sample in samples)
        ids, mask = torch.zeros(len(samples), longest, dtype=torch.long), torch.zeros(len(samples), longest).long()
        for line, masked, sample in zip(ids, mask, samples, strict=True):
            line[longest - len(sample.ids) :], masked[longest - len(sample.ids) :] = sample.ids, 1
        modalities, pixels = zip(*(pair for sample in samples for pair in sample.visuals), strict=True)
        inputs = {"inputs": ids, "attention_mask": mask, "images": list(pixels), "modalities": list(modalities)}
        return Call(inputs, [self.dense(sample) for sample in samples])

    def dense(self, sample: Sample) -> Dense:
        rows, positions = inputs_of(self.eager, sample)
        words = [True] * rows.shape[1]
        videos = []
        for counts in sample.counts:
            at, columns = counts.start, []
            for m in counts.frames_before:
                for patch in range(m):
                    columns.append(at)
                    at += 1 + (self.newlines == "grid" and patch % 4 == 3)
            length = sum(counts.frames_before) + counts.separators_before
            words[counts.start : counts.start + length] = [False] * length
            if counts.modality == "video":
                videos.append((columns, len(counts.frames_before), counts.separators_before))
        return Dense(rows[0], positions[0], words, videos)


class Native:
    """A class of transformers."""

    def __init__(self, kind: str):
        self.kind = kind
        self.model, self.eager = tiny(kind, layers=LAYERS), tiny(kind, "eager", layers=LAYERS)
        self.lm = lm_of(self.eager)

    def rows(self, case: str) -> list[Row]:
        a, b, c = (video(3, 2, 3), video(5, 3, 2), video(4, 3, 3))
        if self.kind in STACKED or (self.kind in NEW and NEW[self.kind].stacked):
            a = b = c = video(3)
        parts = {
            "one": [[text(5), c, text(6)]],
            "padded": [[text(2), a, text(3)], [text(7), c, text(9)]],
            "text_only": [[text(4), b, text(5)], [text(11)]],
            "two": [[text(3), a, text(4), b, text(5)], [text(2), c, text(3)]],
            "image": [[text(2), image(), text(3), a, text(4)], [text(6), b, text(3), image(), text(7)]],
        }
        parts["image"].append([text(3), image(), text(5)])
        return [prompt(self.kind, *each, seed=i) for i, each in enumerate(parts[case])]

    def call(self, case: str) -> Call:
        rows = self.rows(case)
        return Call(batch(rows), [self.dense(row) for row in rows])

    def dense(self, row: Row) -> Dense:
        whole = shorten(self.eager, row, VidCom2(1))
        spot = {i for visual in row.visuals for i in visual.at}
        words = [i not in spot for i in range(len(row.ids))]
        videos = [(list(v.patches), v.frames, len(v.at) - len(v.patches)) for v in row.videos]
        return Dense(whole.rows, whole.positions, words, videos, whole.visual, whole.levels)


FAMILIES = {
    "llava": Llava,
    "llava-grid": functools.partial(Llava, "grid"),
    **{kind: functools.partial(Native, kind) for kind in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava_onevision")},
    "qwen3_5": functools.partial(Native, "qwen3_5"),
}
SPECS = (
    *("fastv@0.5", "pdrop@0.4", "sparsevlm@0.5", "sparsevlm@0.4:version=2:heads=3"),
    "flashvid-inside@0.3:segments=2",
)
CASES = ("one", "padded", "text_only", "two", "image")
over_families = pytest.mark.parametrize("family", FAMILIES)
over_methods = pytest.mark.parametrize("spec", SPECS)


@functools.cache
def family_of(name: str) -> Any:
    return FAMILIES[name]()


@functools.cache
def call_of(family: str, case: str) -> Call:
    return family_of(family).call(case)


def method_of(spec: str, **settings: Any) -> InsideLLM:
    method = compressor(spec, **settings)
    assert isinstance(method, InsideLLM)
    return method


def generate(model: Any, inputs: dict[str, Any], **settings: Any) -> Any:
    settings = {"max_new_tokens": STEPS, "do_sample": False, "output_logits": True, **settings}
    return model.generate(**inputs, **settings, return_dict_in_generate=True)


def answers(out: Any) -> list[list[int]]:
    return out.sequences[:, -STEPS:].tolist()


@torch.no_grad()
def greedy(family: Any, dense: Dense, method: InsideLLM, steps: int = STEPS) -> tuple[list[int], Tensor, Outcome]:
    tokens: list[int] = []
    logits = []
    for _ in range(steps):
        outcome = run(family.lm, dense, method, family.eager.get_input_embeddings().weight[tokens])
        logits.append(family.eager.lm_head(outcome.hidden[-1]))
        tokens.append(int(logits[-1].argmax()))
    return tokens, torch.stack(logits), outcome


@functools.cache
def references(family: str, case: str, method: InsideLLM) -> list[tuple[list[int], Tensor, Outcome]]:
    return [greedy(family_of(family), dense, method) for dense in call_of(family, case).prompts]


def assert_follows(out: Any, expected: Sequence[tuple[list[int], Tensor, Outcome]]) -> None:
    assert answers(out) == [tokens for tokens, _, _ in expected]
    assert_close(torch.stack(out.logits, dim=1), torch.stack([logits for _, logits, _ in expected]))


def assert_records(attachment: Attachment, call: Call, method: InsideLLM, expected: Sequence[Any]) -> None:
    records = [record for record in attachment.records if record.modality == "video"]
    videos = [
        (i, video, outcome.counts[v], outcome.frames[v])
        for i, (dense, (_, _, outcome)) in enumerate(zip(call.prompts, expected, strict=True))
        for v, video in enumerate(dense.videos)
    ]
    longest = max(len(dense.rows) for dense in call.prompts)
    assert len(records) == len(videos)
    for record, (i, (columns, frames, separators), counts, left) in zip(records, videos, strict=True):
        assert (record.sample, record.method, record.positions) == (i, method.spec, method.numbers)
        assert record.start == longest - len(call.prompts[i].rows) + columns[0]
        assert list(record.layers) == [count + separators for count in counts]
        assert list(record.frames_after) == left
        assert record.tokens_before == len(columns) + separators
        assert record.tokens_after == pytest.approx(separators + sum(counts) / LAYERS)
        assert abs(sum(counts) / LAYERS - method.retention * len(columns)) <= frames


WITH_FCA = ("padded",)
"""Cases that run with frame adjustment by default. The others add only what they test without it."""
over_cases = pytest.mark.parametrize(
    ("case", "fca"),
    [pytest.param(case, None, id=case) for case in CASES]
    + [
        pytest.param(case, FrameAdjustment(), id=f"{case}-fca", marks=[] if case in WITH_FCA else [pytest.mark.slow])
        for case in CASES
    ],
)


@over_families
@over_methods
@over_cases
def test_answers_equal_the_reference(family, spec, case, fca):
    method, model, call = method_of(spec, fca=fca), family_of(family).model, call_of(family, case)
    with method(model) as attachment:
        out = generate(model, call.inputs)
        expected = references(family, case, method)
        assert_records(attachment, call, method, expected)
    assert_follows(out, expected)


@pytest.mark.parametrize("family", ["llava_next_video", "internvl"])
@over_methods
def test_the_other_classes(family, spec):
    method, native = method_of(spec), Native(family)
    call = native.call("padded")
    with method(native.model):
        out = generate(native.model, call.inputs)
    assert_follows(out, [greedy(native, dense, method) for dense in call.prompts])


@over_families
@pytest.mark.parametrize("spec", ["fastv@0.5", "sparsevlm@0.5", "sparsevlm@0.4:version=2"])
def test_eager_attention_ranks_alike(family, spec):
    rows, eager = method_of(spec), method_of(spec, attention="eager")
    model, call = family_of(family).eager, call_of(family, "padded")
    outs = []
    for method in (rows, eager):
        with method(model) as attachment:
            outs.append((generate(model, call.inputs), [record.layers for record in attachment.records]))
    assert outs[0][1] == outs[1][1]
    assert answers(outs[0][0]) == answers(outs[1][0])
    assert_close(torch.stack(outs[0][0].logits), torch.stack(outs[1][0].logits))


@over_families
@pytest.mark.parametrize("name", ["fastv", "pdrop", "sparsevlm"])
def test_everything_kept_is_the_model_as_it_was(family, name):
    model, call = family_of(family).model, call_of(family, "two")
    bare = generate(model, call.inputs)
    with METHODS[name](1)(model) as attachment:
        out = generate(model, call.inputs)
        assert all(record.retention == 1 and len(record.layers) == LAYERS for record in attachment.records)
    assert torch.equal(torch.stack(out.logits), torch.stack(bare.logits))


NATIVE = ("qwen2_vl", "qwen3_vl", "qwen3_5", "llava_onevision")
over_native = pytest.mark.parametrize("family", NATIVE)
over_croppable = pytest.mark.parametrize("family", [family for family in NATIVE if family != "qwen3_5"])
"""Families with caches that can lose rows again; see test_hybrid.py for the others."""


@over_native
@over_methods
@pytest.mark.parametrize("positions", ["repack", "original"])
def test_without_a_cache(family, spec, positions):
    """The choice is the prompt's; the answer so far does not change it. And a bare forward ends in the same logits."""
    method, model, call = method_of(spec, positions=positions), family_of(family).model, call_of(family, "padded")
    expected = references(family, "padded", method)
    with method(model), torch.no_grad():
        assert_follows(generate(model, call.inputs), expected)
        assert_follows(generate(model, call.inputs, use_cache=False), expected)
        forward = model(**call.inputs).logits[:, -1]
    assert_close(forward, torch.stack([logits[0] for _, logits, _ in expected]))


@over_methods
@pytest.mark.parametrize("positions", ["repack", "original"])
def test_positions_of_the_llava_tree(spec, positions):
    method, model, call = method_of(spec, positions=positions), family_of("llava").model, call_of("llava", "two")
    with method(model):
        assert_follows(generate(model, call.inputs), references("llava", "two", method))


@over_methods
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("use_cache", [True, False])
def test_forward_of_the_llava_tree(spec, side, use_cache):
    """Padded on either side, as the tokenizer's setting says."""
    method, model, call = method_of(spec), family_of("llava").model, call_of("llava", "padded")
    ids = {"input_ids": call.inputs["inputs"]}
    expected = references("llava", "padded", method)
    longest = max(len(outcome.hidden) for _, _, outcome in expected) - STEPS + 1
    model.config.tokenizer_padding_side = side
    try:
        with method(model), torch.no_grad():
            rest = {key: value for key, value in call.inputs.items() if key != "inputs"}
            logits = model(**ids, **rest, use_cache=use_cache).logits
    finally:
        model.config.tokenizer_padding_side = "right"
    assert logits.shape[1] == longest
    for line, (_, wanted, outcome) in zip(logits, expected, strict=True):
        length = len(outcome.hidden) - STEPS + 1
        assert_close(line[-1 if side == "left" else length - 1], wanted[0])


@over_native
@over_methods
def test_beams(family, spec):
    """With a cache that is reordered at every step, as without one; both alike for the llava tree's one sample."""
    method, model, call = method_of(spec), family_of(family).model, call_of(family, "padded")
    beams = {"num_beams": 3, "num_return_sequences": 2, "output_scores": True}
    with method(model) as attachment:
        cached, uncached = (generate(model, call.inputs, use_cache=use, **beams) for use in (True, False))
        assert len(attachment.records) == 6
    assert cached.sequences.tolist() == uncached.sequences.tolist()
    assert_close(cached.sequences_scores, uncached.sequences_scores)


@over_methods
def test_beams_of_the_llava_tree(spec):
    """Against every beam followed by the reference."""
    method, family = method_of(spec), family_of("llava")
    call, table = call_of("llava", "padded"), family_of("llava").eager.get_input_embeddings().weight
    with method(family.model) as attachment:
        out = generate(family.model, call.inputs, num_beams=3, output_scores=True)
        assert len(attachment.records) == 2
        assert all(len(record.layers) == LAYERS for record in attachment.records)
    for answer, score, dense in zip(answers(out), out.sequences_scores, call.prompts, strict=True):
        alive: list[tuple[list[int], float]] = [([], 0.0)]
        for _ in range(STEPS):
            grown = []
            for tokens, total in alive:
                hidden = run(family.lm, dense, method, table[tokens]).hidden[-1]
                step = family.eager.lm_head(hidden).log_softmax(-1).tolist()
                grown += [([*tokens, i], total + value) for i, value in enumerate(step)]
            alive = sorted(grown, key=lambda pair: -pair[1])[:3]
        assert answer == alive[0][0]
        assert float(score) == pytest.approx(alive[0][1] / STEPS, abs=1e-4)


@over_native
@over_methods
@pytest.mark.parametrize("case", ["one", "padded"])
@pytest.mark.parametrize("ids", ["all", "new"])
def test_second_turn(family, spec, case, ids):
    """A chat goes on with the cache of its first turn; words of the second rate nothing."""
    method, native = method_of(spec), family_of(family)
    # Text that outlasts the video's positions: where it does not, Qwen's turns disagree on what follows.
    parts = [[text(5), video(3), text(6)], [text(2), video(3), text(13)]]
    rows = [prompt(family, *each, seed=i) for i, each in enumerate(parts[: 1 if case == "one" else 2])]
    with method(native.model):
        first = generate(native.model, batch(rows))
        turns = [row + own + prompt(family, text(4), seed=9) for row, own in zip(rows, answers(first), strict=True)]
        both = batch(turns)
        known = 0 if ids == "all" else first.sequences.shape[1] - 1
        inputs = {"input_ids": both["input_ids"][:, known:], "attention_mask": both["attention_mask"]}
        out = generate(native.model, inputs, past_key_values=first.past_key_values)
    table = native.eager.get_input_embeddings().weight.detach()
    for i, (row, turn) in enumerate(zip(rows, turns, strict=True)):
        said = turn.ids[len(row.ids) :]
        for step, token in enumerate(answers(out)[i]):
            hidden = run(native.lm, native.dense(row), method, table[said]).hidden[-1]
            wanted = native.eager.lm_head(hidden).detach()
            assert_close(out.logits[step][i], wanted)
            assert int(wanted.argmax()) == token
            said = [*said, token]


@over_croppable
@over_methods
def test_prompt_lookup(family, spec):
    """The first call already has guesses behind the prompt, and the cache loses rows again."""
    method, native = method_of(spec), family_of(family)
    row = prompt(family, text(5), video(3), text(2))
    row += [7, 8, 9, 10, 7, 8]
    with method(native.model):
        out = generate(native.model, batch([row]), prompt_lookup_num_tokens=2)
    assert_follows(out, [greedy(native, native.dense(row), method)])


@over_families
@over_methods
def test_nothing_stays_on_the_model(family, spec):
    method, model, call = method_of(spec), family_of(family).model, call_of(family, "padded")
    before, bare = traces(model), generate(model, call.inputs)
    with method(model):
        first = generate(model, call.inputs)
        assert answers(first) != answers(bare) or not torch.equal(first.logits[0], bare.logits[0])
    assert traces(model) == before
    with pytest.raises(RuntimeError), method(model), method(model):
        pass
    with pytest.raises(ValueError, match="floor"):
        FastV(0.2).attach(model)
    assert traces(model) == before
    attachment = method.attach(model)
    attachment.detach()
    with VidCom2(0.5)(model):
        attached = traces(model)
        attachment.detach()  # once more: what was attached since stays
        assert traces(model) == attached
    assert torch.equal(torch.stack(generate(model, call.inputs).logits), torch.stack(bare.logits))
    if family in NATIVE:  # whose chats go on with the same cache
        ids = call.inputs["input_ids"]
        longer = torch.cat([ids, first.sequences[:, ids.shape[1] :], ids[:, -1:]], dim=1)
        with pytest.raises(RuntimeError, match="with-block"):
            generate(model, {"input_ids": longer}, past_key_values=first.past_key_values)


@over_native
def test_a_failed_attachment_leaves_nothing(family):
    model = family_of(family).model
    lm, before = model.model.language_model, traces(model)
    rotary = lm._modules.pop("rotary_emb")
    try:
        with pytest.raises(AttributeError, match="rotary_emb"):
            FastV(0.5).attach(model)
    finally:
        lm.rotary_emb = rotary
    assert traces(model) == before


@pytest.mark.parametrize("family", [pytest.param(f, marks=pytest.mark.slow) if f != NATIVE[0] else f for f in NATIVE])
@over_methods
def test_several_threads(family, spec):
    model, calls = family_of(family).model, [call_of(family, case) for case in ("one", "padded", "text_only")]
    with method_of(spec)(model), ThreadPoolExecutor(3) as pool:
        outs = list(pool.map(lambda call: answers(generate(model, call.inputs)), calls * 3))
        assert outs == [answers(generate(model, call.inputs)) for call in calls] * 3


@over_native
def test_arguments_by_place(family):
    model, inputs = family_of(family).model, dict(call_of(family, "padded").inputs)
    config = copy.deepcopy(model.generation_config)
    config.max_new_tokens, config.do_sample = STEPS, False
    with FastV(0.5)(model):
        expected = model.generate(**inputs, max_new_tokens=STEPS, do_sample=False)
        assert torch.equal(model.generate(inputs.pop("input_ids"), config, **inputs), expected)


@over_croppable
@over_methods
def test_a_cache_changes_its_rows(family, spec):
    """Reordered, repeated, selected from, and with padding in it that is cropped away again."""
    method, native = method_of(spec), family_of(family)
    call, table = call_of(family, "padded"), native.eager.get_input_embeddings().weight
    length = call.inputs["input_ids"].shape[1]

    def step(cache: Any, tokens: list[list[int]], real: list[list[int]], order: list[int]) -> Tensor:
        mask = torch.cat([call.inputs["attention_mask"][order], torch.tensor(real)], dim=1)
        ids, past = torch.tensor(tokens), cache.get_seq_length()
        places = torch.stack([last[order] + 1 + torch.tensor(real)[:, : past - length].sum(1) for last in lasts])
        new = torch.tensor(real)[:, past - length :]
        at = (places[..., None] + new.cumsum(-1) - 1).clamp(min=0)
        at = at[0] if len(at) == 1 else at
        return native.model(input_ids=ids, attention_mask=mask, position_ids=at, past_key_values=cache).logits[:, -1]

    def wanted(row: int, said: list[int]) -> Tensor:
        return native.eager.lm_head(run(native.lm, call.prompts[row], method, table[said]).hidden[-1])

    def last_positions() -> list[Tensor]:
        rows = [dense.positions[..., -1].reshape(-1) for dense in call.prompts]
        if len(rows[0]) > 1:
            return list(torch.stack(rows, dim=1))
        return [torch.full((len(rows),), length - 1)]

    lasts = last_positions()
    with method(native.model), torch.no_grad():
        cache = native.model(**call.inputs, use_cache=True).past_key_values
        cache.reorder_cache(torch.tensor([1, 0]))
        assert_close(step(cache, [[7], [8]], [[1], [1]], [1, 0]), torch.stack([wanted(1, [7]), wanted(0, [8])]))
        # Row 0 of the batch gets two tokens, row 1 only one.
        logits = step(cache, [[9, 10], [0, 11]], [[1, 1, 1], [1, 0, 1]], [1, 0])
        assert_close(logits, torch.stack([wanted(1, [7, 9, 10]), wanted(0, [8, 11])]))
        cache.crop(-2)
        logits = step(cache, [[5, 6], [12, 13]], [[1, 1, 1], [1, 1, 1]], [1, 0])
        assert_close(logits, torch.stack([wanted(1, [7, 5, 6]), wanted(0, [8, 12, 13])]))
        cache.batch_repeat_interleave(2)
        cache.batch_select_indices(torch.tensor([3, 0, 2]))
        logits = step(cache, [[1], [2], [3]], [[1, 1, 1, 1]] * 3, [0, 1, 0])
        said = [(0, [8, 12, 13, 1]), (1, [7, 5, 6, 2]), (0, [8, 12, 13, 3])]
        assert_close(logits, torch.stack([wanted(row, tokens) for row, tokens in said]))


def second_video(native: Any, inputs: dict[str, Any]) -> None:
    cache = hf.DynamicCache(config=native.lm.config)  # an empty one is none
    first = generate(native.model, inputs, past_key_values=cache)
    native.model(**inputs, past_key_values=first.past_key_values)


@pytest.mark.parametrize(
    ("what", "match"),
    [
        (lambda native, inputs: generate(native.model, inputs, cache_implementation="static"), "cache_implementation"),
        (lambda native, inputs: native.model(**inputs, labels=inputs["input_ids"]), "labels"),
        (lambda native, inputs: generate(native.model, inputs, prefill_chunk_size=8), "prefill_chunk_size"),
        (second_video, "first turn"),
    ],
    ids=["static", "labels", "chunks", "second video"],
)
def test_refused(what, match):
    native = family_of("llava_onevision")
    with FastV(0.5)(native.model), pytest.raises(ValueError, match=match):
        what(native, call_of("llava_onevision", "padded").inputs)


def test_refused_by_the_llava_tree():
    model, inputs = family_of("llava").model, dict(call_of("llava", "padded").inputs)
    dense = {("input_ids" if name == "inputs" else name): value for name, value in inputs.items()}
    whole = model(**dense).logits.shape[1]
    with FastV(0.5)(model):
        with pytest.raises(ValueError, match="cache_implementation"):
            generate(model, inputs, cache_implementation="static")
        ids = inputs.pop("inputs")
        with pytest.raises(ValueError, match="labels"):
            model(input_ids=ids, **inputs, labels=ids)
        try:
            for limit in (60, whole - 1):  # in the midst of a video, and of a question
                model.config.tokenizer_model_max_length = limit
                with pytest.raises(ValueError, match="tokenizer_model_max_length"):
                    generate(model, {"inputs": ids, **inputs})
            model.config.tokenizer_model_max_length = whole
            generate(model, {"inputs": ids, **inputs})
        finally:
            del model.config.tokenizer_model_max_length
        assert len(model(input_ids=torch.tensor([[5, 6, 7]])).logits) == 1  # nothing is left of the failed call
    with pytest.raises(ValueError, match="eager"):
        FastV(0.5, attention="eager").attach(model)


# ---- schedules


@pytest.mark.parametrize(("layers", "retention", "named"), [(8, 0.25, 1), (28, 0.05, 1), (32, 0.1, 3), (8, 0.1, None)])
def test_fastv_names_what_reaches_the_retention(layers, retention, named):
    with pytest.raises(ValueError, match="cannot reach") as caught:
        method_of(f"fastv:k={layers - 1}", retention=retention).check(layers)
    if named is None:
        assert str(caught.value).endswith("and even k=1 would be too many")
        return
    assert str(caught.value).endswith(f"; fastv@{retention}:k={named} can")
    method_of(f"fastv:k={named}", retention=retention).check(layers)
    with pytest.raises(ValueError, match="cannot reach"):
        method_of(f"fastv:k={named + 1}", retention=retention).check(layers)


@pytest.mark.parametrize("layers", [28, 32, 36, 40])
@pytest.mark.parametrize("tokens", [16 * 9, 576, 8 * 196, 32 * 196])
@pytest.mark.parametrize("spec", ["fastv", "pdrop", "sparsevlm", "sparsevlm:version=2"])
@pytest.mark.parametrize("retention", [0.15, 0.25, 0.3, 0.5, 0.75, 0.99])
def test_schedules_give_the_retention(layers, tokens, spec, retention):
    """Within a token of the whole video, or say the floor."""
    method = method_of(spec, retention=retention)
    if spec == "pdrop" and retention <= (layers // 4) / layers:
        with pytest.raises(ValueError, match=r"floor is 0\.25"):
            method.check(layers)
        return
    stages = method.schedule(layers, tokens)
    counts = method.processed(stages, layers, tokens)
    assert abs(sum(counts) / layers - retention * tokens) <= 1
    assert [stage.cut for stage in stages] == sorted({stage.cut for stage in stages})
    assert counts[0] == tokens
    assert list(counts) == sorted(counts, reverse=True)
    method.check(layers)


@pytest.mark.parametrize("layers", [4, 8, 16, 28, 32, 64])
@pytest.mark.parametrize("retention", [0.02, 0.05, 0.1, 0.15, 0.25])
@pytest.mark.parametrize("given", [":layers=(3,)", ":layers=(1,2)", ""])
def test_what_pdrop_advises_works(layers, retention, given):
    method = method_of(f"pdrop{given}", retention=retention)
    first = method.layers[0] if method.layers else layers // 4
    if first < retention * layers:
        method.check(layers)
        return
    with pytest.raises(ValueError, match="cannot reach") as error:
        method.check(layers)
    advice = re.search(r"drop earlier, for example with layers=(\(.+\))$", str(error.value))
    assert (advice is None) == (retention * layers <= 1)
    if advice is None:
        assert str(error.value).endswith("; no stage can be before layer 1")
    else:
        PDrop(retention, layers=ast.literal_eval(advice[1])).check(layers)


@pytest.mark.parametrize(
    ("version", "retention", "budgets"),
    [
        (1, 0.3585, (300, 200, 110)),
        (1, 0.2524, (303, 110, 36)),
        (1, 0.1981, (238, 48, 26)),
        (1, 0.1429, (66, 30, 17)),
        (2, 0.3590, (300, 200, 118)),
        (2, 0.1421, (66, 34, 20)),
    ],
)
def test_sparsevlm_meets_its_authors_budgets(version, retention, budgets):
    stages = SparseVLM(retention, version=version).schedule(32, 576)
    assert [stage.rank for stage in stages] == [2, 6, 15]
    assert all(abs(stage.keep - budget) <= 2 for stage, budget in zip(stages, budgets, strict=True))


def test_pdrop_meets_its_authors_ratios():
    stages = PDrop(0.46875).schedule(32, 576)
    assert [(stage.cut, stage.keep) for stage in stages] == [(8, 288), (16, 144), (24, 72)]


@pytest.mark.parametrize("name", ["fastv", "pdrop", "sparsevlm"])
def test_released_says_what_it_amounts_to(name):
    """The default is right for 32 layers, and on others the right number is told."""
    METHODS[name].released().check(32)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"amounts to retention 0\.\d+ on the 16 layers|too many|floor"):
        METHODS[name].released(0.9).check(16)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: FastV(0.5, k=0), "k=0"),
        (lambda: FastV(0.5, keep=2), "keep=2"),
        (lambda: FastV(0.5, k=9).check(6), "k=9"),
        (lambda: FastV(0.2).check(6), "0.333"),
        (lambda: PDrop(0.5, layers=(0, 3)), "layer 0"),
        (lambda: PDrop(0.5, layers=(3, 2)), "ascending"),
        (lambda: PDrop(0.5, layers=(3, 9)).check(6), "too many"),
        (lambda: PDrop(0.5, ratios=(0.5,)), "ratios"),
        (lambda: SparseVLM(0.5, version=3), "version=3"),
        (lambda: SparseVLM(0.5, shares=(0.5,)), "layers"),
        (lambda: SparseVLM(0.05).check(32), "floor"),
        (lambda: FastV(0.5, fca="yes"), "fca"),
        (lambda: FastV(0.5, fca=FrameAdjustment(rounding="ceil")), "fca.rounding='ceil'"),
        (lambda: SparseVLM.released(version=3), "version=3"),
        (lambda: FastV(0.5, k=2.5), "k=2.5 must be a whole number"),
        (lambda: FastV(0.5).select(torch.full((2, 3, 4), torch.nan)), "NaN"),
    ],
)
def test_settings_out_of_range(make, match):
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize("seed", range(20))
def test_budgets_of_frames_that_lack_tokens(seed):
    """What a frame lacks goes to those with the most to spare."""
    generator = torch.Generator().manual_seed(seed)
    frame = torch.randint(0, 4, (30,), generator=generator)
    scores = torch.randint(0, 9, (30,), generator=generator).float()  # with equal ones
    budgets = torch.randint(0, 12, (4,), generator=generator)
    ours = choose_per_frame(scores, frame, budgets).tolist()
    assert ours == pick(scores.tolist(), 0, frame.tolist(), budgets.tolist())
    assert len(ours) == min(30, int(budgets.sum()))


def test_without_a_rater_the_whole_question_rates():
    """The published code divides nothing by nothing here."""
    method, x = SparseVLM(0.5), torch.randn(12, 8, generator=torch.Generator().manual_seed(0))
    assert method.raters(x, torch.ones(1, 8)).tolist() == [True]
    assert method.raters(x, torch.zeros(5, 8)).tolist() == [True] * 5
    assert method.raters(x, x[:0]) is None


def test_a_second_forward_is_not_taken_for_a_prompt():
    """A video's rows are known for the one call they were made for."""
    model, call = family_of("llava").model, call_of("llava", "one")
    with FastV(0.5)(model), torch.no_grad():
        model.prepare_inputs_labels_for_multimodal(
            call.inputs["inputs"], None, None, None, None, call.inputs["images"], call.inputs["modalities"]
        )
        plain = model(input_ids=torch.tensor([[5, 6, 7]])).logits
    assert torch.equal(plain, model(input_ids=torch.tensor([[5, 6, 7]])).logits)


@pytest.mark.parametrize(
    "method",
    [
        FastV.released(0.4, k=3),
        PDrop.released(),
        PDrop(0.15, layers=(2, 7, 14), fca=FrameAdjustment(tau=0.02)),
        SparseVLM.released(version=2),
    ],
    ids=lambda method: method.name,
)
def test_specs_give_the_method_back(method):
    assert compressor(method.spec) == method
