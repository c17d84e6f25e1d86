"""Pinned prefixes: what stays in the cache while it keeps being asked for."""

from typing import Annotated

from pydantic import Field

from kvplan.scenario.schema.part import Number, Part, Positive, Seconds, Tokens


class PrefixPart(Part):
    """One kind of prefix: the first ``tokens`` of prompts, once ``min_uses`` of them began with the same.

    A pin lives for ``ttl`` after its last use; uses count together while they are no further apart.
    """

    tokens: Tokens
    ttl: Seconds = 300.0
    min_uses: Positive = 2


class PinnedPart(Part):
    """What is pinned, and the most of the pool (a share) that it may hold."""

    memory: Annotated[Number, Field(gt=0, lt=1)] = 0.2
    prefixes: Annotated[tuple[PrefixPart, ...], Field(min_length=1, max_length=16)]
