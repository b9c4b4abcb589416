"""A LLaVA-NeXT compatible tree: upstream's public names, config fields and checkpoint keys, our own code."""

from llava.model import LlavaLlamaForCausalLM, LlavaQwenForCausalLM

__all__ = ["LlavaLlamaForCausalLM", "LlavaQwenForCausalLM"]
