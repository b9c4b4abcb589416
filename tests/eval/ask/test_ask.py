"""vidcom2 ask: what a terminal shows is what the engine answered and counted, and each error is one line."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from eval.ask.command import prepare_ask, template_of
from eval.ask.session import open_session
from eval.cli import main, parse
from eval.models import load_engine, protocol_for
from eval.models.packaged import DEMO_MODEL
from llava.conversation import conv_templates
from llava.video import FrameSampling
from tests.eval.ask.conftest import FRAMES
from vidcom2 import VidCom2, compressor

QUESTION = "Which?\n(A) this\n(B) that\nOnly give the best option.\n"
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def no_settings_in_the_environment(monkeypatch):
    for name in ("MODEL", "COMPRESSOR", "R_RATIO", "ENGINE", "DECODER", "ATTN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def demo():
    """The demo model on FRAMES frames, without a session."""
    protocol = protocol_for(str(DEMO_MODEL)).sampled(FrameSampling("uniform", max_frames=FRAMES))
    return load_engine(str(DEMO_MODEL), protocol, "cpu", "float32")


def answer_of(engine, video: Path, spec: str, question: str | tuple[str, ...] = QUESTION):
    return engine.answer(engine.see(engine.read(str(video))), question, {"max_new_tokens": 512}, compressor(spec))


def ask(video: Path, *arguments: object) -> int:
    return main(["ask", str(video), "--frames", str(FRAMES), *map(str, arguments)])


def test_one_answer(noise, demo, capsys):
    assert ask(noise, QUESTION, "--show-prompt") == 0
    out, err = capsys.readouterr()
    expected = answer_of(demo, noise, "vidcom2@0.25")
    assert out == f"{expected.text}\n"
    record = expected.records[0]
    tokens = f"{record.tokens_before} -> {record.tokens_after:g}"
    seconds = r"\d+\.\d\d s"
    line = rf"{tokens} visual tokens, {seconds} to the first token, {seconds} in all; {seconds} to read and encode the"
    assert re.search(rf"^{line} video before that$", err, re.M), err
    assert f"prompt: {expected.prompt!r}\n" in err
    assert re.search(r"^note: the demo model .* drawn shapes only, ", err, re.M)


def test_a_comparison(noise, demo, capsys):
    assert ask(noise, QUESTION, "--compare", "--compressor", "fresh", "--retention", 0.5) == 0
    said = capsys.readouterr().out
    dense, other = (answer_of(demo, noise, spec) for spec in ("none", "fresh@0.5"))
    assert said.startswith(f"dense: {dense.text}\nfresh@0.5: {other.text}\n")
    table = {line.split()[0]: line.split()[1:] for line in said.splitlines()[3:]}
    kept = [answer.records[0].tokens_after for answer in (dense, other)]
    assert [float(table[name][0]) for name in ("dense", "fresh@0.5")] == kept
    assert table["ratio"][0] == f"{kept[0] / kept[1]:.2f}"
    for column in (1, 2):
        ratio = float(table["dense"][column]) / float(table["fresh@0.5"][column])
        assert float(table["ratio"][column]) == pytest.approx(ratio, rel=0.2)  # of rounded seconds


def test_a_comparison_measures_warm_answers(noise, monkeypatch, capsys):
    answered = []
    original = type(load_engine(str(DEMO_MODEL), protocol_for(str(DEMO_MODEL)), "cpu", "float32")).answer_all

    def spy(self, asked, generation, how):
        answered.append((generation["max_new_tokens"], how.spec, asked[0][1]))
        return original(self, asked, generation, how)

    monkeypatch.setattr("eval.models.llava.LlavaEngine.answer_all", spy)
    monkeypatch.setattr("sys.stdin", io.StringIO("one?\ntwo?\n"))
    assert ask(noise, "--compare") == 0
    dense, other, *_ = capsys.readouterr().out.splitlines()
    first = [line.partition(": ")[2] for line in (dense, other)]
    assert answered == [
        (2, "none", ("one?",)),
        (512, "none", ("one?",)),
        (2, "vidcom2@0.25", ("one?",)),
        (512, "vidcom2@0.25", ("one?",)),
        (512, "none", ("one?", first[0], "two?")),
        (512, "vidcom2@0.25", ("one?", first[1], "two?")),
    ]


def test_a_conversation(noise, demo, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("one?\ntwo?\n\nthree?\n"))
    assert ask(noise) == 0
    out, err = capsys.readouterr()
    one = answer_of(demo, noise, "vidcom2@0.25", "one?")
    two = answer_of(demo, noise, "vidcom2@0.25", ("one?", one.text, "two?"))
    assert out == f"{one.text}\n{two.text}\n"
    assert len(re.findall("visual tokens", err)) == 2
    assert err.count("read and encode the video") == 1


def test_a_conversation_goes_on_after_an_error(noise, demo, capsys, monkeypatch):
    answer_all = type(demo).answer_all

    def once(self, asked, generation, how):
        if asked[0][1][-1] == "two?":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return answer_all(self, asked, generation, how)

    monkeypatch.setattr("eval.models.llava.LlavaEngine.answer_all", once)
    monkeypatch.setattr("sys.stdin", io.StringIO("one?\ntwo?\nthree?\n"))
    assert ask(noise) == 1
    out, err = capsys.readouterr()
    one = answer_of(demo, noise, "vidcom2@0.25", "one?")
    three = answer_of(demo, noise, "vidcom2@0.25", ("one?", one.text, "three?"))
    assert out == f"{one.text}\n{three.text}\n"
    assert "error: the GPU has no memory for answering: take fewer --frames" in err


def test_questions_of_a_terminal(noise, capsys, monkeypatch):
    lines = iter(["one?", ""])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    monkeypatch.setattr("sys.stdin", type("Terminal", (io.StringIO,), {"isatty": lambda self: True})())
    assert ask(noise) == 0
    assert "an empty line or Ctrl-D ends" in capsys.readouterr().err

    def closed(prompt):
        raise EOFError

    monkeypatch.setattr("builtins.input", closed)
    assert ask(noise) == 1
    assert capsys.readouterr().err.endswith("error: there was no question on standard input\n")

    def interrupted(prompt):
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", interrupted)
    assert ask(noise) == 130


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["none.mp4", "?"], "none.mp4: no such file"),
        ([__file__, "?"], "it is not a video, is damaged, or was cut off"),
        (["", "?"], "VIDEO is empty: write the path of a video file"),
        (["VIDEO", " "], 'QUESTION "" is empty'),
        (["VIDEO", "?", "--frames", "0"], "--frames 0 must be at least 1"),
        (["VIDEO", "?", "--model", "/no/model"], "--model /no/model: no such directory"),
        (["VIDEO", "?", "--compressor", "vidcom3"], "compressor 'vidcom3' is unknown; known are"),
        (["VIDEO", "?", "--retention", "2"], "retention=2"),
        (["VIDEO", "?", "--compressor", "none", "--compare"], "--compare with compressor none, which drops nothing"),
        (["VIDEO", "?", "--compressor", "none", "--keep", "0s-1s:full"], "--keep 0s-1s:full has no effect on none"),
        (["VIDEO", "?", "--keep", "100s-200s:full"], "none of the 32 frames taken from"),
        (["VIDEO", "?", "--compressor", "fastv@0.8", "--keep", "0s-1s:full"], "fastv"),
        (["VIDEO", "?", "--frames", "8", "--sampling", "fps:1,max=8"], "leave one of them out"),
        (
            ["VIDEO", "?", "--frames", "120", "--compressor", "none"],
            "do not fit the model's 4096: use fewer frames, a lower retention or a shorter question",
        ),
        (["VIDEO", "?", "--engine", "deepspeed"], "--engine (ENGINE) 'deepspeed' is unknown; there are torch, vllm"),
        (["VIDEO", "?", "--device", "cuda"], "--device cuda: torch finds no GPU here"),
        (["VIDEO", "?", "--conv-mode", "v9"], "--conv-mode v9 is no template for questions; there are"),
        (["VIDEO", "?", "--conv-mode", "plain"], "--conv-mode plain is no template for questions; there are"),
        (["VIDEO", "?", "--dtype", "int8"], "torch_dtype='int8' is not supported"),
        (["VIDEO", "?", "--decoder", "vlc"], "vlc"),
        (["VIDEO", "?", "--max-new-tokens", "0"], "--max-new-tokens 0 must be at least 1"),
        (["VIDEO", "?", "--temperature", "-1"], "--temperature -1 must be a number of at least 0"),
        (["VIDEO", "?", "--temperature", "nan"], "--temperature nan must be a number of at least 0"),
        (["VIDEO", "?", "--temperature", "inf"], "--temperature inf must be a number of at least 0"),
        (["VIDEO", "?", "--compressor", "dycoke.released@0.25"], "dycoke.released cannot reach retention=0.25 on"),
    ],
    ids=lambda value: " ".join(value[2:]) if isinstance(value, list) else "",
)
def test_an_error_is_one_line(arguments, line, noise, capsys, monkeypatch):
    """And nothing is answered."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["ask", *(str(noise) if word == "VIDEO" else word for word in arguments)]) == 1
    out, err = capsys.readouterr()
    (error,) = [said for said in err.splitlines() if said.startswith("error: ")]
    assert line in error
    assert err.rstrip().endswith(error)
    assert not out


