"""The demo: MiniBench, a small benchmark that is generated, and a small trained model that answers it.

`world` draws scenes and asks about them, `minibench` writes them as benchmarks, and `run` evaluates the model in
`model/`. `training` made that model; it is not part of the installed package, and nothing outside it imports it.
"""
