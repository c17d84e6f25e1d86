"""How many random cases a law is held against, and which."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings


def examples(count: int) -> settings:
    """So many, the same ones in every run."""
    return settings(max_examples=count, suppress_health_check=list(HealthCheck))


def fuzz(count: int) -> settings:
    """So many; as many as ``KVPLAN_FUZZ_EXAMPLES`` says where it says so, and if these are more, new ones."""
    asked = int(os.environ.get("KVPLAN_FUZZ_EXAMPLES", count))
    return settings(examples(asked), derandomize=asked <= count)
