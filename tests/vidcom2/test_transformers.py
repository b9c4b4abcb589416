"""transformers' own video classes, compressed by hooks, against the slow reference of tests/vidcom2/hf_slow.py."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import transformers as hf
from packaging.version import Version
from torch import Tensor

from tests.vidcom2.hf_slow import Answer, beam_search, greedy, shorten
from tests.vidcom2.hf_tiny import KINDS, PADDED, QWEN, STACKED, TEXT, Row, batch, image, prompt, text, tiny, video
from vidcom2 import Compressor, VidCom2
from vidcom2.models import layouts

STEPS = 6
TOLERANCE = 2e-5
"""Of the largest logit: what float32 leaves of sums in another order; pruning or positions gone wrong cost > 0.1."""
PRUNED, WHOLE = VidCom2(0.3), VidCom2(1)
THREE = ("llava_onevision", "qwen2_vl", "qwen3_vl")
"""One of each way to place tokens: one position each, three, three with deepstack and scattered frames."""
# The argument is older, but before 5.23 generate() gives its videos the positions of text.
encodes_first = pytest.mark.skipif(Version(hf.__version__) < Version("5.23"), reason="generate() takes pixels only")

CASES: dict[str, Callable[..., list[list[Any]]]] = {
    "one": lambda a, b, c: [[text(5), c, text(6)]],
    "two": lambda a, b, c: [[text(3), a, text(4), b, text(5)]],
    "padded": lambda a, b, c: [[text(2), a, text(3)], [text(7), c, text(9)]],
    "uneven": lambda a, b, c: [[a, text(3), b, text(4)], [text(4), c, text(2)]],
    "text_only": lambda a, b, c: [[text(4), b, text(5)], [text(11)]],
    "image": lambda a, b, c: [[text(2), image(), text(3), a, text(4)], [text(6), b, text(7)]],
}
MISSING = {("llava_next_video", "image")}
MATRIX = [(kind, case) for kind in KINDS for case in CASES if (kind, case) not in MISSING]
over_matrix = pytest.mark.parametrize(("kind", "case"), MATRIX)
over_attention = pytest.mark.parametrize("attention", ["sdpa", "eager"])
over_three = pytest.mark.parametrize("kind", THREE)
over_kinds = pytest.mark.parametrize("kind", KINDS)

model_of = functools.cache(tiny)


def rows_of(kind: str, case: str) -> list[Row]:
    videos = (video(3, 2, 3), video(5, 3, 2), video(4, 4, 4))
    if kind in STACKED:
        videos = (video(4),) * 3
    if kind == "internvl":
        videos = (video(3), video(5), video(11))  # a frame number may have two digits
    return [prompt(kind, *parts, seed=i) for i, parts in enumerate(CASES[case](*videos))]


def generate(model: Any, inputs: dict[str, Any], **settings: Any) -> Any:
    settings = {"max_new_tokens": STEPS, "do_sample": False, "output_logits": True, **settings}
    return model.generate(**inputs, **settings, return_dict_in_generate=True)


def answers(out: Any) -> list[list[int]]:
    return out.sequences[:, -STEPS:].tolist()


def references(model: Any, rows: Sequence[Row], compressor: Compressor = PRUNED) -> list[Answer]:
    return [greedy(model, row, compressor, STEPS) for row in rows]


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=TOLERANCE * float(theirs.abs().max()), rtol=0)


def assert_follows(out: Any, expected: Sequence[Answer]) -> None:
    """A greedy generate() says what the references say, by the same logits."""
    assert answers(out) == [answer.tokens for answer in expected]
    assert_close(torch.stack(out.logits, dim=1), torch.stack([answer.logits for answer in expected]))


def traces(model: torch.nn.Module) -> dict[str, Any]:
    """What an attachment may leave on a model: classes, attributes, hooks."""
    return {
        name: (type(module), set(vars(module)), {k: len(v) for k, v in vars(module).items() if k.endswith("_hooks")})
        for name, module in model.named_modules()
    }


@over_matrix
@over_attention
def test_answers_equal_the_reference(kind, attention, case):
    model, rows = model_of(kind, attention), rows_of(kind, case)
    inputs = batch(rows)
    with PRUNED(model), torch.no_grad():
        out = generate(model, inputs)
        forward = model(**inputs).logits
    expected = references(model, rows)
    assert_follows(out, expected)
    assert_close(forward[:, -1], torch.stack([answer.logits[0] for answer in expected]))


@over_matrix
@pytest.mark.parametrize("attention", ["sdpa", pytest.param("eager", marks=pytest.mark.slow)])
def test_everything_kept_is_the_model_as_it_was(kind, attention, case):
    """Bit for bit; and it is what the reference says when nothing is dropped, so the reference can be trusted."""
    model, rows = model_of(kind, attention), rows_of(kind, case)
    inputs = batch(rows)
    with torch.no_grad():
        bare, bare_forward = generate(model, inputs), model(**inputs).logits
        with WHOLE(model):
            out, forward = generate(model, inputs), model(**inputs).logits
    assert torch.equal(out.sequences, bare.sequences)
    assert torch.equal(torch.stack(out.logits), torch.stack(bare.logits))
    assert torch.equal(forward, bare_forward)
    assert_follows(bare, references(model, rows, WHOLE))


@over_kinds
@pytest.mark.parametrize("case", ["padded", "uneven", "text_only"])
def test_repacked_positions(kind, case):
    repacked = VidCom2(0.3, positions="repack")
    model, rows = model_of(kind), rows_of(kind, case)
    with repacked(model):
        out = generate(model, batch(rows))
    assert_follows(out, references(model, rows, repacked))


@over_three
@pytest.mark.parametrize("case", ["one", "padded"])
def test_repacked_positions_in_a_second_turn(kind, case):
    repacked = VidCom2(0.3, positions="repack")
    model, rows = model_of(kind), first_turn(kind, case)
    with repacked(model):
        first = generate(model, batch(rows))
        rows = [row + answer + prompt(kind, text(4), seed=9) for row, answer in zip(rows, answers(first), strict=True)]
        both = batch(rows)
        inputs = {"input_ids": both["input_ids"], "attention_mask": both["attention_mask"]}
        out = generate(model, inputs, past_key_values=first.past_key_values)
    assert_follows(out, references(model, rows, repacked))


@over_matrix
def test_records(kind, case):
    model, rows = model_of(kind), rows_of(kind, case)
    with PRUNED(model) as run:
        generate(model, batch(rows))
        records = [record for record in run.records if record.modality == "video"]
    short = [shorten(model, row, PRUNED) for row in rows]
    longest = max(len(prompt.rows) for prompt in short)
    expected = [(i, counts) for i, prompt in enumerate(short) for counts in prompt.counts]
    assert len(records) == len(expected)
    for record, (i, counts) in zip(records, expected, strict=True):
        assert record.sample == i
        assert record.start == longest - len(short[i].rows) + counts.start
        assert list(record.frames_before) == counts.frames_before
        assert list(record.frames_after) == counts.frames_after
        assert (record.separators_before, record.separators_after) == (counts.separators, counts.separators)
        assert record.tokens_before == sum(counts.frames_before) + counts.separators
        assert record.tokens_after == sum(counts.frames_after) + counts.separators
        assert (record.method, record.positions, record.cut) == (PRUNED.spec, "original", 0)


@over_three
def test_records_are_of_the_latest_call_with_a_video(kind):
    model = model_of(kind)
    with PRUNED(model) as run:
        for case, count in (("uneven", 3), ("one", 1), ("padded", 2)):
            generate(model, batch(rows_of(kind, case)))
            assert len(run.records) == count


@over_kinds
def test_a_video_never_vanishes(kind):
    model, rows, compressor = model_of(kind), rows_of(kind, "padded"), VidCom2(0.05)
    with compressor(model) as run:
        out = generate(model, batch(rows))
        assert [sum(record.frames_after) >= 1 for record in run.records] == [True, True]
    assert_follows(out, references(model, rows, compressor))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in QWEN])
@pytest.mark.parametrize("case", ["one", "padded", "text_only"])
@pytest.mark.parametrize("positions", ["repack", "original"])
def test_positions(kind, case, positions):
    """With positions of one dimension; "original" is the default."""
    model, rows, compressor = model_of(kind), rows_of(kind, case), VidCom2(0.3, positions=positions)
    inputs = batch(rows)
    with compressor(model) as run, torch.no_grad():
        out, uncached = generate(model, inputs), generate(model, inputs, use_cache=False)
        assert {record.positions for record in run.records} == {positions}
        forward = model(**inputs).logits
    expected = references(model, rows, compressor)
    assert_follows(out, expected)
    assert_follows(uncached, expected)
    assert_close(forward[:, -1], torch.stack([answer.logits[0] for answer in expected]))


WAYS = {
    "uncached": {"use_cache": False},
    "static": {"cache_implementation": "static", "disable_compile": True},
    "lookup": {"prompt_lookup_num_tokens": 2},
}


@over_three
@pytest.mark.parametrize("way", WAYS)
def test_ways_to_decode(kind, way):
    """Twice each on one model: transformers keeps a static cache for the next call."""
    model = model_of(kind)
    if way == "lookup":  # one prompt at a time, which ends in what it can look up: the first call has guesses in it
        echo = [7, 8, 9, 10, 7, 8]
        calls = [[row + echo] for case in ("one", "two") for row in rows_of(kind, case)]
    else:
        calls = [rows_of(kind, "padded"), rows_of(kind, "text_only")]
    with PRUNED(model):
        outs = [generate(model, batch(rows), **WAYS[way]) for rows in calls]
    for rows, out in zip(calls, outs, strict=True):
        assert_follows(out, references(model, rows))


@over_three
@pytest.mark.parametrize("use_cache", [True, False])
def test_beams(kind, use_cache):
    """Each row of a batch gets its own beams, in order."""
    model, rows = model_of(kind), rows_of(kind, "padded")
    with PRUNED(model):
        settings = {"num_beams": 3, "num_return_sequences": 2, "output_scores": True, "use_cache": use_cache}
        out = generate(model, batch(rows), **settings)
    expected = [beam for row in rows for beam in beam_search(model, row, PRUNED, 3, STEPS)[:2]]
    assert answers(out) == [tokens for tokens, _ in expected]
    assert_close(out.sequences_scores, torch.tensor([score / STEPS for _, score in expected]))


@pytest.mark.parametrize("kind", ["qwen3_vl", *(pytest.param(kind, marks=pytest.mark.slow) for kind in THREE[:2])])
def test_compiled_decoding_stays_one_graph(kind):
    """With a cache of fixed size, generate() compiles the steps after the prompt; our hooks must not break them up."""
    model, rows = tiny(kind, seed=5), rows_of(kind, "padded")
    graphs = []

    def backend(graph: Any, inputs: Any, **options: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compiling = hf.CompileConfig(backend=backend, fullgraph=True)
    compiling._compile_all_devices = True
    with PRUNED(model):
        out = generate(model, batch(rows), cache_implementation="static", compile_config=compiling)
        assert_follows(out, references(model, rows))
    assert len(graphs) == 1


@over_three
def test_samples(kind):
    """Several samples of each prompt, drawn alike, are the same with a cache as without."""
    model, inputs = model_of(kind), batch(rows_of(kind, "padded"))
    drawn = []
    with PRUNED(model):
        for use_cache in (True, False):
            torch.manual_seed(0)
            drawn.append(generate(model, inputs, do_sample=True, num_return_sequences=2, use_cache=use_cache))
    cached, uncached = drawn
    assert answers(cached) == answers(uncached)
    assert answers(cached)[0] != answers(cached)[1]
    assert_close(torch.stack(cached.logits), torch.stack(uncached.logits))


def first_turn(kind: str, case: str) -> list[Row]:
    """Prompts whose text outlasts their videos' positions: where it does not, Qwen's turns disagree on what follows."""
    parts = [[text(5), video(4), text(6)], [text(2), video(4), text(13)]]
    return [prompt(kind, *each, seed=i) for i, each in enumerate(parts[: 1 if case == "one" else 2])]


@over_three
@pytest.mark.parametrize("case", ["one", "padded"])
@pytest.mark.parametrize("ids", ["all", "new"])
def test_second_turn(kind, case, ids):
    """A chat goes on with the cache of its first turn, given all the ids or only those the cache lacks."""
    model, rows = model_of(kind), first_turn(kind, case)
    with PRUNED(model):
        first = generate(model, batch(rows))
        rows = [row + answer + prompt(kind, text(4), seed=9) for row, answer in zip(rows, answers(first), strict=True)]
        both = batch(rows)
        # The last token of the answer never went through the model.
        known = 0 if ids == "all" else first.sequences.shape[1] - 1
        inputs = {"input_ids": both["input_ids"][:, known:], "attention_mask": both["attention_mask"]}
        out = generate(model, inputs, past_key_values=first.past_key_values)
    assert_follows(out, references(model, rows))


@pytest.mark.parametrize(
    "kind", [kind if kind == "llava_onevision" else pytest.param(kind, marks=encodes_first) for kind in THREE]
)
@pytest.mark.parametrize("case", ["one", "padded"])
@pytest.mark.parametrize("before", ["video", "text", "text, outside"])
def test_second_turn_brings_a_video(kind, case, before):
    """Qwen's positions need the grids of all videos and its tower only the new one's: generate() takes that encoded."""
    model, rows = model_of(kind), first_turn(kind, case)
    if before != "video":
        rows = [prompt(kind, text(9 - 5 * i), seed=i) for i in range(len(rows))]
    outside = generate(model, batch(rows))
    with PRUNED(model) as run, torch.no_grad():
        first = outside if before == "text, outside" else generate(model, batch(rows))
        turns = [prompt(kind, text(3), video(4, 3, 2), text(7), seed=19 + i) for i in range(len(rows))]
        rows = [row + answer + turn for row, answer, turn in zip(rows, answers(first), turns, strict=True)]
        both, new = batch(rows), batch(turns)
        inputs: dict[str, Any] = {name: both[name] for name in PADDED if name in both}
        if kind in QWEN:
            grid = new["video_grid_thw"]
            encoded = model.model.get_video_features(new["pixel_values_videos"], grid, return_dict=True)
            inputs |= {"mm_encoder_outputs": {"video": encoded}, "video_grid_thw": both["video_grid_thw"]}
        else:
            inputs["pixel_values_videos"] = new["pixel_values_videos"]
        out = generate(model, inputs, past_key_values=first.past_key_values)
        assert len(run.records) == len(rows)
    assert_follows(out, references(model, rows))


@encodes_first
@over_three
def test_a_video_encoded_once(kind, monkeypatch):
    model, rows = model_of(kind), rows_of(kind, "padded")
    inputs: dict[str, Any] = batch(rows)
    pixels = inputs.pop("pixel_values_videos")
    grids = [inputs["video_grid_thw"]] if kind in QWEN else []
    expected = references(model, rows)
    with PRUNED(model), torch.no_grad():
        encoded = model.model.get_video_features(pixels, *grids, return_dict=True)

        def blind(*args: Any, **kwargs: Any) -> None:
            raise AssertionError("the tower was called again")

        monkeypatch.setattr(model.model.visual if kind in QWEN else model.model.vision_tower, "forward", blind)
        for _ in range(2):
            out = generate(model, inputs, mm_encoder_outputs={"video": copy.deepcopy(encoded)})
            assert_follows(out, expected)


@over_kinds
def test_nothing_stays_on_the_model(kind):
    model, rows = model_of(kind), rows_of(kind, "padded")
    inputs = batch(rows)
    bare = generate(model, inputs)
    before = traces(model)
    with PRUNED(model):
        generate(model, inputs)
    assert traces(model) == before
    with pytest.raises(ZeroDivisionError), PRUNED(model):
        print(generate(model, inputs).sequences.shape[0] // 0)
    assert traces(model) == before
    with pytest.raises(RuntimeError), PRUNED(model), PRUNED(model):
        pass
    assert traces(model) == before
    attachment = PRUNED.attach(model)
    attachment.detach()
    assert traces(model) == before
    with PRUNED(model):
        attached = traces(model)
        attachment.detach()  # once more: what was attached since stays
        assert traces(model) == attached
    assert torch.equal(torch.stack(generate(model, inputs).logits), torch.stack(bare.logits))


@over_three
@pytest.mark.parametrize("cause", [ZeroDivisionError, KeyboardInterrupt])
def test_a_failed_call_does_not_matter_to_the_next(kind, cause):
    model, rows = model_of(kind), rows_of(kind, "padded")

    def fail(*args: Any) -> None:
        raise cause

    with PRUNED(model):
        trap = model.model.language_model.layers[1].register_forward_pre_hook(fail)
        try:
            with pytest.raises(cause):
                generate(model, batch(rows_of(kind, "one")))
        finally:
            trap.remove()
        text_only = [prompt(kind, text(30), seed=5)]
        plain = generate(model, batch(text_only))
        out = generate(model, batch(rows))
    assert_follows(out, references(model, rows))
    assert_follows(plain, references(model, text_only))


@over_three
@pytest.mark.parametrize("threads", [1, 2])
def test_two_models_at_once(kind, threads):
    """Of one class, with compressors of their own; in one thread after the other, or together in two."""
    models, compressors = (tiny(kind, seed=3), tiny(kind, seed=4)), (PRUNED, VidCom2(0.6))
    rows = rows_of(kind, "padded")
    inputs = batch(rows)
    bare = generate(models[1], inputs)
    with compressors[0](models[0]):
        assert torch.equal(generate(models[1], inputs).sequences, bare.sequences)
        with compressors[1](models[1]), ThreadPoolExecutor(threads) as pool:
            outs = list(pool.map(lambda i: generate(models[i % 2], inputs), range(6)))
    expected = [references(model, rows, compressor) for model, compressor in zip(models, compressors, strict=True)]
    for i, out in enumerate(outs):
        assert_follows(out, expected[i % 2])


@over_three
def test_a_method_of_the_instance_is_put_back(kind):
    model = tiny(kind)
    model._prefill = own = functools.partial(model._prefill)
    with PRUNED(model):
        assert model._prefill is not own
    assert model._prefill is own


@over_three
def test_a_copied_cache(kind):
    """Goes on as the original would, has no copy of the model, and is refused where the original is."""
    model, rows = model_of(kind), first_turn(kind, "padded")
    with PRUNED(model):
        first = generate(model, batch(rows))
        rows = [row + answer + prompt(kind, text(4), seed=9) for row, answer in zip(rows, answers(first), strict=True)]
        inputs = {name: batch(rows)[name] for name in ("input_ids", "attention_mask")}
        copied, spare = copy.deepcopy(first.past_key_values), copy.deepcopy(first.past_key_values)
        assert copied.holder() is first.past_key_values.holder()
        assert_follows(generate(model, inputs, past_key_values=copied), references(model, rows))
    with PRUNED(model), pytest.raises(RuntimeError, match="with-block"):
        generate(model, inputs, past_key_values=spare)


@over_three
def test_a_cache_although_the_config_has_none(kind):
    model, inputs = tiny(kind), batch(rows_of(kind, "padded"))
    with PRUNED(model), torch.no_grad():
        caches = []
        for model.model.language_model.config.use_cache in (True, False):
            caches.append(model(**inputs, use_cache=True).past_key_values)
    usual, asked_for = caches
    assert type(asked_for) is type(usual)
    assert torch.equal(asked_for.valid, usual.valid)
    assert asked_for.shift == usual.shift > 0


def test_frames_of_one_token():
    """Which have the positions of text in Qwen3-VL, its time stamps being between them."""
    model, rows = model_of("qwen3_vl"), [prompt("qwen3_vl", text(3), video(5, 1, 1), text(4))]
    with WHOLE(model) as run:
        assert_follows(generate(model, batch(rows)), references(model, rows, WHOLE))
    assert run.records[0].frames_before == (1,) * 5


def without(inputs: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: value for key, value in inputs.items() if key != name}


REFUSED: dict[str, tuple[Sequence[str], Callable[[Any, dict[str, Tensor]], Any]]] = {
    "labels": (THREE, lambda model, inputs: model(**inputs, labels=inputs["input_ids"])),
    "prefill_chunk_size": (THREE, lambda model, inputs: generate(model, inputs, prefill_chunk_size=8)),
    "mm_token_type_ids": (QWEN, lambda model, inputs: generate(model, without(inputs, "mm_token_type_ids"))),
}


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, (kinds, _) in REFUSED.items() for kind in kinds])
def test_refused(name, kind):
    """What would be answered wrongly, and by transformers without a word."""
    model = model_of(kind)
    with PRUNED(model), pytest.raises(ValueError, match=name):
        REFUSED[name][1](model, batch(rows_of(kind, "padded")))


def test_an_unknown_model_is_told_what_it_lacks():
    model = hf.Qwen2ForCausalLM(hf.Qwen2Config(**TEXT))
    with pytest.raises(TypeError, match=r"Qwen2ForCausalLM.*needs"), PRUNED(model):
        pass


@pytest.mark.parametrize("kind", layouts.REFUSED)
def test_a_refused_model_is_told_why(kind, monkeypatch):
    model = hf.Qwen2ForCausalLM(hf.Qwen2Config(**TEXT))
    model.model.language_model = torch.nn.Linear(1, 1)
    monkeypatch.setattr(model.config, "model_type", kind)
    with pytest.raises(TypeError, match=f"{kind}.* cannot be compressed: {layouts.REFUSED[kind][:20]}"):
        PRUNED.attach(model)
