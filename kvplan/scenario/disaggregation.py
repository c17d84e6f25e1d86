"""From ``disaggregation`` of a scenario to pools, a route between them, and the strategy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kvplan.engine.config import EngineConfig
from kvplan.engine.disaggregation.fabric import Stage
from kvplan.engine.disaggregation.handover import Handover
from kvplan.engine.disaggregation.journey import FirstToken
from kvplan.engine.disaggregation.sglang.strategy import SglangDisaggregation
from kvplan.engine.disaggregation.strategy import Disaggregation, PoolPlan
from kvplan.errors import KvplanError, UnknownName, UsageError
from kvplan.latency.assumption import Assumption
from kvplan.latency.curve import SpecLink
from kvplan.latency.transfer import (
    Channel,
    Quantized,
    device_to_host,
    host_to_device,
    network,
    quantized,
    slower,
)
from kvplan.scenario.chosen import Chosen
from kvplan.scenario.clock import clock_of
from kvplan.scenario.deployment import Deployment
from kvplan.scenario.pools import own_scenario
from kvplan.scenario.resolve import resolve_deployment
from kvplan.scenario.schema import Scenario
from kvplan.scenario.schema.disaggregation import DisaggregationPart, PoolPart
from kvplan.scenario.sglang_disaggregation import (
    about_options,
    about_ranks,
    check_names,
    check_sglang,
    check_vllm,
    decode_options,
    lanes_of,
    ranks_of,
    unchecked,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvplan.latency.clock import Clock
    from kvplan.sizing.report import SizeReport
    from kvplan.specs.model import ModelSpec
    from kvplan.specs.schema import GpuSpec

SECTION = "disaggregation"

FENCES = (0, 24, 0)
"""vLLM from here on frees no blocks under a step in flight where its connector may load (``kv_both``)."""

DELIVERS = (0, 27, 0)
"""vLLM from here on computes a prompt again that is preempted while it ends, where its connector sends."""

CONVENTIONS = {
    "decode": "sampled by the decode instance, as vLLM does",
    "prefill": "sampled by the prefill instance, as DistServe and Mooncake count",
}


@dataclass(frozen=True, slots=True)
class _Side:
    """One pool, resolved: where its instances run and what they are; ``clock``: its own, if it has one."""

    name: str
    plan: PoolPlan
    deployment: Deployment
    clock: Clock | None = None

    def perturbed(self, draw: Sequence[float]) -> PoolPlan:
        """The pool with a clock of its own that is off like the others'."""
        if self.clock is None or self.clock.perturbed is None:
            return self.plan
        return replace(self.plan, latency=self.clock.perturbed(draw))

    @property
    def gpus(self) -> int:
        return self.deployment.parallel.gpus


@dataclass(frozen=True, slots=True)
class _Conversion:
    """What turning a cache into the wire's number format, or back, takes one GPU."""

    quantized: Quantized

    def seconds(self, size: int, /) -> float:
        return self.quantized.convert_seconds(size)


def disaggregation(scenario: Scenario, deployment: Deployment, part: DisaggregationPart) -> Chosen:
    """The strategy, and what it assumes.

    Raises:
        UsageError: replicas beside pools, or a part that does not go with the rest (says which).
        UnknownName: no such link, GPU or number format.
        AnswerIsNo: the model does not fit on a pool's GPU.
    """
    _check(scenario, part)
    sides = tuple(_side(scenario, deployment, name, getattr(part, name)) for name in ("prefill", "decode"))
    prefill, decode = sides
    token_bytes, assumed = _token_bytes(deployment, part)
    route, more = _route(part, deployment, prefill, decode, lanes_of(scenario, part))
    block_bytes = token_bytes * deployment.config.block_size
    strategy: Disaggregation | SglangDisaggregation
    if isinstance(deployment.config, EngineConfig):
        strategy = Disaggregation(
            route=route,
            block_bytes=block_bytes,
            prefill=prefill.plan,
            decode=decode.plan,
            layers=_layers(deployment, part),
            first_token=FirstToken(part.first_token),
            handover=_handover(scenario, part),
        )
        instances = strategy.pools(deployment.config)
        convention = CONVENTIONS[part.first_token]
    else:
        strategy = SglangDisaggregation(
            route=route,
            block_bytes=block_bytes,
            prefill=prefill.plan,
            decode=decode.plan,
            options=decode_options(scenario, part),
        )
        instances = strategy.pools(deployment.config)
        convention = "sampled by the prefill instance, handed out by the decode instance, as SGLang does"
        about = about_options(strategy.options, part, deployment.fit)
        more = (*more, *about_ranks(scenario, part), *about)
    return Chosen(
        strategy,
        (Assumption(f"{SECTION}.first_token", part.first_token, convention), *assumed, *more),
        _warnings(scenario, sides),
        instances,
        _gpus(sides),
        lambda draw: replace(
            strategy,
            route=tuple(replace(stage, carrier=slower(stage.carrier, draw[0])) for stage in route),
            prefill=prefill.perturbed(draw),
            decode=decode.perturbed(draw),
        ),
    )


