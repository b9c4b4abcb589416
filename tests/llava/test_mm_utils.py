import base64
import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from llava.constants import IMAGE_TOKEN_INDEX
from llava.mm_utils import (
    KeywordsStoppingCriteria,
    divide_to_patches,
    expand2square,
    get_anyres_image_grid_shape,
    get_model_name_from_path,
    load_image_from_base64,
    process_anyres_image,
    process_images,
    resize_and_pad_image,
    select_best_resolution,
    tokenizer_image_token,
)
from llava.model.multimodal_encoder.siglip_processor import SigLipImageProcessor
from tests.golden import load, load_json, path, requires, requires_pillow_13

SIDES = st.integers(1, 400)
GRID336 = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
GRID98 = [[98 * w, 98 * h] for w in range(1, 7) for h in range(1, 7)]


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    array = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(array).convert(mode)


def config(aspect, pinpoints=GRID98):
    return SimpleNamespace(image_aspect_ratio=aspect, image_grid_pinpoints=pinpoints)


# --- resolutions and grids ---


@requires("mm_utils/anyres_grid.json")
def test_recorded_resolutions_and_grids():
    recorded = load_json("mm_utils/anyres_grid.json")
    listed, ranged, patch = recorded["pinpoints_list"], recorded["pinpoints_string"], recorded["patch_size"]
    for row in recorded["rows"]:
        size = tuple(row["size_wh"])
        assert list(select_best_resolution(size, listed)) == row["best_resolution"]
        assert list(get_anyres_image_grid_shape(size, listed, patch)) == row["grid_list"]
        assert list(get_anyres_image_grid_shape(size, ranged, patch)) == row["grid_string"]
        assert list(get_anyres_image_grid_shape(size, str(listed), patch)) == row["grid_strlist"]
        assert list(get_anyres_image_grid_shape(size, GRID336, 336)) == row["grid_2x2_336"]


@given(size=st.tuples(SIDES, SIDES), options=st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=6))
def test_best_resolution_is_the_first_of_the_best(size, options):
    best_key, expected = None, None
    for width, height in options:
        scale = min(width / size[0], height / size[1])
        kept = min(int(size[0] * scale) * int(size[1] * scale), size[0] * size[1])
        key = (-kept, width * height - kept)
        if best_key is None or key < best_key:
            best_key, expected = key, (width, height)
    assert select_best_resolution(size, options) == expected


def test_no_resolution_is_an_error():
    with pytest.raises(ValueError, match="possible_resolutions is empty"):
        select_best_resolution((10, 10), [])


def test_a_range_of_tiles_goes_from_the_first_to_the_last_pair():
    assert get_anyres_image_grid_shape((224, 2000), "(1x1),...,(2x3)", 224) == (1, 3)
    with pytest.raises(ValueError, match=r"\(224, 336, 384, 448, 512\), got 98"):
        get_anyres_image_grid_shape((100, 100), "(1x1),...,(2x3)", 98)


@pytest.mark.parametrize("pinpoints", ["square", "[1, 2]", "[(1,", None, [[1, 2, 3]]])
def test_unreadable_pinpoints_are_an_error(pinpoints):
    with pytest.raises(ValueError, match="image_grid_pinpoints must be"):
        get_anyres_image_grid_shape((100, 100), pinpoints, 384)


# --- pieces of images ---


@requires("mm_utils/image_pieces.safetensors")
def test_recorded_image_pieces():
    recorded = {name: tensor.numpy() for name, tensor in load("mm_utils/image_pieces.safetensors").items()}
    image = Image.fromarray(recorded["image_u8"])
    for size in ((98, 98), (196, 98), (98, 196)):
        ours = np.asarray(resize_and_pad_image(image, size))
        assert np.array_equal(ours, recorded[f"resize_and_pad_{size[0]}x{size[1]}_wh"])
    grey = (127, 127, 127)
    assert np.array_equal(np.asarray(expand2square(image, grey)), recorded["expand2square_127"])
    portrait = image.transpose(Image.Transpose.ROTATE_90)
    assert np.array_equal(np.asarray(expand2square(portrait, grey)), recorded["expand2square_portrait"])
    tiles = divide_to_patches(Image.fromarray(recorded["divide_src"]), 30)
    assert np.array_equal(np.stack(tiles), recorded["divide_30"])


