"""Specs, settings, registration, and attaching to a model."""

from __future__ import annotations

import dataclasses
import json
import pickle
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from tests.vidcom2.test_vidcom2 import video
from vidcom2 import (
    METHODS,
    Dense,
    FrameAdjustment,
    Ranking,
    Record,
    VidCom2,
    compressor,
    compressor_from_env,
    register,
)
from vidcom2.compressor import Compressor, Kept
from vidcom2.methods.dycoke import DyCoke
from vidcom2.methods.random import Random
from vidcom2.methods.visionzip import VisionZip


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("vidcom2", VidCom2(0.25)),
        ("vidcom2@0.15", VidCom2(0.15)),
        ("vidcom2.released@0.15", VidCom2.released(0.15)),
        (
            "vidcom2@0.5:rounding=exact:positions=original:window=4",
            VidCom2(0.5, rounding="exact", positions="original", window=4),
        ),
        (" vidcom2:frame_weight=2 ", VidCom2(frame_weight=2)),
        ("random+fca@0.5", Random(0.5, fca=FrameAdjustment())),
        ("visionzip+fca@0.5:dominant=0.5", VisionZip(0.5, dominant=0.5, fca=FrameAdjustment())),
        ("random+fca:fca.tau=0.1:seed=3:fca.score=max", Random(seed=3, fca=FrameAdjustment(0.1, "max"))),
        ("none", Dense()),
        ("dense", Dense()),
    ],
)
def test_specs(spec, expected):
    assert compressor(spec) == expected


@pytest.mark.parametrize(
    "made",
    [
        VidCom2(),
        VidCom2(1 / 3),
        VidCom2.released(newlines="rows"),
        VidCom2(window=8),
        Random(0.15, seed=7, fca=FrameAdjustment()),
        VisionZip(0.5, merge=False, fca=FrameAdjustment(window=4, rounding="ceil", similarity="gaussian")),
        DyCoke.released(0.25, merging=0.7),
    ],
    ids=lambda made: made.spec,
)
def test_spec_identifies_the_compressor(made):
    assert compressor(made.spec) == made
    assert json.loads(json.dumps(made.settings)) == made.settings


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("vidcom2@1", "vidcom2@1.0"),
        ("vidcom2:retention=1", "vidcom2@1.0"),
        ("random+fca@0.5:fca.tau=1", "random+fca@0.5:fca.tau=1.0"),
        ("fastv@0.53125:keep=1", "fastv@0.53125:keep=1.0"),
    ],
)
def test_one_setting_has_one_spelling(one, other):
    """The spec names the directory of the results, so equal settings must not have two specs."""
    assert compressor(one).spec == compressor(other).spec
    assert repr(compressor(one).settings) == repr(compressor(other).settings)


def test_whole_numbers_are_short():
    assert (
        compressor("vidcom2@0.25:frame_weight=2.0:video_weight=0.0").spec
        == "vidcom2@0.25:frame_weight=2:video_weight=0"
    )


def test_spec_tells_the_adjustment():
    assert Random(0.25, fca=FrameAdjustment(tau=0.1), seed=2).spec == "random+fca@0.25:seed=2:fca.tau=0.1"
    assert Random(0.25, fca=FrameAdjustment()).settings["fca"]["tau"] == 0.01


