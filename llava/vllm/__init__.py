"""LLaVA-OneVision and LLaVA-Video in vLLM, from checkpoints in LLaVA-NeXT's layout as they are on the hub.

`plugin.register` is an entry point that vLLM loads by itself. Nothing else imports this package.
"""