@given(columns=st.integers(1, 4), rows=st.integers(1, 4), side=st.integers(1, 9))
def test_tiles_make_up_the_image(columns, rows, side):
    image = picture(columns * side, rows * side)
    tiles = np.stack(divide_to_patches(image, side)).reshape(rows, columns, side, side, 3)
    assert np.array_equal(tiles.transpose(0, 2, 1, 3, 4).reshape(rows * side, columns * side, 3), image)


@given(width=st.integers(1, 40), height=st.integers(1, 40))
def test_expand2square_keeps_the_image_in_the_middle(width, height):
    image, side = picture(width, height), max(width, height)
    left, top = (side - width) // 2, (side - height) // 2
    square = np.array(expand2square(image, (1, 2, 3)))
    assert square.shape == (side, side, 3)
    assert np.array_equal(square[top : top + height, left : left + width], image)
    square[top : top + height, left : left + width] = (1, 2, 3)
    assert (square == (1, 2, 3)).all()


def test_resize_and_pad_centres_on_black():
    image = Image.new("RGB", (20, 10), (255, 255, 255))
    out = np.asarray(resize_and_pad_image(image, (40, 41)))
    assert out.shape == (41, 40, 3)
    assert (out[10:30] == 255).all()
    assert (out[:10] == 0).all()
    assert (out[30:] == 0).all()


def test_an_image_survives_base64():
    image, file = picture(7, 5), io.BytesIO()
    image.save(file, "PNG")
    assert np.array_equal(load_image_from_base64(base64.b64encode(file.getvalue())), image)


# --- process_images ---


@requires("mm_utils/process_images_98.safetensors")
@requires_pillow_13
def test_recorded_process_images():
    recorded = load("mm_utils/process_images_98.safetensors")
    a, b, c = (Image.fromarray(recorded[f"image_{name}_u8"].numpy()) for name in "abc")
    processor = SigLipImageProcessor(size=(98, 98))

    def check(ours, name):
        torch.testing.assert_close(ours[..., ::2, ::2], recorded[name], atol=1e-6, rtol=0)

    views = process_images([a, b, c], processor, config("anyres_max_9"))
    assert isinstance(views, list)
    for i, view in enumerate(views):
        check(view, f"anyres_max_9_abc.{i}")
    check(process_images([a], processor, config("anyres")), "anyres_a")
    check(process_images([a, b, c], processor, config("pad")), "pad_abc")
    check(process_images([a, b, c], processor, config("square")), "square_abc")


@requires("mm_utils/process_images_384_string_pinpoints.safetensors")
def test_recorded_process_images_with_a_range_of_tiles():
    recorded = load("mm_utils/process_images_384_string_pinpoints.safetensors")
    image = Image.fromarray(recorded["image_u8"].numpy())
    out = process_images([image], SigLipImageProcessor(), config("anyres_max_9", "(1x1),...,(6x6)"))
    torch.testing.assert_close(out[..., ::16, ::16], recorded["anyres384_stride16"], atol=1e-6, rtol=0)
    # 147456 float32 values per sum, each with a rounding error below 1e-7
    torch.testing.assert_close(out.double().sum((-2, -1)), recorded["anyres384_sum"], atol=0.015, rtol=0)


def test_an_unknown_aspect_ratio_is_plain_preprocessing():
    processor = SigLipImageProcessor(size=(98, 98))
    images = [picture(30, 50), picture(50, 20)]
    plain = processor.preprocess(images, return_tensors="pt")["pixel_values"]
    for aspect in ("square", "unknown"):
        assert torch.equal(process_images(images, processor, config(aspect)), plain)


@pytest.mark.parametrize("aspect", [None, "highres", "crop_split"])
def test_an_unsupported_aspect_ratio_is_an_error(aspect):
    with pytest.raises(ValueError, match=f"image_aspect_ratio {aspect!r} is not supported; use 'anyres'"):
        process_images([picture(9, 9)], SigLipImageProcessor(size=(98, 98)), config(aspect))


