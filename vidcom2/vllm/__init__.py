"""The methods of vidcom2 in vLLM: a plug-in that vLLM loads by itself. Nothing else imports this package.

`plugin.register` is the entry point. `serving` chooses the compressor of an engine. One file per family of models has
vLLM's model with a compressor between projector and LLM.
"""
