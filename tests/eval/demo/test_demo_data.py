"""The tests' own checkpoint and benchmark: their layout, that they are reproducible, and that the answers are right."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import unicodedata
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer, SiglipVisionModel

from eval.benchmarks.mvbench import MVBENCH_FOLDERS
from tests.fixtures.checkpoint import Family, make_checkpoint
from tests.fixtures.mvbench import COLOURS, FPS, make_mvbench

FAMILIES: tuple[Family, ...] = ("onevision", "video")


def digests(root: Path) -> dict[str, str]:
    return {
        str(file.relative_to(root)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(root.rglob("*"))
        if file.is_file()
    }


def llava_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors by the index, each from the shard the index names."""
    weight_map = json.loads((path / "model.safetensors.index.json").read_text())["weight_map"]
    shards = {file: load_file(path / file) for file in sorted(set(weight_map.values()))}
    assert sum(map(len, shards.values())) == len(weight_map)
    return {name: shards[file][name] for name, file in weight_map.items()}


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"), request.param)


# ------------------------------------------------------------------------------------------------- checkpoint


def tower_table(
    prefix: str, layers: int, hidden: int, intermediate: int, patch: int, patches: int
) -> dict[str, tuple[int, ...]]:
    vision = f"{prefix}vision_model"
    table = {
        f"{vision}.embeddings.patch_embedding.weight": (hidden, 3, patch, patch),
        f"{vision}.embeddings.patch_embedding.bias": (hidden,),
        f"{vision}.embeddings.position_embedding.weight": (patches, hidden),
        f"{vision}.post_layernorm.weight": (hidden,),
        f"{vision}.post_layernorm.bias": (hidden,),
    }
    for j in range(layers):
        for name, shape in {
            **{f"layer_norm{k}.{p}": (hidden,) for k in (1, 2) for p in ("weight", "bias")},
            **{f"self_attn.{p}_proj.weight": (hidden, hidden) for p in ("q", "k", "v", "out")},
            **{f"self_attn.{p}_proj.bias": (hidden,) for p in ("q", "k", "v", "out")},
            "mlp.fc1.weight": (intermediate, hidden),
            "mlp.fc1.bias": (intermediate,),
            "mlp.fc2.weight": (hidden, intermediate),
            "mlp.fc2.bias": (hidden,),
        }.items():
            table[f"{vision}.encoder.layers.{j}.{name}"] = shape
    return table