def test_anyres_without_pinpoints_is_an_error():
    with pytest.raises(ValueError, match="got None"):
        process_images([picture(9, 9)], SigLipImageProcessor(), SimpleNamespace(image_aspect_ratio="anyres"))


def test_pad_takes_images_of_any_mode():
    processor = SigLipImageProcessor(size=(98, 98))
    out = process_images([picture(30, 50, mode) for mode in ("RGB", "L", "RGBA", "P")], processor, config("pad"))
    assert out.shape == (4, 3, 98, 98)
    assert torch.equal(out[0], out[2])


@pytest.mark.parametrize("size", [(98, 98), {"shortest_edge": 98}, {"height": 98, "width": 98}])
def test_anyres_reads_every_form_of_the_processors_size(size):
    processor = SigLipImageProcessor(size=(98, 98))
    image = picture(150, 97)
    expected = process_anyres_image(image, processor, GRID98)
    like_clip = SimpleNamespace(size=size, crop_size={"height": 98, "width": 98}, preprocess=processor.preprocess)
    assert torch.equal(process_anyres_image(image, like_clip, GRID98), expected)
    assert torch.equal(expected[:1], processor.preprocess(image, return_tensors="pt")["pixel_values"])


# --- names ---


@requires("mm_utils/model_name.json")
def test_recorded_model_names():
    for checkpoint, name in load_json("mm_utils/model_name.json"):
        assert get_model_name_from_path(checkpoint) == name


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("org/llava-qwen", "llava-qwen"),
        ("run/checkpoint-5/", "run_checkpoint-5"),
        ("checkpoint-5", "checkpoint-5"),  # upstream: IndexError
    ],
)
def test_model_names(path, name):
    assert get_model_name_from_path(path) == name


# --- tokens ---


