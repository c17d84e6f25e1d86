"""What becomes of a prompt whose blocks others need while the step that ends it is in flight."""

from __future__ import annotations

from enum import Enum


class Handover(Enum):
    """Rules of a prefill instance with overlapping steps; without them nobody is in flight who is preempted.

    ``KEPT``: the request keeps its blocks until the step has ended, and whoever needs them goes without
    (vLLM's ``defer_block_free``). ``REPEATED``: it is preempted, its token is thrown away, and the prompt is
    computed again (``requires_kv_delivery``). ``LOST``: it is preempted and ends with that token all the
    same: there is nothing to send, and the decode instance computes the prompt.
    """

    KEPT = "kept"
    REPEATED = "repeated"
    LOST = "lost"
