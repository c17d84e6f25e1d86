"""From a scenario's ``latency`` section to a clock: the model, its name, and how far it may be off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from kvplan.engine.protocols import LatencyModel
from kvplan.errors import SpecError, UnknownName
from kvplan.latency.client import KEY as CLIENT
from kvplan.latency.client import LIMITS, client_overhead
from kvplan.latency.clock import Clock, Target
from kvplan.latency.linear import LinearLatency
from kvplan.latency.normals import DIMENSIONS, Draw, normals
from kvplan.provenance import input_file

if TYPE_CHECKING:
    from kvplan.sizing.parallel import Parallel
    from kvplan.sizing.serving import Serving
    from kvplan.specs.formats import KvFormat
    from kvplan.specs.schema import GpuSpec, ModelSpec


def build_latency(
    spec: Mapping[str, Any],
    *,
    model: ModelSpec | None,
    gpu: GpuSpec | None,
    parallel: Parallel,
    kv_format: KvFormat | None,
    weights_format: str | None,
    block_size: int,
    serving: Serving | None = None,
    expert_parallel: bool = False,
    decode_tokens: int = 1,
    projected: bool = False,
) -> Clock:
    """The clock a scenario asks for.

    Args:
        spec: ``{"model": "linear" | "roofline" | "profile" | "fitted", ...parameters of that model...}``.
        serving: how the engine is started, which decides what CUDA graphs it replays; None: all of a step.
        expert_parallel: whole experts are dealt to the tensor-parallel ranks.
        decode_tokens, projected: of models that verify drafts, or make them (``kvplan.latency.work``).

    Raises:
        UnknownName: no such latency model, parameter or profile.
        SpecError: a parameter has no usable value, or the model needs what the scenario does not name.
    """
    kind = spec.get("model")
    builders = {"linear": _linear, "roofline": _roofline, "profile": _profile, "fitted": _fitted}
    if not isinstance(kind, str) or kind not in builders:
        raise UnknownName("latency model", str(kind), builders, where="latency.model")
    parameters = {name: value for name, value in spec.items() if name != "model"}
    if kind == "linear":
        return _linear(parameters, None)
    if model is None or gpu is None or kv_format is None:
        raise SpecError(
            f"latency model {kind!r} needs a model and a GPU",
            where="latency.model",
            hint="name both, or use {model: linear, a: ..., b: ..., c: ...}",
        )
    target = Target(
        model, gpu, parallel, kv_format, weights_format, block_size, serving, expert_parallel, decode_tokens,
        projected,
    )  # fmt: skip
    if kind == "fitted":
        return _fitted(parameters, target)
    client, parameters = client_overhead(parameters)
    clock = builders[kind](parameters, target)
    return replace(clock, client=client, assumptions=(*client.assumptions(), *clock.assumptions))


def _check_names(parameters: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for name in parameters:
        if name not in known:
            raise UnknownName("latency parameter", name, known, where=f"latency.{name}")


def _linear(parameters: Mapping[str, Any], target: Target | None) -> Clock:
    del target
    _check_names(parameters, ("a", "b", "c"))
    missing = [name for name in ("a", "b", "c") if name not in parameters]
    if missing:
        raise SpecError(
            f"the linear latency model needs {', '.join(missing)}",
            where=f"latency.{missing[0]}",
            hint="a: seconds per step, b: per scheduled token, c: per token of decode context",
        )
    model = LinearLatency(parameters["a"], parameters["b"], parameters["c"])
    return Clock(
        kind="linear",
        name=f"{model.a:g} s + {model.b:g} s per token + {model.c:g} s per context token",
        model=model,
        statement=(
            "Times follow from the three constants given; how far they are from a real engine is unknown."
        ),
        bands=None,
        source="the scenario's own constants",
    )


def _roofline(parameters: Mapping[str, Any], target: Target | None) -> Clock:
    from kvplan.latency import efficiency, graphs, roofline, routing
    from kvplan.latency.link import KEYS, beyond_a_node, exchange_of
    from kvplan.latency.roofs import Roofs
    from kvplan.latency.work import step_work

    assert target is not None
    names = tuple(item.name for item in fields(roofline.RooflineConstants))
    _check_names(parameters, (*names, graphs.KEY, routing.SKEW_KEY, routing.EXCHANGE_KEY, *KEYS))
    constants = roofline.RooflineConstants(**{k: v for k, v in parameters.items() if k in names})
    skew, way = routing.routing_options(parameters)
    work = step_work(
        target.model, parallel=target.parallel, kv_format=target.kv_format,
        weights_format=target.weights_format, expert_parallel=target.expert_parallel, expert_exchange=way,
        routing_skew=skew, decode_tokens=target.decode_tokens, projected=target.projected,
        engine=target.engine,
    )  # fmt: skip
    ranks = target.parallel.tp * target.parallel.pp * target.parallel.cp
    exchange = exchange_of(
        target.gpu, latency_s=constants.reduce_s, efficiency=constants.link_efficiency, ranks=ranks,
        given=parameters,
    )  # fmt: skip
    host = graphs.launching(work, target.serving, op_s=parameters.get(graphs.KEY))
    untimed = work.untimed()
    wider = efficiency.band_wider(target.gpu, bool(untimed))
    model = roofline.Roofline(work, target.gpu, exchange, constants, host, wider=wider)
    routings = tuple(item.routing for item in work.experts)
    routed = routing.routing_assumptions(routings, parameters, work.expert_exchange)
    nodes = () if exchange is None else exchange.assumptions(parameters)
    wider *= graphs.EAGER_WIDER if host.eager else 1.0
    bands = {
        name: (max(low * wider, -0.9), high * wider)
        for name, (low, high) in (
            ("ttft", roofline.TTFT_BAND), ("tpot", roofline.TPOT_BAND), ("e2e", roofline.E2E_BAND)
        )
    }  # fmt: skip
    return Clock(
        kind="roofline",
        name=f"{target.gpu.name} datasheet",
        model=model,
        statement=(
            f"Step times come from the GPU's datasheet and from what kernels reach on {_known(target.gpu)}, "
            "not from measurements of it: expect TPOT and end-to-end "
            f"times within {100 * bands['tpot'][1]:.0f} % and TTFT within {100 * bands['ttft'][1]:.0f} %, "
            "nine times in ten, below saturation."
            + (f" Wider for parts nobody measured: {', '.join(untimed)}." if untimed else "")
        ),
        bands=bands,
        source="stated bands of an uncalibrated roofline",
        assumptions=(*model.assumptions(), *nodes, *routed),
        perturbed=model.perturbed,
        warnings=beyond_a_node(exchange, ranks, parameters),
        roofs=Roofs(work, target.gpu),
    )


def _known(gpu: GpuSpec) -> str:
    from kvplan.latency.efficiency import GENERATIONS

    if gpu.architecture in GENERATIONS:
        return "GPUs of its generation"
    if gpu.vendor != "nvidia":
        return f"GPUs of another vendor, as none of {gpu.vendor.upper()} was measured"
    return "other generations, as none of its own was measured"


def _profile(parameters: Mapping[str, Any], target: Target | None) -> Clock:
    from kvplan.latency.profile import profile_clock

    assert target is not None
    return profile_clock(parameters, target)


def _fitted(parameters: Mapping[str, Any], target: Target | None) -> Clock:
    """The clock a serving run was fitted with; what else the scenario gives overrides the file."""
    from kvplan.latency.fitted import (
        SEEN_SHARE,
        Seen,
        check_gpu,
        client_range,
        elsewhere,
        held_out_errors,
        read_fit,
        seen_load,
        spread_of,
        tail_s,
    )
    from kvplan.latency.profile import ProfileLatency
    from kvplan.latency.roofline import Roofline

    assert target is not None
    given = dict(parameters)
    name = given.pop("name", None)
    document = read_fit(name)
    check_gpu(document, target, str(name))
    errors = held_out_errors(document, str(name))
    base = build_latency(
        {**document["latency"], **given}, model=target.model, gpu=target.gpu, parallel=target.parallel,
        kv_format=target.kv_format, weights_format=target.weights_format, block_size=target.block_size,
        serving=target.serving, expert_parallel=target.expert_parallel, decode_tokens=target.decode_tokens,
        projected=target.projected,
    )  # fmt: skip
    spread, model = spread_of(document, str(name)), base.model
    assert isinstance(model, (Roofline, ProfileLatency))
    fixed = {*given, *LIMITS}
    constants = {key: value for key, value in document["latency"].items() if key not in fixed}
    unlike = elsewhere(document, target, str(name))
    share = 1.0 if unlike else SEEN_SHARE

    def perturbed(draw: Draw) -> LatencyModel:
        """A clock that agrees with the run, too, and is off as one of its kind may be."""
        taken = DIMENSIONS + len(spread.names)
        if isinstance(draw, int):
            normal = normals(draw, "fitted")
            numbers = [normal() for _ in range(taken)]
        else:
            # Pools of an ensemble share the numbers that every clock takes; theirs are at the fit.
            numbers = [*draw, *([0.0] * (taken - len(draw)))]
        drawn = spread.drawn(constants, numbers[DIMENSIONS:])
        return model.with_constants(drawn).perturbed([share * number for number in numbers[:DIMENSIONS]])

    client, between = base.client, client_range(document, str(name))
    if between is not None and CLIENT not in given:
        low, high = between
        client = replace(client, low_s=min(low, client.seconds), high_s=max(high, client.seconds))
    assert base.bands is not None
    # One run shows that the clock's constants are those of this deployment, and not that it is as good under
    # other loads as under its own: its errors widen the bands, never narrow them.
    near, far = (
        {
            metric: (max(min(left * low, -errors[metric]), -0.9), max(left * high, errors[metric]))
            for metric, (low, high) in base.bands.items()
        }
        for left in (share, 1.0)
    )
    load = None if unlike else seen_load(document, str(name))
    left = "" if unlike else f" of this deployment, which leaves {share:.0%} of these bands"
    if load is not None:
        left += f" around {load[0]:.3g} to {load[1]:.3g} requests in flight"
    assumptions = tuple(
        replace(item, source=item.source.replace("given in the scenario", f"fitted in {name}"))
        for item in base.assumptions
    )
    return replace(
        base,
        name=f"{base.name}, engine fitted to a serving run ({name})",
        statement=(
            f"{base.statement} Engine constants were fitted to a serving run{left}; on the half of its "
            f"requests that was held out TPOT was off by up to {errors['tpot']:.0%} and TTFT by "
            f"{errors['ttft']:.0%}."
        ),
        bands=near,
        seen=None if load is None else Seen(*load, share, far),
        client=client,
        perturbed=perturbed,
        tail_s=tail_s(document, str(name)),
        unknowns=len(spread.names),
        source=f"{base.source}, widened where the held-out half of the run in {name} was further off",
        assumptions=assumptions,
        warnings=(*base.warnings, *unlike),
        inputs=(input_file(str(name)), *base.inputs),
    )
