"""What was simulated on: the model, the GPU, the bill of memory, the pool and what it has room for."""

from typing import Annotated

from pydantic import Field

from kvplan.reporting.schema.part import Amount, Count, Part


class Model(Part):
    """The model as it was sized."""

    name: str
    summary: str
    kv_bytes_per_token: Count
    state_bytes_per_sequence: Count
    weights_bytes: Count | None
    kv_dtype: str


class Gpu(Part):
    """The device; ``memory_bytes`` is of one of the ``count`` devices of a replica."""

    name: str
    memory_bytes: Count
    bandwidth_bytes_per_s: Amount | None
    count: Annotated[int, Field(ge=1)]


class BillItem(Part):
    """One line of the bill of memory."""

    name: str
    bytes: Count
    formula: str
    source: str


class Memory(Part):
    """The bill of one GPU, and what its KV pool holds; ``max_concurrency`` is that of all replicas.

    ``starts``: whether the engine would, or refuse as its pool holds less than one longest request;
    ``longest_request`` is what it does hold, in tokens.
    """

    bill: list[BillItem]
    total_bytes: Count
    num_blocks: Count
    block_size: Annotated[int, Field(ge=1)]
    kv_tokens: Count
    max_concurrency: Amount | None
    max_concurrency_context: Count | None
    starts: bool = True
    longest_request: Count | None = None


class Pool(Part):
    """The block pool the simulation used; ``usable_blocks`` leaves out the reserved null block."""

    num_blocks: Count
    usable_blocks: Count
    block_size: Annotated[int, Field(ge=1)]


class CapacityPoint(Part):
    """How many sequences of one context length fit at once."""

    context_tokens: Annotated[int, Field(ge=1, le=10**30)]
    max_concurrency: Amount


class CapacityCurve(Part):
    """Concurrency against context for one KV number format."""

    dtype: str
    points: list[CapacityPoint]
