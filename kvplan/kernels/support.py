"""Which formats run on which GPU architecture, and why not. No torch here.

Code is generated for compute capability 8.0 and newer. Formats need no hardware conversion: where a GPU
cannot convert e4m3 (before 8.9) the kernels use integer operations instead.
"""

from __future__ import annotations

from kvplan.errors import EnvironmentLacks
from kvplan.kernels.formats import KVFormat

OLDEST = 80
TESTED = (80, 90, 100)
"""Architectures every shipped variant is compiled for in the tests."""


def why_not(capability: int | None) -> str | None:
    """Why no kernel runs on this architecture; ``None`` when all do.

    Args:
        capability: compute capability times ten (90 for Hopper); ``None`` for no GPU (the torch reference).
    """
    if capability is None:
        return None
    if capability < OLDEST:
        return f"needs compute capability 8.0 or newer, this GPU has {capability // 10}.{capability % 10}"
    return None


def require(fmt: KVFormat, capability: int | None) -> None:
    """Raise unless ``fmt`` runs on this architecture.

    Raises:
        EnvironmentLacks: with the reason.
    """
    reason = why_not(capability)
    if reason:
        raise EnvironmentLacks(f"{fmt.name} {reason}", hint='backend="reference" runs on any device')
