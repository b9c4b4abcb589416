"""Training data in LLaVA-NeXT's form. The training itself is `scripts/finetune.py`."""

from llava.train.data import Example, VideoConversations, collate, read_examples

__all__ = ["Example", "VideoConversations", "collate", "read_examples"]
