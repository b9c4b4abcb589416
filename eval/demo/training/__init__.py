"""How the demo model was made, and what it says about the methods. Not part of the installed package.

`python -m eval.demo.training.train OUTPUT` trains the model; `python -m eval.demo.training.methods` evaluates it with
every method and writes docs/demo-methods.md.
"""
