"""SmolVLM2 beside the matrix of tests/vidcom2/test_kinds.py: its processor, what is no video, and methods inside the
LLM."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf
from packaging.version import Version

from tests.vidcom2.hf_tiny import batch, image, prompt, randomise, text, tiny
from tests.vidcom2.kinds.smolvlm import SIDE, M, config, stamp
from tests.vidcom2.processed import assert_finds_the_frames, byte_tokenizer, frames_of, metadata
from tests.vidcom2.rows import COLON, END, FRAME, IMAGE, NEWLINE, PATCH, START, Row, pixels
from tests.vidcom2.test_in_llm import Native, greedy
from tests.vidcom2.test_in_llm import assert_follows as assert_follows_inside
from tests.vidcom2.test_in_llm import generate as generate_inside
from tests.vidcom2.test_transformers import PRUNED, generate
from vidcom2 import compressor

KIND = "smolvlm"
SPECIAL = ["<pad>", "<image>", "<video>", "<fake_token_around_image>", "<global-img>"]
SPECIAL += [f"<row_{row + 1}_col_{col + 1}>" for row in range(2) for col in range(2)]


flat_videos = pytest.mark.skipif(
    Version(hf.__version__) < Version("5.23"), reason="the older processor refuses one flat list of all prompts' videos"
)


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Its introduction to a video spells the number of frames by num2words, which need not be installed."""
    module = hf.models.smolvlm.processing_smolvlm
    if module.num2words is None:
        monkeypatch.setattr(module, "num2words", lambda number: "some " * (number // 3) + "more")
    side = {"longest_edge": PATCH * SIDE}
    images = hf.SmolVLMImageProcessor(size={"longest_edge": 2 * PATCH * SIDE}, max_image_size=side)
    videos = hf.SmolVLMVideoProcessor(size=side, max_image_size=side)
    return hf.SmolVLMProcessor(images, byte_tokenizer(SPECIAL), videos, image_seq_len=M)


@pytest.fixture
def model(processor: Any) -> Any:
    """A tiny model with the processor's token ids."""
    settings = config(layers=2)
    settings.text_config.vocab_size = len(processor.tokenizer)
    settings.image_token_id = processor.image_token_id
    model = hf.SmolVLMForConditionalGeneration(settings)
    randomise(model)
    return model.eval()


def processed(processor: Any, texts: list[str], counts: list[int], fps: float = 2.0, **settings: Any) -> Any:
    videos = [frames_of(count, 24, 24, seed=count) for count in counts]
    given = {"video_metadata": [metadata(count, fps) for count in counts], "do_sample_frames": False}
    return processor(text=texts, videos=videos, padding=True, return_tensors="pt", **given, **settings)


def assert_finds(model: Any, inputs: Any, counts: list[int]) -> None:
    """The videos' frames are those of the encoder, in order."""
    with torch.no_grad():
        out = model.model.get_image_features(inputs["pixel_values"], inputs["pixel_attention_mask"], return_dict=True)
    features = torch.cat([part.reshape(-1, part.shape[-1]) for part in out.pooler_output])
    frames = features.view(sum(counts), M, -1).split(counts)
    assert_finds_the_frames(model, inputs, [list(own) for own in frames])
    with PRUNED(model) as run:
        generate(model, inputs, max_new_tokens=1)
    assert [record.frames_before for record in run.records] == [(M,) * count for count in counts]


@flat_videos
@pytest.mark.parametrize("counts", [[4, 4, 4], [5, 2, 3], [1, 1, 1], [1, 3, 2]])
def test_the_processors_frames_are_found(processor, model, counts):
    """Two videos in one prompt and one in another. The processor pads short videos with black frames."""
    inputs = processed(processor, ["a <video>and <video> differ?", "This is <video>: what happens here?"], counts)
    assert inputs["pixel_values"].shape[:2] == (3, max(counts))
    assert_finds(model, inputs, counts)


@flat_videos
def test_neighbouring_videos_and_long_ones(processor, model):
    """Two videos with no text of the user's between; one that reaches over 100 minutes; two frames a second."""
    assert_finds(model, processed(processor, ["User: <video><video>?"], [3, 3]), [3, 3])
    assert_finds(model, processed(processor, ["User: <video><video>?"], [1, 1]), [1, 1])
    inputs = processed(processor, ["User: <video>?"], [5], fps=1 / 1900)
    assert "Frame from 95:00:" in (said := processor.tokenizer.decode(inputs["input_ids"][0]))
    assert "Frame from 126:40:" in said
    assert_finds(model, inputs, [5])


def test_images_of_the_processor_stay(processor, model):
    inputs = processor(
        text=["<image> and <image>?"],
        images=[[frames_of(1, 40, 40, seed=seed)[0] for seed in range(2)]],
        padding=True,
        return_tensors="pt",
    )
    assert inputs["pixel_values"].shape[1] == 10  # four tiles and the whole, twice
    bare = generate(model, inputs)
    with PRUNED(model) as run, pytest.warns(RuntimeWarning, match="2 images and no video"):
        out = generate(model, inputs)
    assert run.records == []
    assert torch.equal(out.sequences, bare.sequences)


LABELS = {
    "bare": [[], [NEWLINE], [NEWLINE]],
    "numbered": [[FRAME, number, COLON] for number in stamp(62)[:2]],
    "no colon": [[FRAME, *stamp(i)[:-1]] for i in range(3)],
    "words": [[FRAME, 5, 40, COLON, 7, 8, COLON]] * 2,
    "colons": [[FRAME, *[COLON] * 6]] * 2,
}


@pytest.mark.parametrize("labels", LABELS)
def test_images_without_stamps_are_no_video(labels):
    ids = [3, 4]
    for label in LABELS[labels]:
        ids += [*label, END, START, *[IMAGE] * M, END]
    count, generator = len(LABELS[labels]), torch.Generator().manual_seed(0)
    values = pixels(count, 1, 3, PATCH * SIDE, PATCH * SIDE, generator=generator)
    model, inputs = tiny(KIND), batch([Row(KIND, [*ids, 11, 12], [], {"pixel_values": values})])
    with PRUNED(model) as run, pytest.warns(RuntimeWarning, match=f"{count} images and no video"):
        generate(model, inputs, max_new_tokens=1)
    assert run.records == []


def test_a_prompt_may_end_in_an_image():
    row = prompt(KIND, text(3), image())
    model, inputs = tiny(KIND), batch([Row(KIND, row.ids[:-1], [], row.media)])
    with PRUNED(model) as run:
        generate(model, inputs, max_new_tokens=1)
    assert run.records == []


@pytest.mark.parametrize("spec", ["fastv@0.5", "pdrop@0.4", "sparsevlm@0.5"])
def test_inside_the_llm(spec):
    method, native = compressor(spec), Native(KIND)
    call = native.call("two")
    with method(native.model):
        out = generate_inside(native.model, call.inputs)
    assert_follows_inside(out, [greedy(native, dense, method) for dense in call.prompts])
