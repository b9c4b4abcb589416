"""The losses: naming what the visual tokens show, and answering questions.

The questions on a video share its keys and values. The video passes through tower and LLM once, and every question
continues from there, exactly as if it were alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from llava.constants import IGNORE_INDEX
from vidcom2.models.names import cache_of, give_cache

from ..world import UNITS
from .batches import QUESTIONS, Batch


def video_pass(model: Any, batch: Batch) -> tuple[Any, Tensor]:
    """Run the LLM on the beginning of the chat and, if there is one, the video.

    Returns:
        The KV cache, and the loss of naming.
    """
    videos = len(batch.pixels)
    embed = model.model.embed_tokens
    before = embed(batch.before).expand(videos, -1, -1)
    if not batch.names.numel():
        return cache_of(model.model(inputs_embeds=before, use_cache=True)), torch.zeros((), device=before.device)
    features = model.encode_images(batch.pixels.flatten(0, 1))
    pooled = model.get_2dPool(features, 2).unflatten(0, (videos, UNITS)).flatten(1, 2)  # [B, T * M, D]
    newline = model.model.image_newline.expand(videos, 1, -1)
    video = model.model(inputs_embeds=torch.cat([before, pooled, newline], dim=1), use_cache=True)
    visual = video.last_hidden_state[:, len(batch.before) : -1]  # without the newline
    log_words = model.lm_head(visual).float().log_softmax(-1)
    named = -log_words.gather(-1, batch.names).mean(-1)
    return cache_of(video), (named * batch.weights).sum() / batch.weights.sum()


def answer_loss(model: Any, batch: Batch, cache: Any) -> tuple[Tensor, Tensor]:
    """Run the LLM on the questions.

    Args:
        model: The model.
        batch: The batch.
        cache: The KV cache of `video_pass`. It cannot be used again.

    Returns:
        The cross entropy over all labels, and whether each question's answer is right, bool [B * QUESTIONS].
    """
    cache.batch_repeat_interleave(QUESTIONS)
    called = {"inputs_embeds": model.model.embed_tokens(batch.ids), "use_cache": True}
    give_cache(model.model, called, cache)
    hidden = model.model(**called).last_hidden_state
    targets = batch.labels[:, 1:]
    learned = targets != IGNORE_INDEX
    logits = model.lm_head(hidden[:, :-1][learned])
    places = torch.arange(targets.shape[1], device=targets.device)
    # The end of the turn is the last label. The answer is the one before it.
    answer = places == (learned * places).amax(dim=1, keepdim=True) - 1
    right = logits.argmax(-1)[answer[learned]] == targets[answer]
    return cross_entropy(logits.float(), targets[learned]), right
