"""The measured clock: an engine step from the fitted kernels of one GPU, plus named overheads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvplan.engine.protocols import StepBatch
from kvplan.errors import SpecError, UnknownName
from kvplan.latency.assumption import Assumption
from kvplan.latency.datasheet import GLUE_S
from kvplan.latency.engine_overhead import LONGEST_S, REQUEST_S, STEP_S
from kvplan.latency.graphs import ALWAYS_GRAPHS, EAGER_WIDER, UNCERTAINTY, Launching, launching
from kvplan.latency.graphs import KEY as LAUNCH
from kvplan.latency.grouped import CHOOSING_S, MOE_EFFICIENCY, SORTING_S
from kvplan.latency.normals import Draw, normals
from kvplan.latency.parts import StepParts
from kvplan.latency.ring import rank_tokens, ring_of
from kvplan.latency.routing import EXCHANGE_KEY, SKEW_KEY, routing_assumptions, routing_options
from kvplan.latency.step import StepTables, build_tables
from kvplan.provenance import InputFile, input_file

if TYPE_CHECKING:
    from kvplan.latency.clock import Clock, Target
    from kvplan.latency.fit.profile_file import ProfileFile

OVERHEAD_SPREAD = math.log(1.6) / 1.645
"""The overheads are assumed: nine times in ten within a factor of 1.6."""
TPOT_BAND = (-0.15, 0.15)
TTFT_BAND = (-0.25, 0.25)
E2E_BAND = (-0.15, 0.15)
"""Stated bands where kernels are known as well as those of the bundled profiles; never narrower than what
held-out kernels of the profile at hand say."""
WIDER = 2.0
"""Bands of a model whose shapes leave the measured range are this much wider."""

AVERAGED = 0.8
"""Of the error of its worst kernel, a step that adds up several of them has this share (assumed)."""
MEMORY, COMPUTE = "memory_factor", "compute_factor"
"""Parameters of a profile, both 1 unless a serving run says otherwise: how many times as long as measured an
engine takes to read weights and cache (a token alone, decode attention), and for what further tokens add."""
LARGEST_FACTOR = 10.0

_DIRECTORY = Path(__file__).resolve().parent / "profiles"


class ProfileLatency:
    """Seconds of a step from tables; see ``kvplan.latency.step``."""

    __slots__ = (
        "_context_ranks", "_decode", "_full_limit", "_full_s", "_head", "_host", "_joint", "_launch",
        "_linear", "_links", "_overhead", "_pieces_limit", "_pieces_s", "_plain", "_plain_s", "_prefill",
        "_request", "_sequence", "_step", "factors", "launching", "tables",
    )  # fmt: skip

    def __init__(
        self,
        tables: StepTables,
        step_s: float,
        request_s: float,
        launching: Launching = ALWAYS_GRAPHS,
        scale: Mapping[str, float] | None = None,
        factors: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        self.factors = factors
        memory, compute = factors
        members = {"linear": 1.0, "links": 1.0, "decode": 1.0, "prefill": 1.0, "overhead": 1.0,
                   "launching": 1.0}  # fmt: skip
        members |= scale or {}
        self.tables, self.launching = tables, launching
        self._context_ranks = tables.context_ranks
        self._step, self._request = step_s, request_s
        overhead, linear = members["overhead"], members["linear"]
        read, more = linear * memory, linear * compute
        # Overheads, factors and padding are folded into the tables: the engine calls this once a step.
        whole = tables.linear.split(read, more)
        joint = None if tables.joint is None else tables.joint.split(read, more)
        self._links, self._overhead = members["links"], overhead
        if tables.collective is not None:
            links = tables.collective.scaled(members["links"])
            joint, whole = (None, whole.plus(links)) if joint is None else (joint.plus(links), whole)
        self._joint = None if joint is None else joint.at
        self._plain, self._linear = whole.at, whole.rounded(launching.padding()).at
        self._head = tables.head.split(read, more).scaled(1.0, step_s * overhead, request_s * overhead).at
        host = self._host = launching.scaled(members["launching"])
        self._full_limit, self._full_s = host.full_limit, host.full_s
        self._pieces_limit, self._pieces_s, self._plain_s = host.piecewise_limit, host.pieces_s, host.plain_s
        decode, prefill = members["decode"] * memory, members["prefill"] * compute
        self._decode = None if tables.decode is None else tables.decode.scaled(decode).at
        self._prefill = None if tables.prefill is None else tables.prefill.scaled(prefill).at
        self._launch, self._sequence = tables.launch_s * prefill, tables.sequence_s * memory

    def step_seconds(self, batch: StepBatch) -> float:
        """Seconds of the step; constant time in the number of decode requests."""
        tokens, requests, chunks = batch.scheduled_tokens, batch.decode_requests, batch.prefill_chunks
        if self._joint is not None:
            tokens, together, launch = self._host.shared(batch, self.tables.attention_ranks)
            seconds = self._plain(tokens) + self._joint(together)
        else:
            if self._context_ranks > 1:
                tokens = rank_tokens(tokens, requests, self._context_ranks)
            if not chunks and tokens <= self._full_limit:
                seconds, launch = self._linear(tokens), self._full_s
            elif tokens <= self._pieces_limit:
                seconds, launch = self._linear(tokens), self._pieces_s
            else:
                seconds, launch = self._plain(tokens), self._plain_s
        if requests and self._decode is not None:
            seconds += self._decode(requests, batch.decode_kv_tokens / requests)
        if chunks and self._prefill is not None:
            if not requests:
                seconds += self._launch
            for before, new in chunks:
                seconds += self._prefill(new, before + 1.0)
        if self._sequence:
            seconds += (requests + len(chunks)) * self._sequence
        # Launches run ahead of the GPU: only the longer of the two is seen.
        return self._head(batch.sampled_requests) + (seconds if seconds > launch else launch)

    def parts(self, batch: StepBatch) -> StepParts:
        """The same step, by cause."""
        tokens, requests, chunks = batch.scheduled_tokens, batch.decode_requests, batch.prefill_chunks
        sampled, seconds = batch.sampled_requests, self.step_seconds(batch)
        if self._joint is not None:
            tokens, together, _ = self._host.shared(batch, self.tables.attention_ranks)
            linear, exchanging = self._plain(tokens) + self._joint(together), together
        else:
            if self._context_ranks > 1:
                tokens = rank_tokens(tokens, requests, self._context_ranks)
            exchanging = self.launching.computed(tokens, decode=not chunks)
            linear = self._plain(exchanging)
        links = self.tables.collective
        collective = 0.0 if links is None else self._links * links.at(exchanging)
        decode = prefill = 0.0
        if requests and self._decode is not None:
            decode = self._decode(requests, batch.decode_kv_tokens / requests)
        if chunks and self._prefill is not None:
            prefill = 0.0 if requests else self._launch
            prefill += sum(self._prefill(new, before + 1.0) for before, new in chunks)
        state = (requests + len(chunks)) * self._sequence
        overhead = self._overhead * (self._step + self._request * sampled)
        head = self._head(sampled)
        return StepParts(
            overhead_s=overhead,
            linear_s=max(linear - collective, 0.0),
            decode_s=decode,
            prefill_s=prefill,
            state_s=state,
            head_s=max(head - overhead, 0.0),
            collective_s=collective,
            waiting_s=max(seconds - head - linear - decode - prefill - state, 0.0),
        )

    def with_constants(self, values: Mapping[str, float]) -> ProfileLatency:
        """The same deployment with other overheads, ``launch_s`` or factors."""
        launching = self.launching.with_op(values[LAUNCH]) if LAUNCH in values else self.launching
        return ProfileLatency(
            self.tables, values.get("step_s", self._step), values.get("request_s", self._request), launching,
            factors=(values.get(MEMORY, self.factors[0]), values.get(COMPUTE, self.factors[1])),
        )  # fmt: skip

    def perturbed(self, draw: Draw) -> ProfileLatency:
        """A member of the ensemble: every part moved by its own kernels' spread, overheads by theirs."""
        normal = normals(draw, "profile")
        spread = self.tables.spread
        links = math.exp(normal() * spread.get("collective", 0.0))
        scale = {"links": links} | {
            part: math.exp(normal() * max(spread.get(part, 0.0), 0.03))
            for part in ("linear", "decode", "prefill")
        }
        slow = normal()
        scale["overhead"] = math.exp(slow * OVERHEAD_SPREAD)
        scale["launching"] = math.exp(slow * math.log(UNCERTAINTY) / 1.645)
        return ProfileLatency(self.tables, self._step, self._request, self.launching, scale, self.factors)


