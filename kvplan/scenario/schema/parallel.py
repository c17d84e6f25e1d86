"""How the GPUs are used together."""

from typing import Annotated

from pydantic import AfterValidator, Field

from kvplan.engine.router import ROUTERS
from kvplan.scenario.schema.part import Part, Ranks
from kvplan.sizing.parallel import attention_ranks

Replicas = Annotated[int, Field(strict=True, ge=1, le=4096)]


def _known_router(name: str) -> str:
    """Also where there is one replica and nothing to route: a misspelt policy is never ignored."""
    if name not in ROUTERS:
        raise ValueError(f"unknown routing policy {name!r}; known: {', '.join(ROUTERS)}")
    return name


Router = Annotated[str, AfterValidator(_known_router)]


class ParallelPart(Part):
    """How one replica is spread over GPUs, and how many replicas there are.

    ``expert_parallel``: whole experts are dealt to the tensor-parallel ranks (vLLM's
    ``enable_expert_parallel``, SGLang's ``ep_size`` equal to ``tp_size``) instead of cutting each.
    ``dp_attention``: each of the ``tp`` ranks has sequences and a pool of its own (SGLang's
    ``enable_dp_attention``, vLLM's ``data_parallel_size`` with experts over all ranks). ``attention_ranks``:
    so many groups of these GPUs have (SGLang's ``dp_size``, vLLM's ``data_parallel_size`` of engines whose
    ``tensor_parallel_size`` is the rest of ``tp``).
    """

    tp: Ranks = 1
    pp: Ranks = 1
    cp: Ranks = 1
    expert_parallel: bool = False
    dp_attention: bool = False
    attention_ranks: Ranks | None = None
    replicas: Replicas = 1

    @property
    def ranks(self) -> int:
        """Groups of the ``tp`` GPUs that have sequences of their own; 1 without data-parallel attention."""
        return attention_ranks(self.tp, dp_attention=self.dp_attention, given=self.attention_ranks)


class RoutingPart(Part):
    """How requests are dealt: ``policy`` to replicas, ``ranks`` to the ranks of data-parallel attention.

    Without ``ranks`` as the engine does it: vLLM to the least loaded, SGLang in turn, and to ranks of its
    prefill servers by a number that the router draws.
    """

    policy: Router = "round-robin"
    ranks: Router | None = None
