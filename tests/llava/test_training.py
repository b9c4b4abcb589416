"""A LLaVA in training: losses and gradients under a compressor, wrappers, and a saved checkpoint."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.model.builder import load_pretrained_model
from tests.fixtures.checkpoint import make_checkpoint
from tests.llava.tiny import prompt, tiny_model, video
from vidcom2 import Compressor, VidCom2, compressor

METHODS = ["vidcom2@0.3", "vidcom2@0.3:positions=original", "random@0.3", "holitom@0.3", "aot@0.3"]


@pytest.fixture
def model(tmp_path) -> Any:
    """As in training: the tower is frozen."""
    model = tiny_model(tmp_path, num_hidden_layers=3, mm_newline_position="grid")
    model.get_vision_tower().requires_grad_(False)
    return model.train()


def padded_batch() -> dict[str, Any]:
    """Two prompts of different length with videos of different length; the answers are their last tokens."""
    lines = [prompt(3, "video", 9, seed=1), prompt(2, "video", 5, seed=2)]
    ids = nn.utils.rnn.pad_sequence(lines, batch_first=True)
    answers = [torch.arange(len(line)) >= len(line) - 3 for line in lines]
    labels = [line.where(answer, IGNORE_INDEX) for line, answer in zip(lines, answers, strict=True)]
    return {
        "input_ids": ids,
        "attention_mask": nn.utils.rnn.pad_sequence([torch.ones_like(line) for line in lines], batch_first=True),
        "labels": nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=IGNORE_INDEX),
        "images": [video(6, seed=1), video(4, seed=2)],
        "modalities": ["video", "video"],
    }


def slow_loss(model: Any, batch: dict[str, Any], method: Compressor) -> Tensor:
    """The loss of each prompt alone, without padding: the dense rows and labels, of which rows are dropped by hand."""
    losses, answers = 0.0, 0
    dense = {**batch, "past_key_values": None, "position_ids": None}
    _, _, mask, _, rows, labels = model.prepare_inputs_labels_for_multimodal(**dense)
    for i, record in enumerate(model.visual_records):
        line, target = rows[i][mask[i].bool()], labels[i][mask[i].bool()]
        side = 4
        number = torch.full((record.tokens_before,), -1)
        number.view(-1, side + 1)[:, :side] = torch.arange(len(record.frames_before) * side**2).view(-1, side)
        features = line[record.start : record.start + record.tokens_before]
        x = features[number >= 0].view(-1, side**2, line.shape[-1])
        kept = method.select(x)
        # "released": the newlines of a frame stand behind its kept tokens.
        places, made, row = [], [], kept.apply(x)
        for frame, count in enumerate(kept.budgets.tolist()):
            first = frame * side * (side + 1)
            number_of = kept.index[len(made) - 4 * frame :][:count].tolist()
            places += [record.start + first + (n % side**2) // side * (side + 1) + n % side for n in number_of]
            made += row[len(made) - 4 * frame :][:count]
            newlines = [first + side + (side + 1) * r for r in range(side)]
            places += [record.start + newline for newline in newlines]
            made += features[newlines]
        end = record.start + record.tokens_before
        embeds = torch.cat([line[: record.start], torch.stack(made), line[end:]])
        short = torch.cat([target[: record.start], torch.full((len(made),), IGNORE_INDEX), target[end:]])
        position = torch.arange(len(embeds))
        if method.positions == "original":
            position = torch.tensor([*range(record.start), *places, *range(end, len(line))])
        mask_one = torch.ones(1, len(embeds), dtype=torch.long)
        inputs = {"inputs_embeds": embeds[None], "position_ids": position[None], "attention_mask": mask_one}
        logits = model(**inputs, use_cache=False).logits[0]
        losses = losses + cross_entropy(logits[:-1], short[1:], reduction="sum")
        answers += int((short[1:] != IGNORE_INDEX).sum())
    return losses / answers


def learned(model: Any) -> dict[str, Tensor]:
    """Gradients by name, which the model then forgets."""
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("spec", METHODS)
def test_loss_and_gradients_are_those_of_rows_dropped_by_hand(model, spec):
    method, batch = compressor(spec), padded_batch()
    slow = slow_loss(model, batch, method)
    slow.backward()
    expected = learned(model)
    with method(model) as run:
        loss = model(**batch, use_cache=False).loss
    loss.backward()
    torch.testing.assert_close(loss, slow)
    gradients = learned(model)
    assert gradients.keys() == expected.keys() == {n for n, _ in model.named_parameters() if "vision_tower" not in n}
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-5)
        assert gradient.any(), name
    assert all(record.tokens_after < record.tokens_before for record in run.records)


@pytest.mark.parametrize("side", ["left", "right"])
def test_keeping_everything_is_dense(model, side):
    model.config.tokenizer_padding_side = side
    batch = padded_batch()
    dense = model(**batch).loss
    dense.backward()
    expected = learned(model)
    with VidCom2(1.0)(model):
        loss = model(**batch).loss
    loss.backward()
    assert torch.equal(loss, dense)
    for name, gradient in learned(model).items():
        assert torch.equal(gradient, expected[name]), name


def test_labels_stand_where_the_text_is(model):
    """Padding, videos and questions have none."""
    batch = padded_batch()
    with VidCom2(0.3)(model) as run:
        logits, labels = model(**batch, dpo_forward=True)
    assert logits.shape[:2] == labels.shape
    for i, record in enumerate(run.records):
        assert labels[i][labels[i] != IGNORE_INDEX].tolist() == batch["labels"][i][batch["labels"][i] >= 0].tolist()
        assert (labels[i, : record.start + record.tokens_after] == IGNORE_INDEX).all()


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated")  # its new name is not in 5.17
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("spec", ["vidcom2@0.3", "vidcom2@0.3:positions=original", "holitom@0.3"])
def test_gradient_checkpointing_changes_nothing(model, spec, reentrant):
    method, batch = compressor(spec), padded_batch()
    with method(model):
        plain = model(**batch).loss
    plain.backward()
    expected = learned(model)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    runs = []
    model.model.layers[0].self_attn.register_forward_pre_hook(lambda *_: runs.append(1))
    with method(model):
        loss = model(**batch, use_cache=False).loss
        loss.backward()
    assert len(runs) == 2  # the layer ran again
    torch.testing.assert_close(loss, plain)
    for name, gradient in learned(model).items():
        torch.testing.assert_close(gradient, expected[name])


@pytest.mark.parametrize("spec", ["vidcom2@0.3", "holitom@0.3"])
def test_autocast(model, spec):
    """Tokens are chosen in full precision; what is kept trains in half."""
    method, batch = compressor(spec), padded_batch()
    with method(model), torch.autocast("cpu", torch.bfloat16):
        loss = model(**batch).loss
    loss.backward()
    with method(model):
        torch.testing.assert_close(loss, model(**batch).loss, rtol=0.05, atol=0.05)
    assert all(gradient.isfinite().all() for gradient in learned(model).values())


def in_ddp(model: Any) -> Any:
    return DistributedDataParallel(model)


@pytest.fixture
def one_process(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("first", ["wrap", "attach"])
def test_ddp(model, one_process, first):
    """Several steps: a parameter without gradient would stop the second one."""
    batch, method = padded_batch(), VidCom2(0.3)
    with method(model):
        loss = model(**batch).loss
    loss.backward()
    expected = learned(model)
    if first == "attach":
        run = method.attach(model)
        wrapped = in_ddp(model)
    else:
        wrapped = in_ddp(model)
        run = method.attach(wrapped)
    for _ in range(2):
        again = wrapped(**batch).loss
        again.backward()
        torch.testing.assert_close(again, loss)
        for name, gradient in learned(model).items():
            torch.testing.assert_close(gradient, expected[name])
    assert [record.sample for record in run.records] == [0, 1]
    assert run.used
    run.detach()
    assert wrapped(**batch).loss > 0
    assert model.visual_records[0].method == "none"


def test_ddp_with_batches_of_text(model, one_process):
    """LLaVA's training data has prompts without a video, with a dummy image: then the visual weights learn nothing."""
    wrapped, batch = in_ddp(model), padded_batch()
    ids = prompt(9, seed=3)[None]
    text = {"input_ids": ids, "labels": ids, "images": [torch.zeros(1, 3, 56, 56)], "modalities": ["text"]}
    alone = model(input_ids=ids, labels=ids).loss
    with VidCom2(0.3)(wrapped):
        for inputs in (text, batch, text):
            loss = wrapped(**inputs).loss
            loss.backward()
            gradients = learned(model)
            assert (
                gradients["model.mm_projector.0.weight"].any()
                == gradients["model.image_newline"].any()
                == (inputs is batch)
            )
    assert torch.equal(loss, alone)