def byte_tokenizer(*merges: tuple[str, str], bos: bool = False) -> PreTrainedTokenizerFast:
    """A tokenizer with one token per byte, plus merged ones, and a BOS in front if asked for."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*alphabet, *("".join(merge) for merge in merges), "<s>", "<|im_end|>"]
    tokenizer = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="<|im_end|>")


PLAIN, WITH_BOS = byte_tokenizer(), byte_tokenizer(bos=True)


@requires("mm_utils/tokenizer_image_token.json")
def test_recorded_image_tokens():
    recorded = load_json("mm_utils/tokenizer_image_token.json")
    qwen = AutoTokenizer.from_pretrained(path(recorded["qwen_tokenizer"]))
    with_bos = AutoTokenizer.from_pretrained(path(recorded["bos_tokenizer"]))
    for row in recorded["rows"]:
        assert tokenizer_image_token(row["prompt"], qwen) == row["qwen_like_no_bos"]
        assert tokenizer_image_token(row["prompt"], with_bos) == row["llama_like_with_bos"]
        assert tokenizer_image_token(row["prompt"], qwen, -201) == row["qwen_custom_index_-201"]


@given(pieces=st.lists(st.text("ab \n<é", max_size=5), min_size=1, max_size=5), bos=st.booleans())
def test_image_tokens_stand_between_the_pieces(pieces, bos):
    expected = [WITH_BOS.bos_token_id] if bos else []
    for i, piece in enumerate(pieces):
        expected += [IMAGE_TOKEN_INDEX] * (i > 0) + PLAIN(piece, add_special_tokens=False).input_ids
    assert tokenizer_image_token("<image>".join(pieces), WITH_BOS if bos else PLAIN) == expected


def test_image_tokens_as_a_tensor():
    out = tokenizer_image_token("a<image>", PLAIN, return_tensors="pt")
    assert out.dtype == torch.int64
    assert out.tolist() == tokenizer_image_token("a<image>", PLAIN)
    assert tokenizer_image_token("", PLAIN, return_tensors="pt").shape == (0,)
    with pytest.raises(ValueError, match="'np'"):
        tokenizer_image_token("a", PLAIN, return_tensors="np")


# --- stopping ---


def ids(text: str, tokenizer=PLAIN) -> list[int]:
    return tokenizer(text, add_special_tokens=False).input_ids


def stops(keywords, prompt, rows, tokenizer=PLAIN) -> list[bool]:
    criterion = KeywordsStoppingCriteria(keywords, tokenizer, torch.tensor([prompt]))
    out = criterion(torch.tensor(rows), None)
    assert out.dtype == torch.bool
    assert out.shape == (len(rows),)
    return out.tolist()


PROMPT = [*ids("say ###"), IMAGE_TOKEN_INDEX]


@pytest.mark.parametrize("before", [PROMPT, []], ids=["with the prompt", "new tokens only"])
@pytest.mark.parametrize("tokenizer", [PLAIN, WITH_BOS], ids=["plain", "bos"])
@pytest.mark.parametrize(
    ("text", "done"),
    [("abc", False), ("ab##", False), ("ab###", True), ("###", True), ("ab<|im_end|>", True)],
)
def test_each_sequence_stops_at_a_keyword(before, tokenizer, text, done):
    assert stops(["###", "<|im_end|>"], PROMPT, [before + ids(text)], tokenizer) == [done]


def test_the_prompts_own_text_does_not_stop():
    prompt = ids("say ###")
    assert stops(["###"], prompt, [prompt]) == [False]
    assert stops(["###"], prompt, [[*prompt, *ids("a")]]) == [False]


def test_more_new_tokens_than_the_prompt_has():
    assert stops(["###"], ids("hi"), [ids("a long answer")]) == [False]
    assert stops(["###"], ids("hi"), [ids("a long answer###")]) == [True]


def test_sequences_stop_one_by_one_and_beams_share_a_prompt():
    rows = [PROMPT + ids(text) for text in ("ab###", "abcde", "x ###")]
    assert stops(["###"], PROMPT, rows) == [True, False, True]


def test_a_keyword_spelt_with_other_tokens_than_its_own():
    merged = byte_tokenizer(("#", "#"), ("##", "#"), ("#", "!"))
    hash_id, hash_bang = merged.convert_tokens_to_ids(["#", "#!"])
    assert len(ids("###", merged)) == 1
    assert stops(["###"], [0], [[5, hash_id, hash_id, hash_id]], merged) == [True]
    assert stops(["###"], [0], [[5, hash_id, hash_id, hash_bang]], merged) == [True]
    assert stops(["###"], [0], [[5, 5, hash_id, hash_bang]], merged) == [False]


def test_a_keyword_of_several_bytes_per_letter():
    assert stops(["停"], [0], [ids("ab停")]) == [True]
    assert stops(["停"], [0], [ids("ab停")[:-1]]) == [False]


def test_an_empty_keyword_never_stops():
    assert stops([""], PROMPT, [ids("abc")]) == [False]
    assert stops(["", "c"], PROMPT, [ids("abc")]) == [True]


def test_generate_takes_the_criterion():
    torch.manual_seed(0)
    tiny = LlamaConfig(
        vocab_size=len(PLAIN),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        eos_token_id=None,
        bos_token_id=None,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(tiny).eval()
    prompt = torch.tensor([ids("abc")])
    inputs = {"max_new_tokens": 8, "do_sample": False, "attention_mask": torch.ones_like(prompt)}
    free = model.generate(prompt, **inputs)[0, 3:].tolist()
    # A stray byte decodes to a replacement character like any other; a letter is itself.
    stop = next(i for i, token in enumerate(free) if PLAIN.decode([token]).isascii())
    keyword = PLAIN.decode([free[stop]])
    criteria = [KeywordsStoppingCriteria([keyword], PLAIN, prompt)]
    from_ids = model.generate(prompt, stopping_criteria=criteria, **inputs)[0, 3:].tolist()
    embeds = model.get_input_embeddings()(prompt)
    from_embeds = model.generate(inputs_embeds=embeds, stopping_criteria=criteria, **inputs)[0].tolist()
    assert from_ids == from_embeds == free[: stop + 1]