def test_keywords_win_over_the_spec():
    assert compressor("vidcom2@0.25", retention=0.5) == VidCom2(0.5)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("vidcom3", "'vidcom3' is unknown; known are .*vidcom2"),
        ("", "unknown"),
        ("vidcom2.fast", "no preset 'fast'; it has released"),
        ("vidcom2:budget=3", "no setting budget; it has retention"),
        ("vidcom2:exact", "not setting=value"),
        ("vidcom2@much", "retention='much'"),
        ("vidcom2+fca", "'vidcom2' has frame budgets of its own, so it cannot take .fca; these can: .*uniform"),
        ("fastvid+fca", "'fastvid' has frame budgets of its own"),
        ("random+fcb", "'fcb' in compressor spec 'random.fcb' cannot be added"),
        ("random:fca.tau=0.1", "settings fca.tau, but no .fca"),
        ("random+fca:fca.speed=1", "'fca' has no setting speed; it has tau"),
        ("random+fca:fca.tau=0", "tau=0.0 must be positive"),
        ("random+fca:fca.score=median", "score='median' must be one of"),
        ("random:fca=1", "fca=1 must be a FrameAdjustment or None; in a spec, write random.fca"),
        ("dycoke+fca.released", "cannot take .fca; dycoke.fca can"),
        ("visionzip+fca.released", "visionzip.fca"),
        ("none.released", "has no settings"),
        ("vidcom2@0.25:retention=0.5", "says retention twice"),
        ("vidcom2:tau=abc", "tau='abc' must be a number"),
        ("vidcom2:frame_weight=None", "frame_weight=None must be a number"),
        ("vidcom2:window=2.5", "window=2.5 must be a whole number or None"),
        ("vidcom2:tau=1e999", "tau=inf must be a number"),
        ("random:seed=True", "seed=True must be a whole number"),
        ("fastvid:segments=2.5", "segments=2.5 must be a whole number"),
        ("holitom:neighbours=2.5", "neighbours=2.5 must be a whole number"),
        ("random+fca:fca.tau=abc", "tau='abc' must be a number"),
    ],
)
def test_bad_specs(spec, message):
    with pytest.raises(ValueError, match=message):
        compressor(spec)


def test_environment():
    assert compressor_from_env({}) == Dense()
    assert compressor_from_env({"COMPRESSOR": ""}) == Dense()
    assert compressor_from_env({"R_RATIO": "0.15"}) == compressor_from_env({"COMPRESSOR": "", "R_RATIO": "0.15"})
    assert compressor_from_env({"R_RATIO": "0.15"}) == VidCom2(0.15)
    assert compressor_from_env({"COMPRESSOR": "random@0.5", "R_RATIO": ""}) == Random(0.5)
    assert compressor_from_env({"COMPRESSOR": "random@0.5", "R_RATIO": "0.50"}) == Random(0.5)
    assert compressor_from_env({"COMPRESSOR": "vidcom2"}) == VidCom2(0.25)
    assert compressor_from_env({"COMPRESSOR": "vidcom2", "R_RATIO": "0.15"}) == VidCom2(0.15)
    assert compressor_from_env({"COMPRESSOR": "none", "R_RATIO": "0.15"}) == Dense()
    with pytest.raises(ValueError, match="R_RATIO='25%'"):
        compressor_from_env({"COMPRESSOR": "vidcom2", "R_RATIO": "25%"})
    with pytest.raises(ValueError, match=r"COMPRESSOR='random@0\.5' R_RATIO='0\.15' .* two retentions"):
        compressor_from_env({"COMPRESSOR": "random@0.5", "R_RATIO": "0.15"})


@pytest.mark.parametrize("settings", [{"bogus": 3}, {"retention": 0.5}])
def test_no_compression_has_no_settings(settings):
    with pytest.raises(ValueError, match=f"'none' with {next(iter(settings))}: none compresses nothing"):
        compressor("none", **settings)


@pytest.mark.parametrize("quarter", [np.float32(0.25), np.float64(0.25), np.float16(0.25), Fraction(1, 4)])
def test_other_kinds_of_numbers(quarter):
    made = VidCom2(quarter, window=np.int64(4), tau=np.float32(0.5))
    assert made == VidCom2(0.25, window=4, tau=0.5)
    assert made.spec == "vidcom2@0.25:tau=0.5:window=4"
    assert [type(value) for value in (made.retention, made.window, made.tau)] == [float, int, float]
    assert json.loads(json.dumps(made.settings)) == made.settings
    assert FrameAdjustment(tau=np.float32(0.5), window=np.int32(4)) == FrameAdjustment(tau=0.5, window=4)


