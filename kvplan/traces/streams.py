"""Named random streams: turning one feature on draws from its own stream and moves no other."""

from __future__ import annotations

import hashlib
import random


def stream(seed: int, name: str) -> random.Random:
    """The generator called ``name`` under ``seed``; the same on every machine and Python."""
    digest = hashlib.sha256(f"kvplan/{seed}/{name}".encode()).digest()
    return random.Random(int.from_bytes(digest, "big"))
