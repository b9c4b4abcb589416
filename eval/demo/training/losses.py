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
from llava.model.visual_layout import VisualRows, arrange_video
from vidcom2 import Kept
from vidcom2.models.names import cache_of, give_cache
from vidcom2.models.spliced import SEPARATOR

from .batches import QUESTIONS, Batch
from .model import PATCH


def video_pass(model: Any, batch: Batch) -> tuple[Any, int, Tensor]:
    """Run the LLM on the beginning of the chat and, if there is one, the video.

    Returns:
        The KV cache, the position id of the next token, and the loss of naming.
    """
    videos, prefix = len(batch.pixels), len(batch.before)
    before = model.model.embed_tokens(batch.before).expand(videos, -1, -1)
    if not batch.names.numel():
        nothing = torch.zeros((), device=before.device)
        return cache_of(model.model(inputs_embeds=before, use_cache=True)), prefix, nothing
    features = model.encode_images(batch.pixels.flatten(0, 1))
    stride = batch.view.cell // PATCH
    pooled = (model.get_2dPool(features, stride) if stride > 1 else features).unflatten(0, (videos, -1))
    arranged = [arrange(model, batch, video, kept) for video, kept in zip(pooled, batch.kept, strict=True)]
    rows = torch.cat([before, torch.stack([visual.rows for visual in arranged])], dim=1)
    original = batch.view.original
    places = torch.arange(rows.shape[1], device=rows.device).expand(videos, -1)
    if original:
        offsets = torch.stack([visual.offset for visual in arranged]).to(rows.device)
        places = torch.cat([places[:, :prefix], prefix + offsets], dim=1)
    video = model.model(inputs_embeds=rows, position_ids=places, use_cache=True)
    patches = torch.stack([visual.frame != SEPARATOR for visual in arranged])
    visual = video.last_hidden_state[:, prefix:][patches].unflatten(0, (videos, -1))
    log_words = model.lm_head(visual).float().log_softmax(-1)
    named = -log_words.gather(-1, batch.names).mean(-1)
    after = prefix + (arranged[0].length if original else len(arranged[0].rows))
    return cache_of(video), after, (named * batch.weights).sum() / batch.weights.sum()


def arrange(model: Any, batch: Batch, video: Tensor, kept: Tensor) -> VisualRows:
    """Arrange the visual tokens of one clip [T, M, D], of which those with the numbers `kept` are seen."""
    budgets = torch.bincount(kept // video.shape[1], minlength=len(video))
    some = None if batch.view.missing == "nothing" else Kept(kept, budgets)
    return arrange_video(video, model.model.image_newline, batch.view.newlines, some, "released")


def answer_loss(model: Any, batch: Batch, cache: Any, after: int) -> tuple[Tensor, Tensor]:
    """Run the LLM on the questions.

    Args:
        model: The model.
        batch: The batch.
        cache: The KV cache of `video_pass`. It cannot be used again.
        after: The position id of the first token after it.

    Returns:
        The cross entropy over all labels, and whether each question's answer is right, bool [B * QUESTIONS].
    """
    cache.batch_repeat_interleave(QUESTIONS)
    places = after + torch.arange(batch.ids.shape[1], device=batch.ids.device)[None]
    called = {"inputs_embeds": model.model.embed_tokens(batch.ids), "position_ids": places, "use_cache": True}
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