def test_llava_keys_and_shapes_are_upstreams(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    tower = json.loads((checkpoint / "vision_tower" / "config.json").read_text())
    h, i, v = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    kv = h // config["num_attention_heads"] * config["num_key_value_heads"]
    table = {
        "model.embed_tokens.weight": (v, h),
        "model.norm.weight": (h,),
        "lm_head.weight": (v, h),
        "model.image_newline": (h,),
        "model.mm_projector.0.weight": (h, config["mm_hidden_size"]),
        "model.mm_projector.0.bias": (h,),
        "model.mm_projector.2.weight": (h, h),
        "model.mm_projector.2.bias": (h,),
        **tower_table(
            "model.vision_tower.vision_tower.",
            tower["num_hidden_layers"] - 1,
            tower["hidden_size"],
            tower["intermediate_size"],
            tower["patch_size"],
            (tower["image_size"] // tower["patch_size"]) ** 2,
        ),
    }
    for layer in range(config["num_hidden_layers"]):
        for name, shape in {
            "input_layernorm.weight": (h,),
            "post_attention_layernorm.weight": (h,),
            "self_attn.q_proj.weight": (h, h),
            "self_attn.q_proj.bias": (h,),
            "self_attn.k_proj.weight": (kv, h),
            "self_attn.k_proj.bias": (kv,),
            "self_attn.v_proj.weight": (kv, h),
            "self_attn.v_proj.bias": (kv,),
            "self_attn.o_proj.weight": (h, h),
            "mlp.gate_proj.weight": (i, h),
            "mlp.up_proj.weight": (i, h),
            "mlp.down_proj.weight": (h, i),
        }.items():
            table[f"model.layers.{layer}.{name}"] = shape
    tensors = llava_tensors(checkpoint)
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == table
    assert config["mm_hidden_size"] == tower["hidden_size"]

    size = json.loads((checkpoint / "model.safetensors.index.json").read_text())["metadata"]["total_size"]
    assert size == sum(tensor.nbytes for tensor in tensors.values())


def test_the_families_differ_where_the_releases_do(tmp_path: Path) -> None:
    configs = {}
    for family in FAMILIES:
        path = make_checkpoint(tmp_path, family)
        assert path.name == f"llava-{family}-tiny-qwen2"
        configs[family] = json.loads((path / "config.json").read_text())
    differing = {key for key in configs["video"] if configs["video"][key] != configs["onevision"].get(key)}
    assert differing == {
        "model_type",
        "mm_newline_position",
        "mm_spatial_pool_mode",
        "mm_spatial_pool_stride",
        "add_faster_video",
    }
    assert configs["onevision"]["model_type"] == "llava"
    assert configs["video"]["mm_newline_position"] == "grid"


def test_the_tower_loads_in_transformers_and_is_sane(checkpoint: Path) -> None:
    tower = json.loads((checkpoint / "config.json").read_text())["mm_vision_tower"]
    assert not Path(tower).is_absolute()
    loaded: Any = SiglipVisionModel.from_pretrained(str(checkpoint / tower), output_loading_info=True)
    model, report = loaded
    assert not any(report.values()), report
    pixels = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        states = model(pixels, output_hidden_states=True).hidden_states
    assert len(states) == 4
    assert all(0.3 < state.std() < 5 for state in states)


def test_the_llava_files_tower_is_not_the_base_tower(checkpoint: Path) -> None:
    own, base = llava_tensors(checkpoint), load_file(checkpoint / "vision_tower" / "model.safetensors")
    for name, tensor in base.items():
        inner = own.get(f"model.vision_tower.vision_tower.{name}")
        assert (inner is None) == (".layers.2." in name)
        assert inner is None or not torch.equal(inner, tensor)


def test_weights_are_finite_and_of_their_fan_in(checkpoint: Path) -> None:
    for name, tensor in llava_tensors(checkpoint).items():
        assert tensor.dtype == torch.float32
        assert tensor.isfinite().all()
        if name == "lm_head.weight":
            assert tensor.abs().sum(1).count_nonzero() == 4, "it can say A, B, C and D"
        elif tensor.ndim > 1:
            assert tensor.std().item() == pytest.approx(tensor[0].numel() ** -0.5, rel=0.1), name
        elif "norm" in name and name.endswith("weight"):
            assert tensor.mean().item() == pytest.approx(1, abs=0.1), name
        else:
            assert tensor.abs().max() < 0.2, name


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    first, again, other = (make_checkpoint(tmp_path / str(k), "video", seed=seed) for k, seed in enumerate((3, 3, 4)))
    assert digests(first) == digests(again)
    changed = {file for file, digest in digests(other).items() if digest != digests(first)[file]}
    assert changed == {file for file in digests(first) if file.endswith(".safetensors")}


@pytest.mark.parametrize("shards", [1, 3])
def test_shards_and_dtype(shards: int, tmp_path: Path) -> None:
    reference = llava_tensors(make_checkpoint(tmp_path / "two", "onevision"))
    path = make_checkpoint(tmp_path / "other", "onevision", shards=shards, dtype=torch.float16)
    files = sorted(path.glob("*.safetensors"))
    assert [file.name for file in files] == [f"model-{i:05d}-of-{shards:05d}.safetensors" for i in range(1, shards + 1)]
    with safe_open(files[0], "pt") as file:
        assert file.metadata() == {"format": "pt"}
    tensors = llava_tensors(path)
    assert tensors.keys() == reference.keys()
    assert all(torch.equal(tensors[name], reference[name].half()) for name in reference)
    assert json.loads((path / "config.json").read_text())["torch_dtype"] == "float16"


def test_impossible_checkpoints_leave_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="family must be"):
        make_checkpoint(tmp_path, "next")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="shards must be between"):
        make_checkpoint(tmp_path, "video", shards=0)
    assert not list(tmp_path.iterdir())
    make_checkpoint(tmp_path, "video")
    with pytest.raises(FileExistsError):
        make_checkpoint(tmp_path, "video")


