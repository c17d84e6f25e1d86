"""kvplan: how much memory a model's KV cache takes, what fits, and what happens to it under traffic."""

from __future__ import annotations

__version__ = "0.1.0"
