"""The named steps from pixels and ids to LLM rows, each against a tiny expectation written by hand."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from llava.constants import IMAGE_TOKEN_INDEX
from llava.model.llava_arch import LlavaMetaForCausalLM
from llava.model.splice import pad_rows, splice
from llava.model.visual_inputs import used_inputs, visual_inputs
from llava.model.visual_layout import (
    VisualRows,
    arrange_image,
    arrange_video,
    kept_rows,
    limit_map,
    tile_map,
    unpad_image,
    video_layout,
    video_newlines,
)
from tests.golden import load_json
from tests.llava.tiny import SIZE, VOCAB, prompt, tiny_model, video
from vidcom2 import Compressor, Kept, VidCom2

N = -1  # a newline


@pytest.fixture
def model(tmp_path) -> Any:
    return tiny_model(tmp_path, mm_newline_position="grid")


def settings(**config: Any) -> SimpleNamespace:
    return SimpleNamespace(**config)


def column(*values: float) -> Tensor:
    """Rows [n, 1] that are recognised by their only number."""
    return torch.tensor(values, dtype=torch.float32)[:, None]


# ---- videos


@pytest.mark.parametrize(
    ("newlines", "expected"),
    [
        ("grid", [0, 1, N, 2, 3, N, 4, 5, N, 6, 7, N]),
        ("frame", [0, 1, 2, 3, N, 4, 5, 6, 7, N]),
        ("one_token", [0, 1, 2, 3, 4, 5, 6, 7, N]),
        ("none", [0, 1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_video_layout(newlines, expected):
    assert video_layout(2, 2, 2, newlines).tolist() == expected


@pytest.mark.parametrize(
    ("kept", "newlines", "style", "expected"),
    [
        # rows of the layout 0 1 N 2 3 N | 4 5 N 6 7 N
        ([0, 3, 6], "grid", "released", [0, 4, 2, 5, 9, 8, 11]),
        ([0, 3, 6], "grid", "rows", [0, 2, 4, 5, 9, 11]),
        ([2, 3], "grid", "rows", [3, 4, 5]),
        (list(range(8)), "grid", "released", list(range(12))),  # where all stays nothing moves
        (list(range(8)), "grid", "rows", list(range(12))),
        ([1, 4], "frame", "released", [1, 4, 5, 9]),
        ([1, 4], "one_token", "rows", [1, 4, 8]),
        ([1, 4], "none", "released", [1, 4]),
    ],
)
def test_kept_rows(kept, newlines, style, expected):
    layout = video_layout(2, 2, 2, newlines)
    assert kept_rows(layout, torch.tensor(kept), 2, newlines, style, 4).tolist() == expected


def test_arrange_video():
    features = column(*range(8)).view(2, 4, 1)
    newline = torch.tensor([99.0])
    whole = arrange_video(features, newline, "frame", None, "released")
    assert whole.rows.flatten().tolist() == [0, 1, 2, 3, 99, 4, 5, 6, 7, 99]
    assert (whole.offset.tolist(), whole.length) == (list(range(10)), 10)
    assert (whole.frames, whole.separators) == (((4, 4), (4, 4)), (2, 2))

    kept = Kept(torch.tensor([0, 3, 6]), torch.tensor([2, 1]))
    some = arrange_video(features, newline, "grid", kept, "rows")
    assert some.rows.flatten().tolist() == [0, 99, 3, 99, 6, 99]
    assert (some.offset.tolist(), some.length) == ([0, 2, 4, 5, 9, 11], 12)
    assert (some.frames, some.separators) == (((4, 2), (4, 1)), (4, 3))
    assert (whole.frame.tolist(), some.frame.tolist()) == ([0] * 4 + [-1] + [1] * 4 + [-1], [0, -1, 0, -1, 1, -1])

    bare = arrange_video(features, None, "none", kept, "released")
    assert bare.rows.flatten().tolist() == [0, 3, 6]
    with pytest.raises(ValueError, match="no square grid"):
        arrange_video(column(*range(6)).view(2, 3, 1), newline, "frame", None, "released")


@pytest.mark.parametrize("style", ["released", "rows"])
def test_merged_tokens_take_the_rows_of_their_index(style):
    features = column(*range(8)).view(2, 4, 1)
    kept = Kept(torch.tensor([1, 2, 7]), torch.tensor([2, 1]), features=column(10, 20, 70))
    out = arrange_video(features, torch.tensor([99.0]), "grid", kept, style)
    assert out.rows.flatten().tolist() == (
        [10, 20, 99, 99, 70, 99, 99] if style == "released" else [10, 99, 20, 99, 70, 99]
    )
    assert features.flatten().tolist() == list(range(8))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, "none"),
        ({"mm_patch_merge_type": "flat", "mm_newline_position": "whatever"}, "none"),
        ({"mm_patch_merge_type": "spatial_unpad"}, "one_token"),
        ({"mm_patch_merge_type": "spatial_unpad", "mm_newline_position": "grid"}, "grid"),
        ({"mm_patch_merge_type": "spatial_unpad", "mm_newline_position": "frame"}, "frame"),
        ({"mm_patch_merge_type": "spatial_unpad", "mm_newline_position": "no_token"}, "none"),
        ({"mm_patch_merge_type": "spatial"}, "none"),
    ],
)
def test_video_newlines(config, expected):
    assert video_newlines(settings(**config)) == expected


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"mm_patch_merge_type": "pyramid"}, "mm_patch_merge_type='pyramid' is unknown"),
        (
            {"mm_patch_merge_type": "spatial_unpad", "mm_newline_position": "row"},
            "mm_newline_position='row' is unknown",
        ),
        ({"mm_patch_merge_type": "spatial", "mm_newline_position": "grid"}, "needs newlines"),
        ({"mm_patch_merge_type": "spatial", "mm_newline_position": "frame"}, "needs newlines"),
        ({"mm_patch_merge_type": "spatial_unpad", "add_faster_video": True}, "add_faster_video"),
    ],
)
def test_video_newlines_that_cannot_be(config, message):
    with pytest.raises(ValueError, match=message):
        video_newlines(settings(**config))


# ---- images


def test_tile_map():
    # three columns, two rows of 2x2 tiles: tile t holds 10 t + (0 1 / 2 3)
    tiles = torch.stack([column(10 * t, 10 * t + 1, 10 * t + 2, 10 * t + 3) for t in range(6)])
    assert tile_map(tiles, (3, 2)).tolist() == [
        [
            [0, 1, 10, 11, 20, 21],
            [2, 3, 12, 13, 22, 23],
            [30, 31, 40, 41, 50, 51],
            [32, 33, 42, 43, 52, 53],
        ]
    ]


def test_unpad_image():
    tensor = torch.arange(16.0).view(1, 4, 4)
    assert unpad_image(tensor, (200, 100)).tolist() == tensor[:, 1:3].tolist()
    assert unpad_image(tensor, (100, 200)).tolist() == tensor[:, :, 1:3].tolist()
    assert unpad_image(tensor, (7, 7)).tolist() == tensor.tolist()


def test_recorded_unpad():
    for entry in load_json("mm_utils/unpad.json"):
        height, width = entry["token_grid_hw"]
        out = unpad_image(torch.arange(height * width).view(1, height, width), tuple(entry["original_wh"]))
        assert list(out.shape[1:]) == entry["out_hw"]
        assert (int(out.flatten()[0]), int(out.flatten()[-1])) == (entry["first"], entry["last"])


def test_limit_map():
    tensor = torch.arange(64.0).view(1, 8, 8)
    assert limit_map(tensor, 64) is tensor
    assert limit_map(tensor, 53) is tensor  # sqrt(64 / 53) is 1.0989
    assert limit_map(tensor, 52).shape == (1, 7, 7)
    halved = limit_map(tensor, 16)
    assert halved.tolist() == [tensor[0].unfold(0, 2, 2).unfold(1, 2, 2).mean((-1, -2)).tolist()]


BASE = column(1, 2, 3, 4)
TILES = torch.stack([BASE, *(10 * t + BASE for t in range(1, 5))])  # base, then 2x2 tiles of 2x2
MAP = [[11, 12, 21, 22], [13, 14, 23, 24], [31, 32, 41, 42], [33, 34, 43, 44]]
FLAT_MAP = [cell for row in MAP for cell in row]
LINED_MAP = [cell for row in MAP for cell in [*row, 99]]


@pytest.mark.parametrize(
    ("merge", "views", "size", "expected", "separators"),
    [
        ("flat", TILES, None, TILES.flatten().tolist(), 0),
        ("spatial", TILES[:1], None, [1, 2, 3, 4], 0),
        ("spatial_unpad", TILES[:1], None, [1, 2, 3, 4, 99], 1),
        ("spatial", TILES, (20, 20), [1, 2, 3, 4, *FLAT_MAP], 0),
        ("spatial_nobase", TILES, (20, 20), FLAT_MAP, 0),
        ("spatial_unpad", TILES, (20, 20), [1, 2, 3, 4, *LINED_MAP], 4),
        ("spatial_unpad", TILES, (20, 10), [1, 2, 3, 4, *LINED_MAP[5:15]], 2),
        ("spatial_unpad_nobase", TILES, (20, 10), LINED_MAP[5:15], 2),
        ("spatial_maxpool2x2", TILES, (20, 20), [1, 2, 3, 4, 14, 24, 34, 44], 0),
        ("spatial_unpad_maxpool2x2", TILES, (20, 20), [1, 2, 3, 4, 14, 24, 34, 44], 0),
    ],
)
@pytest.mark.parametrize("aspect", [{}, {"image_aspect_ratio": "anyres", "image_grid_pinpoints": [[20, 20]]}])
def test_arrange_image(merge, views, size, expected, separators, aspect):
    config = settings(mm_patch_merge_type=merge, **aspect)
    out = arrange_image(views, torch.tensor([99.0]), config, size, tile_size=10)
    assert out.rows.flatten().tolist() == expected
    assert (out.offset.tolist(), out.length) == (list(range(len(expected))), len(expected))
    patches = len(expected) - separators
    assert (out.frames, out.separators) == (((patches, patches),), (separators, separators))


def test_arrange_image_with_a_limit():
    config = settings(
        mm_patch_merge_type="spatial_unpad", image_aspect_ratio="anyres_max_1", image_grid_pinpoints=[[20, 20]]
    )
    out = arrange_image(TILES, torch.tensor([99.0]), config, (20, 20), tile_size=10)
    assert out.rows.flatten().tolist() == [1, 2, 3, 4, 12.5, 22.5, 99, 32.5, 42.5, 99]


@pytest.mark.parametrize(
    ("merge", "views", "size", "message"),
    [
        ("pyramid", TILES, (20, 20), "mm_patch_merge_type='pyramid' is unknown"),
        ("spatial_unpad", TILES, None, "needs its size"),
        ("spatial_unpad", TILES[:4], (20, 20), "should have 2x2 tiles, but 3 came"),
    ],
)
def test_arrange_image_that_cannot_be(merge, views, size, message):
    with pytest.raises(ValueError, match=message):
        arrange_image(views, torch.tensor([99.0]), settings(mm_patch_merge_type=merge), size, tile_size=10)


# ---- inputs


def test_visual_inputs():
    views, single = torch.zeros(4, 3, 2, 2), torch.zeros(3, 2, 2)
    a, b = visual_inputs([views, single], ["video", "image"], [(1, 1), (2, 3)])
    assert (a.views.shape, a.modality, a.image_size, a.merge) == ((4, 3, 2, 2), "video", (1, 1), True)
    assert (b.views.shape, b.modality, b.image_size) == ((1, 3, 2, 2), "image", (2, 3))
    assert [i.modality for i in visual_inputs([views, views], "video", None)] == ["video", "video"]
    assert [i.modality for i in visual_inputs([views, views], ["image"], None)] == ["image", "image"]
    assert [i.views.shape for i in visual_inputs(torch.zeros(2, 5, 3, 2, 2), "video", None)] == [(5, 3, 2, 2)] * 2
    rows = visual_inputs(views, "image", None)
    assert [(i.views.shape, i.modality, i.merge) for i in rows] == [((1, 3, 2, 2), "image", False)] * 4
    assert visual_inputs([], ["image"], None) == []


@pytest.mark.parametrize(
    ("images", "modalities", "sizes", "message"),
    [
        (torch.zeros(3, 2, 2), "image", None, "images of shape"),
        ([torch.zeros(3, 2, 2)] * 3, ["video", "video"], None, "3 images came with 2 modalities"),
        ([torch.zeros(3, 2, 2)] * 3, ["video"], None, "3 images came with 1 modalities"),
        ([torch.zeros(3, 2, 2)] * 2, "image", [(1, 1)], "2 images came with 1 image_sizes"),
        (
            torch.zeros(1, 3, 2, 2),
            ["video"],
            None,
            r"\(1, 3, 2, 2\) with modalities=\['video'\].*images=\[frames",
        ),
        (torch.zeros(4, 3, 2, 2), "video", None, "a 4-D tensor holds images"),
        ([torch.zeros(4, 3, 2, 2)], ["vidoe"], None, "modality 'vidoe' is unknown; use image, video, text"),
        ([torch.zeros(4, 3, 2, 2)], "Video", None, "modality 'Video' is unknown"),
        (torch.zeros(4, 3, 2, 2), ["vidoe"], None, "modality 'vidoe' is unknown"),
    ],
)
def test_visual_inputs_that_do_not_match(images, modalities, sizes, message):
    with pytest.raises(ValueError, match=message):
        visual_inputs(images, modalities, sizes)


def test_used_inputs():
    ids = [torch.tensor([1, -200, 2]), torch.tensor([1, 2]), torch.tensor([-200, -200])]
    a, b, c, dummy = cast(Any, ["a", "b", "c", "dummy"])
    assert used_inputs([a, b, c], ids) == ["a", "b", "c"]
    assert used_inputs([a, dummy, b, c], ids) == ["a", "b", "c"]
    assert used_inputs([], ids[1:2]) == []
    assert used_inputs([dummy], ids[1:2]) == []
    for wrong in ([a, b], [a, b, c, dummy, dummy]):
        with pytest.raises(ValueError, match=r"\[1, 0, 2\] image slots but"):
            used_inputs(wrong, ids)


# ---- splice and pad


def embed(ids: Tensor) -> Tensor:
    return ids[:, None].float()


def visual(rows: Tensor, offset: list[int], length: int) -> VisualRows:
    return VisualRows(
        rows,
        offset=torch.tensor(offset),
        frame=torch.zeros(len(rows), dtype=torch.int64),
        length=length,
        frames=((length, len(rows)),),
        separators=(0, 0),
    )


def test_splice():
    ids = torch.tensor([5, -200, 6, 7, -200])
    supply = iter([visual(column(0.1, 0.2), [1, 4], 6), visual(column(0.3), [0], 2), visual(column(9), [0], 1)])
    row = splice(ids, ids * 10, supply, embed)
    torch.testing.assert_close(row.embeds, column(5, 0.1, 0.2, 6, 7, 0.3))
    assert row.labels.tolist() == [50, -100, -100, 60, 70, -100]
    assert row.position.tolist() == [0, 2, 5, 7, 8, 9]
    assert row.starts == (1, 5)
    assert len(list(supply)) == 1  # which waits for the next sample
    text = splice(torch.tensor([3, 4]), torch.tensor([3, 4]), supply, embed)
    assert (text.embeds.flatten().tolist(), text.position.tolist(), text.starts) == ([3, 4], [0, 1], ())


@pytest.mark.parametrize("side", ["left", "right"])
def test_pad_rows(side):
    rows = [splice(torch.tensor(ids), torch.tensor(ids), iter(()), embed) for ids in ([5], [6, 7, 8])]
    out = pad_rows(rows, side)
    left = side == "left"
    assert out.embeds[..., 0].tolist() == [[0, 0, 5] if left else [5, 0, 0], [6, 7, 8]]
    assert out.labels.tolist() == [[-100, -100, 5] if left else [5, -100, -100], [6, 7, 8]]
    assert out.mask.tolist() == [[False, False, True] if left else [True, False, False], [True] * 3]
    assert out.position.tolist() == [[0, 0, 0], [0, 1, 2]]
    assert out.shift == (2 if left else 0, 0)


# ---- through a model


def prepare(model: Any, ids: Tensor, images: Any, modalities: Any = "video", mask: Any = None, **more: Any) -> Any:
    return model.prepare_inputs_labels_for_multimodal(
        ids, more.get("position_ids"), mask, None, more.get("labels"), images, modalities, more.get("image_sizes")
    )


def test_a_video_with_class_tokens_cannot_be_pooled(tmp_path):
    model = tiny_model(tmp_path, tower="clip", mm_vision_select_feature="cls_patch")
    with pytest.raises(ValueError, match="50 tokens per frame are not the tower's 7x7 grid"):
        prepare(model, prompt(2, "video")[None], [video(1)])


def test_text_alone_may_name_modalities(model):
    ids = torch.tensor([[5, 6, 7]])
    with torch.inference_mode():
        assert prepare(model, ids, [], ["video"])[4].shape == (1, 3, model.config.hidden_size)
        assert model.generate(ids, modalities="video", max_new_tokens=2).shape == (1, 2)


def test_merged_tokens_reach_the_llm(model):
    class Halved(Compressor):
        """Keeps the first token of each frame, as half of what it was."""

        def _select(self, x: Tensor) -> Kept:
            index = torch.arange(x.shape[0]) * x.shape[1]
            return Kept(index, torch.ones(x.shape[0], dtype=torch.long), x[:, 0] / 2)

    pixels, ids = video(2), prompt(2, "video", 1)[None]
    with torch.no_grad(), Halved(0.1)(model) as run:
        embeds = prepare(model, ids, [pixels])[4][0]
        pooled = model.get_2dPool(model.encode_images(pixels))
    # two text tokens, then each frame's token and its four newlines
    torch.testing.assert_close(embeds[[2, 7]], pooled[:, 0] / 2)
    assert torch.equal(embeds[3:7], model.model.image_newline.expand(4, -1))
    assert run.records[0].frames_after == (1, 1)


def test_nothing_to_do_passes_through(model):
    ids = torch.tensor([[1, 2, 3]])
    assert prepare(model, ids, None)[0] is ids
    step = torch.tensor([[1]])
    assert prepare(model, step, [video(1)])[0] is step
    assert prepare(model, step, [video(1)])[4] is None


def test_missing_mask_comes_back_where_it_is_needed(model):
    same = torch.stack([prompt(2, "video", 3, seed=1), prompt(2, "video", 3, seed=2)])
    with torch.no_grad():
        _, positions, mask, *_, labels = prepare(model, same, [video(2), video(2)])
        assert (positions, mask, labels) == (None, None, None)
        _, positions, mask, _, embeds, _ = prepare(model, same, [video(1), video(2)])
    assert positions is None
    assert mask.tolist() == [[True] * 25 + [False] * 20, [True] * 45]
    assert not embeds[0, 25:].any()


def test_given_position_ids_are_renumbered(model):
    ids = torch.tensor([[0, 5, -200], [7, 8, -200]])
    mask = torch.tensor([[0, 1, 1], [1, 1, 1]])
    for side, lines in (("right", [[*range(21), 0], [*range(22)]]), ("left", [[0, *range(21)], [*range(22)]])):
        model.config.tokenizer_padding_side = side
        with torch.no_grad():
            _, positions, out_mask, *_ = prepare(
                model, ids, [video(1), video(1)], mask=mask, position_ids=torch.arange(3)[None]
            )
        assert positions.tolist() == lines
        assert out_mask.dtype == mask.dtype
        assert out_mask.sum(1).tolist() == [21, 22]


@pytest.mark.parametrize(("limit", "cut"), [(200, (0, 0)), (24, (0, 18)), (15, (7, 20))])
def test_truncation(model, limit, cut, caplog):
    model.config.tokenizer_model_max_length = limit
    logging.getLogger("transformers").propagate = True
    ids = prompt(2, "video", "video", 4)[None]
    # 2 text tokens, 20 visual rows, 20 visual rows, 4 text tokens
    with torch.no_grad(), caplog.at_level("WARNING"):
        embeds = prepare(model, ids, [video(1), video(1, seed=2)])[4]
    assert embeds.shape[1] == min(46, limit)
    assert tuple(record.cut for record in model.visual_records) == cut
    assert [record.tokens_after for record in model.visual_records] == [20 - lost for lost in cut]
    assert ("is cut to tokenizer_model_max_length" in caplog.text) == (limit < 46)


def test_visual_hooks_are_told_where_everything_is(model):
    """Patches by column and frame, with padding and newlines, and what is cut off is missing."""
    ids = torch.stack([prompt(2, "video", 3, seed=1), prompt(2, "video", 3, seed=2)])
    seen: list[Any] = []
    model.visual_hooks.append(seen.append)
    with torch.no_grad():
        embeds = prepare(model, ids, [video(1), video(2)])[4]
        model.config.tokenizer_model_max_length = 24
        prepare(model, ids, [video(1), video(2)])
    whole, cut = seen
    assert (whole.mask.shape, whole.cut, whole.labels) == (embeds.shape[:2], (0, 0), False)
    assert [visual.record for visual in cut.visuals] == model.visual_records
    for visual in whole.visuals:
        columns, record = visual.columns, visual.record
        assert columns.tolist() == list(range(record.start, record.start + record.tokens_after))
        newlines = columns[visual.frame == -1]
        assert len(newlines) == record.separators_after
        assert (embeds[record.sample, newlines] == model.model.image_newline).all()
        assert torch.bincount(visual.frame[visual.frame >= 0]).tolist() == list(record.frames_after)
        assert len(visual.patches) == sum(record.frames_after)
    assert [len(visual.columns) + visual.record.cut for visual in cut.visuals] == [20, 40]
    assert int(cut.visuals[1].columns[-1]) == 23


def test_four_dimensional_images_are_used_as_they_are(model):
    pixels, ids = video(2), prompt(2, "image", "image", 1)[None]
    with torch.no_grad():
        embeds = prepare(model, ids, pixels, "image")[4]
        features = model.encode_images(pixels)
        torch.testing.assert_close(embeds[0, 2:-1], features.flatten(0, 1))
        with VidCom2(0.1)(model):
            assert torch.equal(prepare(model, ids, pixels, "image")[4], embeds)
    assert [(r.modality, r.method, r.tokens_after) for r in model.visual_records] == [("image", "none", 49)] * 2


def test_five_dimensional_images(model):
    pixels, ids = torch.stack([video(2), video(2, seed=2)]), prompt(2, "video", "video", 1)[None]
    with torch.no_grad():
        assert torch.equal(prepare(model, ids, pixels)[4], prepare(model, ids, list(pixels))[4])


@pytest.mark.parametrize("mode", ["nearest", None])
def test_unknown_pooling(model, mode):
    model.config.mm_spatial_pool_mode = mode
    with pytest.raises(ValueError, match=r"mm_spatial_pool_mode=.* is unknown"):
        prepare(model, prompt(2, "video")[None], [video(1)])


def test_pooling():
    x = torch.arange(49.0).view(1, 49, 1)
    tower = SimpleNamespace(num_patches_per_side=7)

    def pool(mode: str, stride: int) -> list[float]:
        this = SimpleNamespace(get_vision_tower=lambda: tower, config=settings(mm_spatial_pool_mode=mode))
        return LlavaMetaForCausalLM.get_2dPool(cast(Any, this), x, stride).flatten().tolist()

    assert pool("average", 3) == [8, 11, 29, 32]  # the middle of each 3x3 block; the seventh row and column are lost
    assert pool("max", 3) == [16, 19, 37, 40]
    assert pool("average", 1) == pool("bilinear", 1) == x.flatten().tolist()
    assert len(pool("bilinear", 2)) == 16
    assert pool("bilinear", 7) == [24]


def test_tiles_without_a_size(model):
    with pytest.raises(ValueError, match="needs its size"):
        prepare(model, prompt(2, "image")[None], [video(5)], "image")


def test_slots_without_images(model):
    for images in ([], [video(1), video(1), video(1)]):
        with pytest.raises(ValueError, match="image slots but"):
            prepare(model, prompt(2, "video", 3, "video")[None], images)
    with pytest.raises(ValueError, match="image slots but 0 images"):
        model.generate(prompt(2, "video")[None])
    with pytest.raises(NotImplementedError, match="inputs_embeds"):
        model.generate(inputs_embeds=torch.zeros(1, 2, 48))


# ---- labels and loss


@pytest.mark.parametrize("compressor", [None, VidCom2(0.25)])
def test_labels_loss_and_dpo_forward(model, compressor):
    ids = torch.stack([prompt(2, "video", 6, seed=1), prompt(3, "video", 5, seed=2)])
    labels = ids.masked_fill(torch.arange(9) < 5, -100)
    inputs = {"input_ids": ids, "labels": labels, "images": [video(1), video(3)], "modalities": "video"}
    model.compressor = compressor
    out = model(**inputs)
    logits, expanded = model(**inputs, dpo_forward=True)
    assert torch.equal(out.logits, logits)
    assert expanded.shape == logits.shape[:2]
    assert [line[line != -100].tolist() for line in expanded] == labels[:, 5:].tolist()
    for record, line in zip(model.visual_records, expanded, strict=True):
        assert (line[record.start : record.start + record.tokens_after] == -100).all()
    expected = cross_entropy(logits[:, :-1].reshape(-1, VOCAB), expanded[:, 1:].flatten())
    torch.testing.assert_close(out.loss, expected)
    out.loss.backward()
    for weight in (model.model.image_newline, model.model.mm_projector[0].weight, model.model.embed_tokens.weight):
        assert weight.grad.abs().sum() > 0


def test_plain_image_of_the_towers_size(model):
    """A [3, S, S] image is one view: its 49 patches and a newline."""
    with torch.no_grad():
        embeds = prepare(model, prompt(1, "image", 2)[None], [video(1)[0]], "image", image_sizes=[(SIZE, SIZE)])[4]
    assert embeds.shape[1] == 1 + 50 + 2
    assert torch.equal(embeds[0, 50], model.model.image_newline)


@pytest.mark.parametrize("retention", [None, 0.3])
def test_encoded_videos_serve_many_questions(retention, tmp_path, monkeypatch):
    """One pass through the tower, then any number of questions and compressors, with the answers of the pixels."""
    model = tiny_model(tmp_path)
    pixels = [torch.randn(frames, 3, SIZE, SIZE) for frames in (4, 3)]
    ids = [torch.tensor([[5, IMAGE_TOKEN_INDEX, 7, IMAGE_TOKEN_INDEX, last]]) for last in (9, 11)]
    call = {"modalities": ["video", "video"], "max_new_tokens": 3, "do_sample": False}
    with nullcontext() if retention is None else VidCom2(retention)(model):
        expected = [model.generate(one, images=pixels, **call) for one in ids]
        encoded = [model.encode(one) for one in pixels]
        mixed = model.generate(ids[0], images=[encoded[0], pixels[1]], **call)
        monkeypatch.setattr(model, "encode_images", None)
        again = [model.generate(one, images=encoded, **call) for one in ids]
    assert torch.equal(mixed, expected[0])
    assert all(torch.equal(a, b) for a, b in zip(again, expected, strict=True))