def _handover(scenario: Scenario, part: DisaggregationPart) -> Handover:
    """What vLLM does with prompts whose blocks it needs while they end."""
    from kvplan.sizing.serving import parse_version

    version = parse_version(scenario.engine.version)
    if part.prefill.kv_role == "kv_both" and version >= FENCES:
        return Handover.KEPT
    return Handover.REPEATED if version >= DELIVERS else Handover.LOST


def _gpus(sides: tuple[_Side, ...]) -> dict[str, int]:
    """How many GPUs the pools have together, by name."""
    found: dict[str, int] = {}
    for side in sides:
        name = side.deployment.gpu_name
        found[name] = found.get(name, 0) + side.gpus * side.plan.instances
    return found


def _check(scenario: Scenario, part: DisaggregationPart) -> None:
    check_names(scenario, part)
    if scenario.engine.kind == "sglang":
        check_sglang(scenario, part)
    else:
        check_vllm(part)
    if scenario.parallel.replicas > 1:
        raise UsageError(
            f"{scenario.parallel.replicas} replicas beside pools of prefill and decode instances",
            where="parallel.replicas",
            hint="say disaggregation.prefill.instances and disaggregation.decode.instances",
        )


def _warnings(scenario: Scenario, sides: tuple[_Side, ...]) -> tuple[str, ...]:
    found: dict[str, None] = dict.fromkeys(unchecked(scenario))
    for side in sides:
        if side.plan.config is not None:
            found.update(dict.fromkeys(f"{side.name} pool: {text}" for text in side.deployment.warnings))
    return tuple(found)


# -- pools ------------------------------------------------------------------------------------------------


def _side(scenario: Scenario, deployment: Deployment, name: str, part: PoolPart) -> _Side:
    """A pool's own deployment: the scenario's, with what the pool says instead."""
    where = f"{SECTION}.{name}"
    if part.blocks is not None and (part.gpu is not None or part.tp is not None or part.pp is not None):
        raise UsageError(
            "a pool has blocks, or a GPU and parallelism that they follow from", where=f"{where}.blocks",
            hint="leave one of them out",
        )  # fmt: skip
    elsewhere = {key: getattr(part, key) for key in ("tp", "pp") if getattr(part, key) is not None}
    if (elsewhere or part.gpu is not None) and deployment.fit is None:
        raise UsageError(
            f"{'gpu' if part.gpu is not None else next(iter(elsewhere))} of a pool needs a model and a GPU",
            where=where,
            hint="name 'model' and 'gpu' in the scenario, or say blocks",
        )
    if (elsewhere or part.gpu is not None) and scenario.cache.blocks is not None:
        raise UsageError(
            "cache.blocks fixes the blocks of every pool, whatever its GPUs", where=where,
            hint=f"leave cache.blocks out, or say {where}.blocks",
        )  # fmt: skip
    own = own_scenario(scenario, part)
    ranks = None
    if scenario.engine.kind == "sglang" and scenario.disaggregation is not None:
        ranks = ranks_of(scenario, scenario.disaggregation, part)
    if own is scenario:
        return _Side(name, PoolPlan(part.instances, part.router, ranks=ranks), deployment)
    try:
        found = resolve_deployment(own)
        moved = found.gpu != deployment.gpu or found.parallel != deployment.parallel
        clock = clock_of(own, found) if moved else None
    except KvplanError as exc:
        exc.where = f"{where}: {exc.where}" if exc.where else where
        raise
    latency = None if clock is None else clock.model
    return _Side(name, PoolPlan(part.instances, part.router, found.config, latency, ranks), found, clock)


# -- bytes ------------------------------------------------------------------------------------------------


def _token_bytes(deployment: Deployment, part: DisaggregationPart) -> tuple[int, tuple[Assumption, ...]]:
    """KV bytes of a token over all layers, one copy of every head."""
    if deployment.model is None:
        if part.bytes_per_token is None:
            raise UsageError(
                "without a model the bytes of a token's cache are unknown",
                where=f"{SECTION}.bytes_per_token",
                hint="name a model, or say for example bytes_per_token: 131072",
            )
        return part.bytes_per_token, ()
    if part.bytes_per_token is not None:
        raise UsageError(
            f"the bytes of a token follow from {deployment.model.name}", where=f"{SECTION}.bytes_per_token",
            hint="leave it out",
        )  # fmt: skip
    report = _size(deployment.model, deployment, None)
    size = report.kv_bytes_per_token
    if not isinstance(deployment.config, EngineConfig):
        # Windows that have no pool of their own lie in the full one, and are sent whole.
        size += round(sum(row.count * row.window_bytes_per_token for row in report.rows))
    if size == 0:
        raise UsageError(
            f"no layer of {deployment.model.name} keeps a cache of the whole context: its state is not sent "
            "block by block",
            where=SECTION,
            hint="simulate it without disaggregation",
        )
    whose = f"the cache of {deployment.model.name}, all layers"
    drafter = _drafter(deployment)
    if drafter is not None:
        size += _size(drafter, deployment, None).kv_bytes_per_token
        whose += ", and of its drafter"
    return size, (Assumption(f"{SECTION}.bytes_per_token", size, whose),)


