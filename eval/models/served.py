"""vLLM as an engine: frames and prompts of the other engines, answers of vLLM, compressed by `vidcom2.vllm`.

vLLM batches, schedules and caches by itself, so the questions of a batch are those that it works on at a time. A loaded
model has one compressor. What it does per stage cannot be told apart: the whole time counts as "generate".
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch

from llava.video import FrameSampling
from vidcom2 import Compressor, Record
from vidcom2.vllm.serving import FIELD, Numbering, Serving, serving

from ..results.sample import STAGES, Answer
from . import environment
from .base import EngineBase, NoNumbers, PromptTooLong, Question, Unanswerable, decoding
from .cores import suit_threads
from .llava import LlavaProtocol
from .qwen_protocol import QwenProtocol
from .served_prompts import Prompt, prompts_of

KNOWN = ("max_new_tokens", "temperature", "top_p", "top_k", "do_sample", "num_beams", "until")
"""Generation arguments that have a meaning here."""
BLOCK = 32
"""Tokens of a block of vLLM's cache on CPUs. Its own 128 are too coarse: a video's last rows are computed anew for each
question, and for that the features of the whole video."""
TOO_LONG = ("maximum context length", "longer than the maximum model length")
"""Words of vLLM's errors about a prompt that is too long: with its text alone, or with its rows of video."""


def in_flight(device: str) -> int:
    """Return how many questions vLLM works on at a time on "cuda" or "cpu", unless --batch-size says otherwise.

    Few questions keep a CPU busy, and then the next videos are read meanwhile.
    """
    return 16 if device == "cpu" else 64


def numbering(protocol: LlavaProtocol | QwenProtocol) -> Numbering:
    """Return how the plug-in numbers kept tokens in models of a protocol."""
    return "original" if isinstance(protocol, QwenProtocol) else "repack"


def served(compressor: Compressor, protocol: LlavaProtocol | QwenProtocol) -> Compressor:
    """Return a compressor as vLLM runs it.

    Raises:
        ValueError: vLLM cannot run it, see `vidcom2.vllm.serving.serving`.
    """
    return serving(compressor, numbering(protocol)).compressor


def require_vllm() -> None:
    """Check that vLLM is installed.

    Raises:
        ImportError: It is not.
    """
    if find_spec("vllm") is None:
        raise ImportError(
            "--engine vllm needs vLLM, which pins its own torch: the scripts set up .venv-vllm for it, as in "
            "ENGINE=vllm bash scripts/eval_mvbench.sh; docs/serving.md tells how to do it by hand"
        )


@dataclass(frozen=True)
class Begun:
    """A question that vLLM has: its prompt, and vLLM's name of the request."""

    prompt: Prompt
    request: str


@dataclass(frozen=True)
class Seen:
    """A video that was read, and its questions that vLLM has already, or that have no answer."""

    read: Any
    begun: dict[tuple[Question, str], Begun | Unanswerable] = field(default_factory=dict)

    @staticmethod
    def key(question: Question, generation: dict[str, Any]) -> tuple[Question, str]:
        """Return the name of a question in `begun`."""
        return question, repr(sorted(generation.items()))


