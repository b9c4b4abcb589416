"""Training data in LLaVA-NeXT's form. The training itself is `scripts/finetune.py`."""

from llava.train.data import Collate, Example, VideoConversations, read_examples

__all__ = ["Collate", "Example", "VideoConversations", "read_examples"]
