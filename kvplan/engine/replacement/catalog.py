"""All replacement policies by name. Importing this module registers them."""

from __future__ import annotations

from kvplan.engine.replacement import belady, keyed, s3_fifo, slru, tiny_lfu
from kvplan.engine.replacement.policy import REPLACEMENT
from kvplan.errors import UnknownName

MODULES = (keyed, slru, s3_fifo, tiny_lfu, belady)

OPTIMUM = "belady"
"""The one policy that knows the future."""

POLICIES = (
    "lru", "lfu", "fifo", "size-aware", "slru", "s3-fifo", "w-tinylfu", "priority", "tail-first", OPTIMUM,
)  # fmt: skip
"""Every name, vLLM's own order first and the optimum last."""

ONLINE = tuple(name for name in POLICIES if name != OPTIMUM)
"""What an engine could really run."""


def ensure_known(name: str) -> None:
    """Check a policy's name.

    Raises:
        UnknownName: there is no such policy; suggests near ones.
    """
    if name != "lru" and name not in REPLACEMENT:
        raise UnknownName("eviction policy", name, POLICIES)