@pytest.mark.parametrize("wrong", [True, np.bool_(True), "0.25", None, np.float32("nan"), np.array([0.25]), 1j])
def test_a_retention_that_is_no_number(wrong):
    with pytest.raises(ValueError, match=r"retention=.* must be a number in \(0, 1\]"):
        VidCom2(wrong)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_described(name):
    assert METHODS[name].name == name
    assert "arxiv.org" in (__import__(METHODS[name].__module__, fromlist=["x"]).__doc__ or "")


@pytest.mark.parametrize("spec", ["vidcom2@0.25", "random+fca@0.5:seed=3:fca.tau=0.1", "none", "fastv@0.5:k=1"])
def test_repr_builds_an_equal_object(spec):
    made = compressor(spec)
    assert repr(made) == f"compressor({spec!r})"
    assert eval(repr(made)) == made


def test_repr_of_a_class_without_a_name():
    @dataclass(frozen=True)
    class Mine(VidCom2):
        pass

    assert repr(Mine(0.5)) == "<Mine vidcom2@0.5>"


# ---- register


def test_a_method_is_a_dataclass_of_its_own():
    class Forgetful(Random):
        gain: float = 1.0

    message = r"Forgetful is not a dataclass, .*write @dataclass\(frozen=True\) between @register\('forgetful'\)"
    with pytest.raises(TypeError, match=message):
        register("forgetful")(Forgetful)
    assert "forgetful" not in METHODS


def test_only_compressors_are_methods():
    with pytest.raises(TypeError, match=r"not a subclass of vidcom2\.Compressor"):
        register("record")(Record)


def test_presets_exist():
    @dataclass(frozen=True)
    class Promising(Random):
        presets = ("fast",)

    with pytest.raises(TypeError, match=r"Promising.presets names 'fast', which is not a classmethod"):
        register("promising")(Promising)


@pytest.mark.parametrize("name", ["", "a b", "a+fca", "a.b", "a@1", "a:b", "a,b", "-a", "a=1", "ä", " a", "a/b"])
def test_names_that_no_spec_spells(name):
    @dataclass(frozen=True)
    class Odd(Random):
        pass

    for names in ((name,), ("odd", name)):
        with pytest.raises(ValueError, match=r"cannot be written in a spec; use letters"):
            register(*names)(Odd)
    assert "odd" not in METHODS


@pytest.mark.parametrize("name", ["random", "dense", "none"])
def test_names_that_are_taken(name):
    @dataclass(frozen=True)
    class Second(Random):
        pass

    with pytest.raises(ValueError, match=f"{name!r} is registered twice"):
        register(name)(Second)


# ---- VidCom² as a Ranking


def test_vidcom2_derives_its_adjustment():
    made = VidCom2(tau=0.1, frame_score="max", window=4, similarity="gaussian", channels=0.3, rounding="exact")
    assert made.fca == FrameAdjustment(0.1, "max", "exact", 4, "gaussian", 0.3)
    assert isinstance(made, Ranking)
    assert not VidCom2.takes_fca()
    assert "fca" not in made.settings
    assert dataclasses.replace(made, tau=0.2).fca.tau == 0.2
    assert pickle.loads(pickle.dumps(made)) == made
    with pytest.raises(TypeError, match="fca"):
        VidCom2(fca=FrameAdjustment())


@pytest.mark.parametrize("made", [VidCom2(), VidCom2.released(sign=1), Random(fca=FrameAdjustment())])
def test_a_ranking_is_its_scores_and_budgets(made):
    x = video(6, 10, 8)
    scores, budgets, finite = made.rank(x)
    assert torch.equal(scores, made.scores(x))
    assert torch.equal(budgets, made.frame_budgets(x))
    assert bool(finite)
    assert torch.equal(made.select(x).index, made.keep(x, scores, budgets, int(budgets.sum())).index)


def test_vidcom2_measures_once(monkeypatch):
    measured, measure = [], FrameAdjustment.measure

    def counted(self, x):
        measured.append(x.shape)
        return measure(self, x)

    monkeypatch.setattr(FrameAdjustment, "measure", counted)
    VidCom2(0.25).select(video(6, 10, 8))
    assert measured == [(6, 10, 8)]