def _drafter(deployment: Deployment) -> ModelSpec | None:
    """Whose cache is sent beside the model's, as vLLM's NIXL connector sends all layers that have one."""
    fit = deployment.fit
    if fit is None or not (fit.draft or fit.drafter):
        return None
    from kvplan.latency.drafting import own_drafter

    return fit.drafter or own_drafter(fit.model)


def _size(model: ModelSpec, deployment: Deployment, form: str | None) -> SizeReport:
    from kvplan.sizing.size import size_model

    fit = deployment.fit
    kept = fit.kv_format if fit is not None else None
    return size_model(model, context_tokens=1, kv=kept if form is None else form)


def _layers(deployment: Deployment, part: DisaggregationPart) -> int:
    """Layers to stream one by one; 0 sends whole caches."""
    if part.streaming == "whole":
        if part.layers is not None:
            raise UsageError(
                "whole caches are sent in one piece",
                where=f"{SECTION}.layers",
                hint="say streaming: layerwise",
            )
        return 0
    if deployment.model is not None:
        if part.layers is not None:
            raise UsageError(
                f"the number of layers follows from {deployment.model.name}", where=f"{SECTION}.layers",
                hint="leave it out",
            )  # fmt: skip
        return deployment.model.num_layers
    if part.layers is None:
        raise UsageError(
            "without a model the number of layers is unknown", where=f"{SECTION}.layers",
            hint="name a model, or say for example layers: 32",
        )  # fmt: skip
    return part.layers


# -- the way ----------------------------------------------------------------------------------------------


def _route(
    part: DisaggregationPart, deployment: Deployment, prefill: _Side, decode: _Side, lanes: int
) -> tuple[tuple[Stage, ...], tuple[Assumption, ...]]:
    """Stages from a prefill to a decode instance, and what they assume; ``lanes`` carry a cache together."""
    ratio, form = _ratio(deployment, part)
    link = _link(part, lanes)
    stages = [Stage(link.name, link, prefill=True, decode=True, ratio=ratio, link=True)]
    assumed = list(link.assumptions())
    if part.through == "host":
        out = device_to_host(_gpu(prefill, "through"), lanes=prefill.gpus)
        back = host_to_device(_gpu(decode, "through"), lanes=decode.gpus)
        stages = [
            Stage("device to host", out, prefill=True, ratio=ratio),
            *stages,
            Stage("host to device", back, decode=True, ratio=ratio),
        ]
        for channel in (out, back):
            assumed += channel.assumptions()
    if form is not None:
        ends = [
            quantized(replace(link, lanes=side.gpus), _gpu(side, "dtype"), ratio=ratio)
            for side in (prefill, decode)
        ]
        stages = [
            Stage(f"to {form}", _Conversion(ends[0]), prefill=True),
            *stages,
            Stage(f"from {form}", _Conversion(ends[1]), decode=True),
        ]
        assumed += [item for end in ends for item in end.assumptions() if item.name.endswith(".convert")][:1]
        assumed.append(Assumption(f"{SECTION}.wire_bytes", ratio, f"bytes in {form} per byte of cache"))
    return tuple(stages), tuple(assumed)


def _link(part: DisaggregationPart, lanes: int) -> Channel:
    try:
        channel = network(part.link, lanes=lanes)
    except UnknownName as exc:
        exc.where = f"{SECTION}.link"
        raise
    if part.bandwidth is None and part.latency is None:
        return channel
    curve = channel.curve
    given = SpecLink(
        channel.name,
        curve.latency_s if part.latency is None else part.latency,
        curve.bandwidth_bytes_per_s if part.bandwidth is None else part.bandwidth,
    )
    return replace(channel, curve=given, source=f"{channel.source}, with the scenario's own figures")


def _ratio(deployment: Deployment, part: DisaggregationPart) -> tuple[float, str | None]:
    """Bytes on the way per byte of cache, and the format where it is another one."""
    if part.dtype is None:
        return 1.0, None
    where = f"{SECTION}.dtype"
    if deployment.fit is None:
        raise UsageError(
            f"how many bytes a cache has in {part.dtype} follows from a model and a GPU, which the scenario "
            "does not name",
            where=where,
            hint="name both, or say fewer bytes_per_token",
        )
    try:
        sent, kept = (_size(deployment.fit.model, deployment, form) for form in (part.dtype, None))
    except KvplanError as exc:
        exc.where = where
        raise
    ratio = sent.kv_bytes_per_token / kept.kv_bytes_per_token
    if ratio >= 1:
        raise UsageError(
            f"{part.dtype} is not smaller than the cache's own {deployment.fit.kv_format.name}", where=where,
            hint="leave it out: the cache is then sent as it is",
        )  # fmt: skip
    return ratio, part.dtype


def _gpu(side: _Side, key: str) -> GpuSpec:
    gpu = side.deployment.gpu
    if gpu is None:
        raise UsageError(
            f"{key} of a transfer needs the GPU of the {side.name} pool, which the scenario does not name",
            where=f"{SECTION}.{key}",
            hint="name 'gpu'",
        )
    return gpu
