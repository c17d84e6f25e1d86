"""The pools of instances a deployment is made of: replicas, or prefill and decode instances."""

from __future__ import annotations

from dataclasses import dataclass

from kvplan.errors import UnknownName
from kvplan.scenario.rent import rent_of
from kvplan.scenario.schema import Scenario
from kvplan.scenario.schema.disaggregation import PoolPart
from kvplan.scenario.sizes import DECODE, PREFILL, REPLICAS
from kvplan.specs.catalog import load_gpu

OPTIONS = {
    "vllm": ("max_num_seqs", "max_num_batched_tokens"),
    "sglang": ("max_running_requests", "chunked_prefill_size"),
}
"""Options of an engine that a pool of its instances may have for itself."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Instances of one kind.

    Args:
        field: of the scenario, that says how many there are.
        gpu: name of its GPUs; None where nothing says.
        gpus: of one instance.
        cost: of one instance: an hour's rent in the scenario's currency; its GPUs where nothing has a price.
        serves: the scenario of one instance by itself.
        kv_role: vLLM's, of its connector; None where all is computed where it is decoded.
    """

    field: str
    gpu: str | None
    gpus: int
    cost: float
    serves: Scenario
    kv_role: str | None = None


def pools_of(scenario: Scenario) -> tuple[Pool, ...]:
    """The pools that a scenario asks for, whatever their sizes.

    Raises:
        UnknownName: no such GPU. UsageError: a GPU has no price, though others have.
    """
    parts = scenario.disaggregation
    if parts is None:
        return (_pool(REPLICAS, scenario),)
    sends = parts.prefill.kv_role
    receives = "kv_consumer" if sends == "kv_producer" else sends
    return (
        _pool(PREFILL, own_scenario(scenario, parts.prefill), sends),
        _pool(DECODE, _without_tiers(own_scenario(scenario, parts.decode)), receives),
    )


def _without_tiers(scenario: Scenario) -> Scenario:
    """Decode instances have none: SGLang's are those of the prefill servers, and vLLM's go with no pools."""
    if not scenario.has_tiers:
        return scenario
    cache = scenario.cache.model_copy(update={"host_memory": 0})
    return scenario.model_copy(update={"tiers": None, "cache": cache})


def own_scenario(scenario: Scenario, part: PoolPart) -> Scenario:
    """The scenario with what a pool of instances says instead."""
    elsewhere = {key: value for key in ("tp", "pp") if (value := getattr(part, key)) is not None}
    options = {
        key: value for key in OPTIONS[scenario.engine.kind] if (value := getattr(part, key)) is not None
    }
    changes: dict[str, object] = {}
    if part.gpu is not None:
        changes["gpu"] = part.gpu
    if elsewhere:
        changes["parallel"] = scenario.parallel.model_copy(update=elsewhere)
    if options:
        changes["engine"] = scenario.engine.model_copy(update=options)
    if part.blocks is not None:
        changes["cache"] = scenario.cache.model_copy(update={"blocks": part.blocks})
    return scenario.model_copy(update=changes) if changes else scenario


def _pool(field: str, own: Scenario, kv_role: str | None = None) -> Pool:
    spread = own.parallel
    gpus = spread.tp * spread.pp * spread.cp
    try:
        name = None if own.gpu is None else load_gpu(own.gpu).name
    except UnknownName as exc:
        exc.where = f"{field.removesuffix('instances')}gpu" if field != REPLICAS else "gpu"
        raise
    hourly = None if name is None else rent_of(own.price, {name: gpus}).per_hour
    return Pool(field, name, gpus, float(gpus) if hourly is None else hourly, own, kv_role)