def test_a_compressed_model_is_not_copied(model):
    run = VidCom2(0.3).attach(model)
    with pytest.raises(Exception, match="copied"):
        copy.deepcopy(model)
    run.detach()
    copy.deepcopy(model)


def test_methods_inside_the_llm_refuse_labels(model):
    with compressor("fastv@0.5:k=1")(model), pytest.raises(ValueError, match="labels cannot be used"):
        model(**padded_batch())


def test_a_saved_checkpoint_loads(tmp_path):
    """Its tower is a directory inside the checkpoint; the weights are in the model's own file."""
    load = partial(load_pretrained_model, device_map="cpu", torch_dtype="float32", compressor=None)
    source = make_checkpoint(tmp_path, "onevision")
    tokenizer, model, _, _ = load(str(source), None, "llava_qwen")
    model.model.mm_projector[0].weight.data.add_(1)
    for folder in (tmp_path / "saved", tmp_path / "other", source):
        model.save_pretrained(folder, is_main_process=folder.name != "other")
        tokenizer.save_pretrained(folder)
    _, again, _, _ = load(str(tmp_path / "saved"), None, "llava_qwen")
    for (name, weight), other in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(weight, other), name
    ids = torch.tensor([[5, IMAGE_TOKEN_INDEX, 7, 8]])
    inputs = {"images": [video(4)], "modalities": ["video"], "max_new_tokens": 4}
    assert model.generate(ids, **inputs).tolist() == again.generate(ids, **inputs).tolist()
    assert not (tmp_path / "other" / model.config.mm_vision_tower).exists()