class VllmEngine(EngineBase):
    """A checkpoint in vLLM, with one compressor; see `base.Engine`.

    Args:
        model: Checkpoint directory or hub name.
        protocol: Frames and prompts.
        device: "cpu", or the worker's GPUs, separated by commas.
        dtype: "float16", "bfloat16" or "float32".
        compressor: As `served` gives it.
        memory: Share of a GPU's memory that vLLM takes, weights and caches.

    Raises:
        ValueError, OSError, ImportError: The checkpoint cannot be loaded.
    """

    model: Any = None
    attention = "vllm"

    def __init__(
        self,
        model: str,
        protocol: LlavaProtocol | QwenProtocol,
        device: str,
        dtype: str,
        compressor: Compressor,
        memory: float = 0.9,
    ):
        require_vllm()
        environment.forget_compressor()  # hf_overrides says it
        environment.log_to_stderr()
        gpus = [] if device == "cpu" else device.split(",")
        if gpus:
            environment.show_gpus(gpus)
        here = not gpus and environment.prepare_vllm_on_cpu()
        threads, set_threads = torch.get_num_threads(), torch.set_num_threads
        from vllm import LLM

        self.protocol, self.device = protocol, torch.device("cpu")  # of what `see` returns
        self.prompts = prompts_of(model, protocol)
        self.read = self.prompts.read
        self.serving = Serving(compressor, compressor)
        chosen = {FIELD: compressor.spec} if compressor.drops else {}
        self.llm = LLM(
            model=model,
            dtype=dtype,
            tensor_parallel_size=max(1, len(gpus)),
            hf_overrides={**self.prompts.overrides, **chosen},
            limit_mm_per_prompt={"video": 1, "image": 0},
            max_model_len=-1,  # the longest that fits
            enforce_eager=not gpus,
            block_size=None if gpus else BLOCK,
            gpu_memory_utilization=memory,
            seed=0,
            **self.prompts.options,
        )
        if here:
            torch.set_num_threads = set_threads  # vLLM puts a function there that only warns, at every question
            set_threads(threads)  # and leaves one thread, whatever the model
            self.llm.apply_model(suit_threads)
        self._here, self._seconds = here, 0.0  # since the last answers
        self._done: dict[str, Any] = {}  # vLLM's outputs by request
        self._loaded = (model, dtype, self.attention)

    def sampled(self, sampling: FrameSampling) -> VllmEngine:
        """See `Engine.sampled`."""
        other = copy.copy(self)
        other.protocol = self.protocol.sampled(sampling)
        other.prompts = prompts_of(self._loaded[0], other.protocol)
        other.read = other.prompts.read
        return other

    def close(self) -> None:
        """See `Engine.close`. If vLLM runs in this process, that lets another engine start here."""
        self.llm.llm_engine.engine_core.shutdown()

    def forget(self) -> None:
        """Empty vLLM's caches of videos and prompts."""
        self.llm.reset_mm_cache()
        self.llm.llm_engine.reset_encoder_cache()
        if not self.llm.reset_prefix_cache():
            raise RuntimeError("vLLM still works on a question, so its cache of prompts cannot be emptied")

    def check(self, compressor: Compressor) -> None:
        """See `Engine.check`."""
        if compressor != self.serving.compressor:
            raise ValueError(f"this engine was started with {self.serving.compressor.spec}, not {compressor.spec}")

    def see(self, read: Any) -> Seen:
        """See `Engine.see`. vLLM sees a video with its first question, and caches what it saw."""
        return Seen(read)

    def begin(self, seen: Seen, question: Question, generation: dict[str, Any], compressor: Compressor) -> None:
        """See `Engine.begin`: hand the question to vLLM."""
        self.check(compressor)
        begin = time.perf_counter()
        seen.begun[Seen.key(question, generation)] = self._begun(seen.read, question, self._sampling(generation))
        self._seconds += time.perf_counter() - begin

    def work(self) -> bool:
        """See `Engine.work`. A vLLM in processes of its own works by itself, and this waits for its next tokens."""
        if not (self._here and self.llm.llm_engine.has_unfinished_requests()):
            return False
        self._step()
        return True

    def answer_all(
        self, asked: Sequence[tuple[Seen, Question]], generation: dict[str, Any], compressor: Compressor
    ) -> list[Answer | Unanswerable]:
        """See `Engine.answer_all`."""
        begun = [self._taken(seen, question, generation, compressor) for seen, question in asked]
        waiting = {one.request for one in begun if isinstance(one, Begun)}
        while lacking := waiting - self._done.keys():
            if not self.llm.llm_engine.has_unfinished_requests():
                raise RuntimeError(f"vLLM has ended without answers to its requests {', '.join(sorted(lacking))}")
            self._step()
        seconds, self._seconds = self._seconds / len(asked), 0.0
        return [
            self._answer(seen.read, one.prompt, self._done.pop(one.request), generation, seconds)
            if isinstance(one, Begun)
            else one
            for (seen, _), one in zip(asked, begun, strict=True)
        ]

    def _taken(
        self, seen: Seen, question: Question, generation: dict[str, Any], compressor: Compressor
    ) -> Begun | Unanswerable:
        """Take a question that was announced off its video, or hand it to vLLM now."""
        key = Seen.key(question, generation)
        if key not in seen.begun:
            self.begin(seen, question, generation, compressor)
        return seen.begun.pop(key)

    def _begun(self, read: Any, question: Question, sampling: Any) -> Begun | Unanswerable:
        """Hand a question to vLLM, or return why it has no answer."""
        from vllm.exceptions import VLLMValidationError

        try:
            prompt = self.prompts.prompt(read, question)
            (request,) = self.llm.enqueue([prompt.request], sampling, use_tqdm=False)
        except Unanswerable as error:
            return error
        except VLLMValidationError as error:
            if any(words in str(error) for words in TOO_LONG):
                return PromptTooLong(f"{error}: use fewer frames, a lower retention or a shorter question")
            raise
        return Begun(prompt, request.partition("-")[0])  # outputs have the name without its random end

    def _step(self) -> None:
        """Let vLLM make the next tokens of all questions that it has."""
        begin = time.perf_counter()
        for output in self.llm.llm_engine.step():
            if output.finished:
                self._done[output.request_id] = output
        self._seconds += time.perf_counter() - begin

    def _sampling(self, generation: dict[str, Any]) -> Any:
        """Return vLLM's sampling settings for lmms-eval's generation arguments.

        Raises:
            ValueError: vLLM cannot generate like that.
        """
        if unknown := set(generation) - set(KNOWN):
            raise ValueError(f"--engine vllm knows no generation argument {', '.join(sorted(unknown))}")
        if generation.get("num_beams", 1) != 1:
            raise ValueError(f"num_beams={generation['num_beams']}: --engine vllm has no beam search here")
        asked = decoding(generation, self.prompts.max_new_tokens)
        sampling = self.llm.get_default_sampling_params()
        sampling.max_tokens = asked["max_new_tokens"]
        sampling.logprobs = 0  # of the token that was taken: NaN if the scores are
        if asked["do_sample"]:
            for name in ("temperature", "top_p", "top_k"):
                if name in asked:
                    setattr(sampling, name, asked[name])
        else:
            sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p = 0.0, 1.0, 0, 0.0
        sampling.stop_token_ids = self.prompts.tokenizer.encode(self.prompts.stop, add_special_tokens=False)
        sampling.ignore_eos = not self.prompts.own_ends
        return sampling

    def _answer(
        self, read: Any, prompt: Prompt, output: Any, generation: dict[str, Any], seconds: float
    ) -> Answer | Unanswerable:
        if isinstance(output, Unanswerable):
            return output
        done = output.outputs[0]
        if not all(
            math.isfinite(step[token].logprob) for token, step in zip(done.token_ids, done.logprobs, strict=True)
        ):
            return NoNumbers()
        record = self._record(prompt, output.prompt_token_ids)
        text = self.prompts.tokenizer.decode(done.token_ids, skip_special_tokens=True)
        text = self.prompts.finish(text, generation)
        spent = dict.fromkeys(STAGES, 0.0) | dict(read.seconds) | {"generate": seconds}
        return Answer(text, prompt.text, prompt.frames, prompt.duration, [record], spent, read.reading)

    def _record(self, prompt: Prompt, ids: Sequence[int]) -> Record:
        """Return what the video cost: vLLM tells how many tokens stayed, not of which frames.

        Raises:
            RuntimeError: vLLM did not compress as it was told.
        """
        t, m = prompt.shape
        rows, expected = ids.count(self.prompts.row), self.serving.total(t, m) + prompt.separators
        compressor = self.serving.compressor
        if rows != expected:
            raise RuntimeError(
                f"vLLM's prompt has {rows} rows for a video of {t} x {m} tokens, and {compressor.spec} should leave "
                f"{expected}: is the plug-in of vidcom2 loaded (VLLM_PLUGINS), and vLLM a tested version?"
            )
        method = compressor.spec if compressor.drops else "none"
        kept = (rows - prompt.separators,)
        start = list(ids).index(self.prompts.row)
        return Record(
            0, "video", method, self.prompts.numbering, start, (m,) * t, kept, prompt.separators, prompt.separators
        )
