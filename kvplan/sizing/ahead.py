"""Whether vLLM plans the next step while one runs (``--async-scheduling``), and beside what it can.

By ``VllmConfig.__post_init__`` of 0.14 to 0.33: what a release cannot do beside it turns it off, and refuses
to start where it was asked for.
"""

from __future__ import annotations

Version = tuple[int, int, int]

ASYNC = (0, 14, 0)
"""vLLM from here on plans the next step while one runs, unless told not to."""
BESIDE_STAGES = (0, 15, 0)
"""Also where the layers are cut into stages of a pipeline."""
BESIDE_DRAFT_MODELS = (0, 28, 0)
"""Also where another model drafts; beside layers trained for it, or the model's own, from the beginning."""
BESIDE_LOOKUPS = (0, 33, 0)
"""Also where drafts are looked up in the prompt: the second model runner does that on the GPU."""


def can_plan_ahead(version: Version, *, pp: int = 1, draft_model: bool = False, lookup: bool = False) -> bool:
    """Whether a version can beside that.

    Args:
        draft_model, lookup: who drafts, if it is a model of its own, or nobody but the prompt.
    """
    beside = ((BESIDE_STAGES, pp > 1), (BESIDE_DRAFT_MODELS, draft_model), (BESIDE_LOOKUPS, lookup))
    return all(version >= first for first, has in beside if has)