# ---- attaching


class Holder(nn.Module):
    """The least that the LLaVA family requires of a model."""

    compressor = None

    def __init__(self):
        super().__init__()
        self.visual_records = []

    def forward(self):
        return None


@pytest.mark.filterwarnings("ignore:the model was not called")
def test_attach_and_undo():
    model, other, c = Holder(), Holder(), VidCom2(0.25)
    with c(model) as run:
        assert model.compressor is c
        assert other.compressor is None
        assert run.records == []
        with pytest.raises(RuntimeError, match=r"compressed already, by vidcom2@0\.25"), VidCom2(0.5)(model):
            pass
        assert model.compressor is c
    assert model.compressor is None
    with pytest.raises(KeyError), c(model):
        raise KeyError
    assert model.compressor is None


@pytest.mark.filterwarnings("ignore:the model was not called")
def test_detaching_twice_takes_nothing_else_off():
    model, c = Holder(), VidCom2(0.25)
    first = VidCom2(0.5).attach(model)
    first.detach()
    with c(model):
        first.detach()
        assert model.compressor is c


def test_an_attachment_prints_what_it_did():
    model = Holder()
    with VidCom2(0.25)(model) as run:
        assert str(run) == "<vidcom2@0.25 on Holder: not called yet>"
        model()
        assert str(run) == "<vidcom2@0.25 on Holder: no visual tokens recorded>"
        record = Record(0, "video", "vidcom2@0.25", "repack", 14, (16, 16), (5, 3), 1, 1)
        model.visual_records = [record, record]
        assert repr(run) == "<vidcom2@0.25 on Holder: 66 -> 18 visual tokens in the last call>"
    assert repr(run) == "<vidcom2@0.25 on Holder (detached): 66 -> 18 visual tokens in the last call>"


def test_attach_refuses_strangers():
    with pytest.raises(TypeError, match="Linear is of no family"):
        VidCom2(0.25).attach(nn.Linear(2, 2))


def test_record_counts():
    record = Record(
        sample=0, modality="video", method="vidcom2@0.25", positions="repack", start=14,
        frames_before=(16, 16), frames_after=(5, 3), separators_before=1, separators_after=1, cut=2,
    )  # fmt: skip
    assert (record.tokens_before, record.tokens_after) == (33, 7)
    assert record.retention == 7 / 33


def test_what_is_no_spec_no_tensor_and_no_such_video():
    with pytest.raises(TypeError, match=r"compressor spec 0\.25 is not a text such as"):
        compressor(0.25)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"features are a list; pass a tensor \[T, M, D\]"):
        VidCom2(0.5).select([1.0])  # type: ignore[arg-type]
    kept = VidCom2(0.5).select(torch.randn(4, 6, 8))
    with pytest.raises(ValueError, match=r"shape \(5, 6, 8\) are not those of the 4 frames selected"):
        kept.apply(torch.randn(5, 6, 8))


@dataclass(frozen=True)
class OnGrid(Compressor):
    """Keeps the first token of each row."""

    name = "on-grid"
    uses_grid = True

    def _select_grid(self, x, rows, columns):
        first = (torch.arange(len(x) * rows) * columns).to(x.device)
        return Kept(first, torch.full((len(x),), rows))


def test_a_method_can_ask_where_in_its_frame_a_token_is():
    x = torch.randn(2, 12, 4)
    assert OnGrid(0.5).select(x, (3, 4)).index.tolist() == [0, 4, 8, 12, 16, 20]
    assert OnGrid(0.5).select(x[:, :9]).index.tolist() == [0, 3, 6, 9, 12, 15]
    with pytest.raises(ValueError, match=r"on-grid looks at where .* 12 tokens are no square"):
        OnGrid(0.5).select(x)
    with pytest.raises(ValueError, match=r"grid=\(3, 5\) has 15 tokens, but a frame has 12"):
        OnGrid(0.5).select(x, (3, 5))
