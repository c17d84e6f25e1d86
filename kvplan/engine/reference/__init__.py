"""The oracle: vLLM's v1 scheduler and cache, block by block, obvious rather than fast.

``kvplan audit`` and the tests hold the fast engine against this one, and this one against recordings of the
real scheduler. Rules are quoted in the docstrings by the name the real code gives them.
"""