# -------------------------------------------------------------------------------------------------- tokenizer


@pytest.fixture(scope="module")
def tokenizer(checkpoint: Path) -> Any:
    return AutoTokenizer.from_pretrained(str(checkpoint), local_files_only=True)


def round_trip(tokenizer: Any, text: str) -> str:
    return tokenizer.decode(tokenizer(text).input_ids)


def test_special_tokens_are_qwen2s(tokenizer: Any, checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    assert tokenizer.is_fast
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert tokenizer.eos_token_id == config["eos_token_id"] == 258
    assert tokenizer.pad_token_id == config["bos_token_id"] == 256
    assert tokenizer.convert_tokens_to_ids("<|im_start|>") == 257
    assert tokenizer.padding_side == "right"
    assert len(tokenizer) == 259 < config["vocab_size"]
    # No token is put in front or behind, and the special ones are not split.
    assert tokenizer("<|im_start|>a<|im_end|>").input_ids == [257, tokenizer.convert_tokens_to_ids("a"), 258]
    assert tokenizer.decode([257, *tokenizer("a").input_ids, 258], skip_special_tokens=True) == "a"


@pytest.mark.parametrize(
    "text",
    ["", " ", "a", "  two  spaces \n\n\ttabs\r\n", "it's 1234", "e\u0301 \u212b", "视频 🎬👩‍👩‍👧", "\x00\x7f\ufffd"],
)
def test_text_comes_back(text: str, tokenizer: Any) -> None:
    assert round_trip(tokenizer, text) == unicodedata.normalize("NFC", text)


def test_a_prompt_comes_back(tokenizer: Any) -> None:
    prompt = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n"
    assert round_trip(tokenizer, prompt) == prompt


def test_any_text_comes_back(tokenizer: Any) -> None:
    # Not marks: Python's and the tokenizer's editions of Unicode may combine the newest ones differently.
    characters = st.characters(exclude_categories=["Cs", "Cn", "Mn", "Mc", "Me"])

    @given(st.text(characters))
    def comes_back(text: str) -> None:
        assert round_trip(tokenizer, text) == unicodedata.normalize("NFC", text)

    comes_back()


# -------------------------------------------------------------------------------------------------- benchmark


@pytest.fixture(scope="module")
def mvbench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_mvbench(tmp_path_factory.mktemp("mvbench"))


def documents(root: Path) -> list[tuple[str, dict[str, Any]]]:
    return [(file.stem, doc) for file in sorted((root / "json").iterdir()) for doc in json.loads(file.read_text())]


def decode(root: Path, task: str, doc: dict[str, Any]) -> np.ndarray:
    with av.open(str(root / "video" / MVBENCH_FOLDERS[task] / doc["video"])) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt, stream.average_rate) == (
            "h264",
            "yuv420p",
            FPS,
        )
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(frames)


def test_folders_are_lmms_evals() -> None:
    package = importlib.util.find_spec("lmms_eval")
    if package is None or package.origin is None:
        pytest.skip("lmms-eval is not installed")
    # Parsed, not imported: importing its tasks takes 20 s.
    source = (Path(package.origin).parent / "tasks" / "mvbench" / "utils.py").read_text()
    literals = [
        ast.literal_eval(node.value)
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["DATA_LIST"]
    ]
    assert literals == [MVBENCH_FOLDERS]