def test_what_vllm_cannot_have(noise, monkeypatch):
    monkeypatch.setattr("eval.ask.command.require_vllm", lambda: None)
    flags = (["--compare"], ["--attn", "sdpa"], ["--load-4bit"], ["--device", "auto"], ["--keep", "0s-1s:full"])
    for flag in flags:
        with pytest.raises(ValueError, match=f"{flag[0]}.* is not for --engine vllm"):
            prepare_ask(parse(["ask", str(noise), "?", "--engine", "vllm", *flag]))


def test_a_damaged_model(onevision, noise, tmp_path, capsys):
    broken = shutil.copytree(onevision, tmp_path / "llava-onevision-qwen2")
    for weights in broken.rglob("*.safetensors"):
        weights.write_bytes(b"nothing")
    assert ask(noise, "?", "--model", broken, "--device", "cpu") == 1
    assert re.search(r"^error: --model .* cannot be loaded: ", capsys.readouterr().err, re.M)


def test_templates_of_llava_checkpoints(checkpoints, tmp_path):
    usual = "qwen_1_5"
    assert template_of(str(checkpoints["onevision"]), None, usual) == usual
    assert template_of(str(checkpoints["onevision"]), "vicuna_v1", usual) == "vicuna_v1"
    for name, expected in (
        ("llava-v1.5-7b", "vicuna_v1"),
        ("llava-llama-2-13b-chat", "llava_llama_2"),
        ("llama3-llava-next-8b", "llava_llama_3"),
    ):
        (tmp_path / name).mkdir()
        text = '{"architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava_llama", "mm_vision_tower": "x"}'
        (tmp_path / name / "config.json").write_text(text, encoding="utf-8")
        assert template_of(str(tmp_path / name), None, usual) == expected
        assert expected in conv_templates


@pytest.mark.slow  # tests/llava/test_serve.py has what becomes of its flags
def test_upstreams_command_line(onevision, noise):
    """As LLaVA-NeXT users type it: a process of its own, with questions on its standard input."""
    command = [sys.executable, "-m", "llava.serve.cli", "--model-path", str(onevision), "--image-file", str(noise)]
    command += ["--temperature", "0", "--max-new-tokens", "8", "--debug", "--device", "cpu", "--retention", "0.5"]
    done = subprocess.run(command, cwd=ROOT, input="one?\ntwo?\n\n", capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    session = open_session(str(onevision), device="cpu")
    film, history = session.watch(str(noise)), []
    for question in ("one?", "two?"):
        asking = session.ask(film, question, VidCom2(0.5), history, max_new_tokens=8)
        history.append((question, "".join(asking)))
    assert done.stdout == "".join(f"{answer}\n" for _, answer in history)
    assert asking.reply is not None
    assert f"prompt: {asking.reply.answer.prompt!r}\n" in done.stderr
