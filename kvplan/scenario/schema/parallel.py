"""How the GPUs are used together."""

from __future__ import annotations

from kvplan.scenario.schema.part import Part, Positive


class ParallelPart(Part):
    """How one replica is spread over GPUs, and how many replicas there are."""

    tp: Positive = 1
    pp: Positive = 1
    cp: Positive = 1
    replicas: Positive = 1


class RoutingPart(Part):
    """How requests are dealt to the replicas."""

    policy: str = "round-robin"
