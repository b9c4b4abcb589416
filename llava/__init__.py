"""A tree compatible with LLaVA-NeXT: it keeps upstream's public names, config fields and checkpoint keys.

The code is our own. `llava.model` holds the models, `llava.video` reads video files, `llava.mm_utils` turns images and
prompts into model inputs, and `llava.conversation` writes prompts.
"""

from importlib.util import find_spec

NEEDED = ("transformers", "accelerate", "einops", "numpy", "PIL", "safetensors")
if _missing := [module for module in NEEDED if find_spec(module) is None]:
    raise ModuleNotFoundError(f"llava needs {', '.join(_missing)}: pip install -c requirements.txt -e .[llava]")

from llava.model import LlavaLlamaForCausalLM, LlavaQwenForCausalLM  # noqa: E402

__all__ = ["LlavaLlamaForCausalLM", "LlavaQwenForCausalLM"]
