"""Prefill and decode on instances of their own."""

from typing import Annotated, Literal

from pydantic import Field

from kvplan.scenario.schema.part import Bandwidth, Lanes, Latency, Natural, Part, Positive, Ranks, Tokens

Instances = Annotated[int, Field(strict=True, ge=1, le=1024)]


class PoolPart(Part):
    """One pool; what is left out is as in the rest of the scenario. Options have the engine's own names."""

    instances: Instances = 1
    router: str = "round-robin"
    gpu: str | None = None
    tp: Ranks | None = None
    pp: Ranks | None = None
    blocks: Annotated[int, Field(strict=True, ge=2, le=1 << 40)] | None = None
    max_num_seqs: Positive | None = None
    max_num_batched_tokens: Tokens | None = None
    max_running_requests: Positive | None = None
    chunked_prefill_size: Annotated[int, Field(strict=True, ge=-1, le=1 << 40)] | None = None


class DecodePart(PoolPart):
    """The decode pool: SGLang's own options are under its own names, without ``disaggregation_decode_``."""

    num_reserved_decode_tokens: Natural | None = None
    extra_slots: Natural | None = None
    enable_radix_cache: bool | None = None


class PrefillPart(PoolPart):
    """The prefill pool; ``kv_role`` is vLLM's, of its connector."""

    kv_role: Literal["kv_both", "kv_producer"] = "kv_both"


class DisaggregationPart(Part):
    """The two pools and how a cache gets from one to the other.

    ``link`` is a link spec, and ``bandwidth`` and ``latency`` replace its figures; ``lanes`` adapters lie
    side by side in every instance. ``streaming: layerwise`` sends each layer while the last step of a prompt
    is computed, as vLLM's MoRIIO connector writes. ``dtype`` is the number format the cache travels in.
    ``first_token`` says which instance's first token the client sees. ``bytes_per_token`` (all layers) and
    ``layers`` are for scenarios without a model.
    """

    prefill: PrefillPart = PrefillPart()
    decode: DecodePart = DecodePart()
    link: str = "ib-ndr"
    lanes: Lanes = 1
    bandwidth: Bandwidth | None = None
    latency: Latency | None = None
    streaming: Literal["whole", "layerwise"] = "whole"
    dtype: str | None = None
    through: Literal["direct", "host"] = "direct"
    first_token: Literal["decode", "prefill"] = "decode"
    bytes_per_token: Positive | None = None
    layers: Annotated[int, Field(strict=True, ge=1, le=10_000)] | None = None