def profile_names() -> list[str]:
    """Names of the bundled profiles."""
    return sorted(path.stem for path in _DIRECTORY.glob("*.json"))


def profile_path(name: str) -> Path:
    """The file of a bundled profile, or of one given by path.

    Raises:
        UnknownName: no such profile.
    """
    path = Path(name)
    if path.suffix == ".json" or path.is_file():
        return path
    if name not in profile_names():
        raise UnknownName(
            "latency profile", name, profile_names(), where="latency.name",
            hint="or give the path of a profile file; without one use {model: roofline}",
        )  # fmt: skip
    return _DIRECTORY / f"{name}.json"


def profile_clock(parameters: Mapping[str, Any], target: Target) -> Clock:
    """The clock ``{model: profile, name: h100-sxm}``; ``name`` may be a path and defaults to the GPU's name.

    Raises:
        UnknownName: no such profile or parameter.
        SpecError: the profile is damaged, of another GPU, or lacks a kernel this model needs.
    """
    from kvplan.latency.clock import Clock
    from kvplan.latency.fit.profile_file import read_profile
    from kvplan.latency.kernel_set import KernelSet
    from kvplan.latency.link import KEYS, beyond_a_node, exchange_of
    from kvplan.latency.roofs import Roofs
    from kvplan.latency.work import step_work

    known = ("name", "step_s", "request_s", MEMORY, COMPUTE, LAUNCH, SKEW_KEY, EXCHANGE_KEY, *KEYS)
    for key in parameters:
        if key not in known:
            raise UnknownName("latency parameter", key, known, where=f"latency.{key}")
    name = parameters.get("name", target.gpu.name)
    if not isinstance(name, str):
        raise SpecError(f"the name of a profile must be text, not {name!r}", where="latency.name")
    step_s = _seconds(parameters, "step_s", STEP_S)
    request_s = _seconds(parameters, "request_s", REQUEST_S)
    path = profile_path(name)
    profile, read = read_profile(path), input_file(path)
    bundled = path.parent == _DIRECTORY
    if profile.gpu != target.gpu.name:
        raise SpecError(
            f"the profile {profile.name!r} was measured on {profile.gpu}, not on {target.gpu.name}",
            where="latency.name",
            hint=f"use a profile of {target.gpu.name}, or {{model: roofline}}",
        )
    kernels = KernelSet(profile, str(path), target.block_size, target.engine)
    skew, way = routing_options(parameters)
    work = step_work(
        target.model, parallel=target.parallel, kv_format=target.kv_format,
        weights_format=target.weights_format, expert_parallel=target.expert_parallel, expert_exchange=way,
        routing_skew=skew, decode_tokens=target.decode_tokens, projected=target.projected,
        engine=target.engine,
    ).without_scores()  # fmt: skip
    ranks = target.parallel.tp * target.parallel.pp * target.parallel.cp
    exchange = exchange_of(target.gpu, latency_s=8e-6, efficiency=0.8, ranks=ranks, given=parameters)
    tables = build_tables(work, kernels, exchange)
    eager = None if kernels.measured is None else kernels.measured.measured.ceilings.launch_s.get("eager")
    host = launching(work, target.serving, op_s=parameters.get(LAUNCH), timed_op_s=eager)
    factors = _factor(parameters, MEMORY), _factor(parameters, COMPUTE)
    model = ProfileLatency(tables, step_s, request_s, host, factors=factors)
    assumed = [
        *([_bundled(profile, read)] if bundled else []),
        _assumed("latency.step_s", step_s, parameters, "engine overhead of a step, not measured"),
        _assumed("latency.request_s", request_s, parameters, "engine overhead of a request, not measured"),
        *(
            Assumption(
                f"latency.{key}", value, "times as long as the profile's kernels; given in the scenario"
            )
            for key, value in zip((MEMORY, COMPUTE), factors, strict=True)
            if key in parameters
        ),
        Assumption("latency.glue_s", GLUE_S, "small kernels of a layer, not measured"),
        Assumption("latency.ragged", "mean context", _ragged(kernels.ragged)),
    ]
    routings = tuple(item.routing for item in work.experts)
    assumed += routing_assumptions(routings, parameters, work.expert_exchange)
    timed = [bool(kernels.experts(item.format)) for item in work.experts]
    if any(timed):
        assumed.append(
            Assumption(
                "latency.choosing_s", CHOOSING_S,
                "choosing experts in a layer, not measured; their multiplications were, and are timed as "
                "with weights from memory",
            )
        )  # fmt: skip
    if not all(timed):
        assumed.append(
            Assumption(
                "latency.moe_efficiency", MOE_EFFICIENCY, "of whole tiles in grouped kernels, not measured"
            )
        )
        assumed.append(
            Assumption("latency.sorting_s", SORTING_S, "sorting rows by expert in a layer, not measured")
        )
    if kernels.has_eager(item.format for item in work.linears):
        assumed.append(
            Assumption(
                "latency.graph_launch", "two launches per matrix",
                "some of these matrix multiplications were timed without a CUDA graph; launches taken out",
            )
        )  # fmt: skip
    if ranks > 1 and kernels.all_reduce() is None:
        assumed.append(Assumption("latency.reduce_s", 8e-6, "collectives of this GPU were not measured"))
    if exchange is not None:
        assumed += exchange.assumptions(parameters)
    assumed += kernels.assumptions()
    assumed += host.assumptions()
    ring = ring_of(work, exchange)
    if ring is not None:
        assumed += ring.assumptions()
    assumed += [Assumption("latency.not_timed", note, "the model's shape") for note in work.notes]
    wider = (WIDER if tables.outside or not all(timed) or work.state_layers else 1.0) * (
        EAGER_WIDER if host.eager else 1.0
    )
    errors = {
        key: round(AVERAGED * max(tables.errors.get(part, 0.0) for part in ("linear", attention)), 3)
        for key, attention in (("ttft", "prefill"), ("tpot", "decode"), ("e2e", "decode"))
    }
    bands = {
        key: (max(min(low * wider, -errors[key]), -0.9), max(high * wider, errors[key]))
        for key, (low, high) in (("ttft", TTFT_BAND), ("tpot", TPOT_BAND), ("e2e", E2E_BAND))
    }
    return Clock(
        kind="profile",
        name=profile.name,
        model=model,
        statement=(
            f"Kernel times come from measurements on {profile.gpu} ({profile.provenance.source}); engine "
            f"overheads are assumed. Expect TPOT and end-to-end times within {bands['tpot'][1]:.0%} and TTFT "
            f"within {bands['ttft'][1]:.0%}, nine times in ten, below saturation."
        ),
        bands=bands,
        source="held-out kernel errors and assumed engine overheads",
        assumptions=tuple(assumed),
        perturbed=model.perturbed,
        warnings=(
            *(f"the profile was not measured for {what}: its bands are wider" for what in tables.outside),
            *beyond_a_node(exchange, ranks, parameters),
        ),
        inputs=() if bundled else (read,),
        profile=name,
        roofs=Roofs(work, target.gpu),
    )