def test_all_twenty_tasks_in_the_hubs_layout(mvbench: Path) -> None:
    assert {file.name for file in (mvbench / "json").iterdir()} == {f"{task}.json" for task in MVBENCH_FOLDERS}
    docs = documents(mvbench)
    assert len(docs) == 40
    for task, doc in docs:
        assert set(doc) == {"video", "question", "candidates", "answer"}
        assert doc["answer"] in doc["candidates"]
        assert len(set(doc["candidates"])) == len(doc["candidates"]) in (3, 4)
        assert (mvbench / "video" / MVBENCH_FOLDERS[task] / doc["video"]).is_file()
    videos = [file for file in (mvbench / "video").rglob("*") if file.is_file()]
    assert len(videos) == len({(MVBENCH_FOLDERS[task], doc["video"]) for task, doc in docs}) == 40
    # Neither a letter nor a question gives the answer away.
    assert {doc["candidates"].index(doc["answer"]) for _, doc in docs} == {0, 1, 2, 3}
    assert len({doc["question"] for _, doc in docs}) == 4


def test_videos_differ_in_size_and_length(mvbench: Path) -> None:
    shapes = {decode(mvbench, task, doc).shape for task, doc in documents(mvbench)}
    assert len({shape[1:3] for shape in shapes}) == 4
    assert all(2 * FPS <= shape[0] <= 5 * FPS for shape in shapes)
    assert len({shape[0] for shape in shapes}) > 10


def colour_map(frame: np.ndarray) -> np.ndarray:
    """[H, W, 3] -> [H, W] number of the nearest colour."""
    palette = np.array(list(COLOURS.values()))
    return np.linalg.norm(frame[:, :, None].astype(float) - palette, axis=-1).argmin(-1)


def watch(frames: np.ndarray) -> dict[str, str]:
    """The answer to every question, read off the pixels of a video alone."""
    first, last = colour_map(frames[0]), colour_map(frames[-1])
    side = frames.shape[1] // 4
    names, area = list(COLOURS), {}
    for number, name in enumerate(names):
        if 0.5 < (last == number).sum() / side**2 < 1.5:
            area[name] = [np.argwhere(picture == number) for picture in (first, last)]
    centre = {name: [places.mean(0) for places in pair] for name, pair in area.items()}
    (mover,) = (name for name, (start, end) in centre.items() if np.abs(end - start).max() > side)
    down, right = centre[mover][1] - centre[mover][0]
    if abs(down) > abs(right):
        direction = "down" if down > 0 else "up"
    else:
        direction = "right" if right > 0 else "left"
    return {
        "Which colour is the square that moves?": mover,
        "In which direction does the square move?": direction,
        "Which colour does the background change to?": names[np.bincount(last.ravel()).argmax()],
        "How many squares stand still?": str(len(area) - 1),
    }


def test_the_videos_answer_the_questions(mvbench: Path) -> None:
    for task, doc in documents(mvbench):
        assert watch(decode(mvbench, task, doc))[doc["question"]] == doc["answer"], (task, doc)


def test_the_same_seed_gives_the_same_files(mvbench: Path, tmp_path: Path) -> None:
    assert digests(make_mvbench(tmp_path / "again")) == digests(mvbench)


def test_a_subset_has_the_files_of_the_full_set(mvbench: Path, tmp_path: Path) -> None:
    few = digests(make_mvbench(tmp_path / "few", ["state_change", "action_count"]))
    assert len(few) == 6
    assert few.items() <= digests(mvbench).items()
    other = digests(make_mvbench(tmp_path / "other", ["state_change"], seed=1))
    assert all(few[file] != digest for file, digest in other.items())


def test_number_of_questions_per_task(tmp_path: Path) -> None:
    make_mvbench(tmp_path, ["egocentric_navigation"], per_task=3)
    assert len(documents(tmp_path)) == 3


def test_unknown_tasks(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\['juggling'\]"):
        make_mvbench(tmp_path, ["state_change", "juggling"])
    assert not list(tmp_path.iterdir())
