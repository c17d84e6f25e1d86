"""The cache on its way from a prefill to a decode instance: its bytes, and the stages they pass."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kvplan.engine.disaggregation.fabric import Stage
from kvplan.engine.disaggregation.sglang.payload import NO_PAYLOAD, StatePayload
from kvplan.engine.sglang_states.strategy import RecurrentStates
from kvplan.engine.sglang_windows.strategy import WindowPools
from kvplan.errors import KvplanError, UnknownName, UsageError
from kvplan.latency.assumption import Assumption
from kvplan.latency.transfer import (
    Channel,
    Quantized,
    device_to_host,
    host_to_device,
    network,
    quantized,
)
from kvplan.scenario.deployment import Deployment
from kvplan.scenario.schema.disaggregation import DisaggregationPart
from kvplan.scenario.side import SECTION, Side, gpu_of

if TYPE_CHECKING:
    from kvplan.sizing.report import SizeReport
    from kvplan.specs.model import ModelSpec


@dataclass(frozen=True, slots=True)
class _Conversion:
    """What turning a cache into the wire's number format, or back, takes one GPU."""

    quantized: Quantized

    def seconds(self, size: int, /) -> float:
        return self.quantized.convert_seconds(size)


def token_bytes(
    deployment: Deployment, part: DisaggregationPart, *, apart: bool = False
) -> tuple[int, tuple[Assumption, ...]]:
    """KV bytes of a token over all layers, one copy of every head, and what that assumes.

    Args:
        apart: whether SGLang's servers have windows in a pool of their own, which are not among these.

    Raises:
        UsageError: given beside a model that they follow from, or neither; a model that keeps none.
    """
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
    report = kept_report(deployment.model, deployment)
    size = report.kv_bytes_per_token
    if not apart:
        # Windows that have no groups or pool of their own lie among the others, and are sent whole.
        size += round(sum(row.count * row.window_bytes_per_token for row in report.rows))
    if size == 0:
        raise keeps_nothing(deployment.model)
    whose = f"the cache of {deployment.model.name}, all layers"
    drafter = _drafter(deployment)
    if drafter is not None:
        size += _size(drafter, deployment, None).kv_bytes_per_token
        whose += ", and of its drafter"
    return size, (Assumption(f"{SECTION}.bytes_per_token", size, whose),)


def payload_of(deployment: Deployment, beside: RecurrentStates | WindowPools | None) -> StatePayload:
    """What SGLang sends with the last page of a prompt where its servers have this beside their tokens."""
    if beside is None or deployment.model is None:
        return NO_PAYLOAD
    report = kept_report(deployment.model, deployment)
    if isinstance(beside, WindowPools):
        size = round(sum(row.count * row.window_bytes_per_token for row in report.rows))
        page = deployment.config.block_size
        return StatePayload(window_block_bytes=size * page, span=beside.windows.span)
    return StatePayload(state_bytes=report.state_bytes_per_sequence)


def keeps_nothing(model: ModelSpec) -> UsageError:
    """The answer about a model that has nothing but states."""
    return UsageError(
        f"no layer of {model.name} keeps a cache of the context: its state is not sent block by block",
        where=SECTION,
        hint="simulate it without disaggregation",
    )


def kept_report(model: ModelSpec, deployment: Deployment) -> SizeReport:
    """What a model keeps of one token, in the deployment's number format."""
    return _size(model, deployment, None)


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


def layers_of(deployment: Deployment, part: DisaggregationPart) -> int:
    """Layers to stream one by one; 0 sends whole caches.

    Raises:
        UsageError: given where they follow from the model or are not asked for, or neither.
    """
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


def route_between(
    part: DisaggregationPart, deployment: Deployment, prefill: Side, decode: Side, lanes: int
) -> tuple[tuple[Stage, ...], tuple[Assumption, ...]]:
    """Stages from a prefill to a decode instance, and what they assume; ``lanes`` carry a cache together.

    Raises:
        UnknownName: no such link or number format.
        UsageError: a format that is not smaller than the cache's, or a GPU that is needed and not named.
    """
    ratio, form = _ratio(deployment, part)
    link = _link(part, lanes)
    stages = [Stage(link.name, link, prefill=True, decode=True, ratio=ratio, link=True)]
    assumed = list(link.assumptions())
    if part.through == "host":
        out = device_to_host(gpu_of(prefill, "through"), lanes=prefill.gpus)
        back = host_to_device(gpu_of(decode, "through"), lanes=decode.gpus)
        stages = [
            Stage("device to host", out, prefill=True, ratio=ratio),
            *stages,
            Stage("host to device", back, decode=True, ratio=ratio),
        ]
        for channel in (out, back):
            assumed += channel.assumptions()
    if form is not None:
        ends = [
            quantized(replace(link, lanes=side.gpus), gpu_of(side, "dtype"), ratio=ratio)
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
    return channel.given(part.latency, part.bandwidth)


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
