"""A model whose code its checkpoint brings along, described by a `Layout` of the user's own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from packaging.version import Version
from torch import Tensor

from tests.vidcom2.hf_tiny import randomise
from tests.vidcom2.remote_model import ClipTellerConfig, ClipTellerForConditionalGeneration
from tests.vidcom2.rows import ROPE, TEXT, VIDEO, WORDS
from tests.vidcom2.test_transformers import PRUNED, STEPS, answers, assert_close, generate
from vidcom2 import Compressor, VidCom2
from vidcom2.models.transformers import LAYOUTS, Layout

M, PATCH = 5, 6
CLIP_TELLER = Layout(
    "video_token_id",
    frames=lambda outer, video: len(video.columns) // outer.config.frame_tokens,
    lengths=lambda outer, called: (called["frames_per_video"] * outer.config.frame_tokens).tolist(),
)
Prompt = tuple[list[int], list[int]]
"""Token ids, and the frames of each video."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Saved with its code, and loaded from the folder alone."""
    folder: Path = tmp_path_factory.mktemp("clip-teller")
    config = ClipTellerConfig({**TEXT, "rope_parameters": dict(ROPE)}, VIDEO, M, PATCH)
    ours = ClipTellerForConditionalGeneration(config)
    randomise(ours)
    ours.save_pretrained(folder)
    assert (folder / "remote_model.py").exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        patch.setattr(sys, "path", [*sys.path])
        loaded = hf.AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)
    assert type(loaded) is not ClipTellerForConditionalGeneration
    assert type(loaded).__module__.startswith("transformers_modules")
    loaded.generation_config.pad_token_id = 0
    return loaded.eval()


@pytest.fixture
def described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LAYOUTS, "clip_teller", CLIP_TELLER)


def prompts() -> tuple[list[Prompt], list[Tensor]]:
    """Two videos in the first prompt, one in the second, none in the third; and their pixels [T, M, PATCH]."""
    generator = torch.Generator().manual_seed(7)
    made: list[Prompt] = []
    pixels = []
    for words, frames in ((4, [6, 3]), (2, [5]), (9, [])):
        ids: list[int] = []
        for t in frames:
            ids += [*torch.randint(1, WORDS, (words,), generator=generator).tolist(), *[VIDEO] * (t * M)]
            pixels.append(torch.randn(t, M, PATCH, generator=generator))
        made.append((ids + torch.randint(1, WORDS, (words,), generator=generator).tolist(), frames))
    return made, pixels


def inputs_of(made: list[Prompt], pixels: list[Tensor]) -> dict[str, Tensor]:
    longest = max(len(ids) for ids, _ in made)
    padded = [[0] * (longest - len(ids)) + ids for ids, _ in made]
    mask = [[0] * (longest - len(ids)) + [1] * len(ids) for ids, _ in made]
    return {
        "input_ids": torch.tensor(padded),
        "attention_mask": torch.tensor(mask),
        "pixel_values_videos": torch.cat(pixels),
        "frames_per_video": torch.tensor([t for _, frames in made for t in frames]),
    }


@torch.no_grad()
def greedy(model: Any, prompt: Prompt, pixels: list[Tensor], compressor: Compressor) -> tuple[list[int], Tensor]:
    """The answer of one prompt: no hooks, no cache, no padding, and rows that are left out of a list."""
    ids, lm = prompt[0], model.model.language_model
    rows, kept, at = list(lm.embed_tokens(torch.tensor(ids))), [True] * len(ids), 0
    for video in pixels:
        while ids[at] != VIDEO:
            at += 1
        features = model.model.projector(video)
        index = set(compressor.select(features).index.tolist())
        for i, row in enumerate(features.flatten(0, 1)):
            rows[at + i], kept[at + i] = row, i in index
        at += video.shape[0] * M
    places = [i for i, stays in enumerate(kept) if stays]
    said: list[int] = []
    logits = []
    for _ in range(STEPS):
        answer = lm.embed_tokens(torch.tensor(said, dtype=torch.long))
        positions = [*places, *range(len(ids), len(ids) + len(said))]
        if compressor.positions == "repack":
            positions = list(range(len(positions)))
        hidden = lm(
            inputs_embeds=torch.cat([torch.stack([rows[i] for i in places]), answer])[None],
            position_ids=torch.tensor([positions]),
            attention_mask=torch.ones(1, len(positions), dtype=torch.long),
            use_cache=False,
        ).last_hidden_state
        logits.append(model.lm_head(hidden[0, -1]))
        said.append(int(logits[-1].argmax()))
    return said, torch.stack(logits)


@pytest.mark.skipif(
    Version(hf.__version__) >= Version("5.24"), reason="generate() gives the cache as `cache`, which this code ignores"
)
@pytest.mark.parametrize("positions", ["original", "repack"])
def test_answers_equal_the_reference(model, described, positions):
    compressor = VidCom2(0.3, positions=positions)
    made, pixels = prompts()
    with compressor(model) as run:
        out = generate(model, inputs_of(made, pixels))
    assert [(record.sample, record.frames_before) for record in run.records] == [
        (0, (M,) * 6),
        (0, (M,) * 3),
        (1, (M,) * 5),
    ]
    assert all(record.tokens_after < record.tokens_before / 2 for record in run.records)
    own = [pixels[:2], pixels[2:], []]
    expected = [greedy(model, prompt, videos, compressor) for prompt, videos in zip(made, own, strict=True)]
    assert answers(out) == [said for said, _ in expected]
    assert_close(torch.stack(out.logits, dim=1), torch.stack([logits for _, logits in expected]))


def test_everything_kept_is_the_model_as_it_was(model, described):
    inputs = inputs_of(*prompts())
    bare = generate(model, inputs)
    with VidCom2(1)(model):
        out = generate(model, inputs)
    assert torch.equal(torch.stack(out.logits), torch.stack(bare.logits))


def test_without_a_description_it_is_refused(model):
    with pytest.raises(TypeError, match="LAYOUTS"), PRUNED(model):
        pass