def _bundled(profile: ProfileFile, read: InputFile) -> Assumption:
    """A profile that comes with kvplan is no file of the user's: its content is told by its digest."""
    source = f"bundled with kvplan, measured on {profile.gpu}, sha256 {read.sha256}"
    return Assumption("latency.profile", profile.name, source)


def _ragged(ratios: list[float]) -> str:
    if not ratios:
        return "kernels were timed with sequences of one length"
    low, high = ratios[0], ratios[-1]
    return f"log-normal lengths (sigma 0.6) took {low:.2f} to {high:.2f} times as long in the measurement"


def _seconds(parameters: Mapping[str, Any], key: str, default: float) -> float:
    value = parameters.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= LONGEST_S:
        raise SpecError(
            f"{key} must be seconds from 0 to {LONGEST_S:g}, not {value!r}", where=f"latency.{key}"
        )
    return float(value)


def _factor(parameters: Mapping[str, Any], key: str) -> float:
    value = parameters.get(key, 1.0)
    good = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not good or not 1.0 / LARGEST_FACTOR <= value <= LARGEST_FACTOR:
        raise SpecError(
            f"{key} must be a number from {1 / LARGEST_FACTOR:g} to {LARGEST_FACTOR:g}, not {value!r}",
            where=f"latency.{key}", hint="how many times as long as the profile says; 1 is as measured",
        )  # fmt: skip
    return float(value)


def _assumed(name: str, value: float, parameters: Mapping[str, Any], why: str) -> Assumption:
    given = name.removeprefix("latency.") in parameters
    return Assumption(name, value, "given in the scenario" if given else why)
