"""The datasheet roofline of one engine step: what a step takes on a GPU that nobody measured.

::

    t = step + request * sampled + head
        + max(linear + attention + collectives, launching)

Every kernel has a floor, reaches a share of the tensor cores' dense peak and a share of the memory
bandwidth, and overlaps the two in part: ``kvplan.latency.datasheet`` has the formulas,
``kvplan.latency.efficiency`` what is reached by GPU generation. Kernels follow each other; attention over the
KV of decode requests and over prefill chunks is one kernel a layer. Experts read the weights of those a batch
touches (``kvplan.latency.routing``).
Launching is what the host needs to launch the step's kernels (``kvplan.latency.graphs``), and batches that
replay a CUDA graph are padded to its size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from kvplan.engine.protocols import StepBatch
from kvplan.errors import SpecError
from kvplan.latency.assumption import Assumption
from kvplan.latency.attention_work import INDEXER, Attention
from kvplan.latency.datasheet import Datasheet, DecodeLayer, PrefillLayer
from kvplan.latency.efficiency import Efficiency, efficiency_of
from kvplan.latency.engine_overhead import LONGEST_S, REQUEST_S, STEP_S
from kvplan.latency.expert_exchange import linked
from kvplan.latency.graphs import ALWAYS_GRAPHS, UNCERTAINTY, Launching
from kvplan.latency.graphs import KEY as LAUNCH
from kvplan.latency.link import PER_BYTE, SPREAD, Exchange
from kvplan.latency.normals import Draw, normals
from kvplan.latency.pairs import chunk_pairs, chunk_span
from kvplan.latency.parts import StepParts
from kvplan.latency.ring import ring_of
from kvplan.latency.work import StepWork
from kvplan.specs.schema import GpuSpec

TPOT_BAND = (-0.20, 0.20)
TTFT_BAND = (-0.30, 0.30)
E2E_BAND = (-0.20, 0.20)
"""Where a datasheet roofline's errors lie on models it was never fitted to, nine times in ten."""

LEAST_SHARE = 1e-3
"""Of a peak that a constant may say is reached."""


@dataclass(frozen=True, slots=True)
class RooflineConstants:
    """The constants of the formula; the defaults need no measurement.

    Args:
        compute_efficiency: share of the tensor cores' dense peak that multiplications approach; None: that of
            the GPU's generation. Attention reaches more or less in the same proportion.
        memory_efficiency: the same of the memory bandwidth.
        step_s: every step: scheduling, launching, sampling, detokenizing.
        request_s: every sampled request.
        reduce_s: latency of an all-reduce in two phases.
        link_efficiency: share of the links' bandwidth that collectives reach.
    """

    compute_efficiency: float | None = None
    memory_efficiency: float | None = None
    step_s: float = STEP_S
    request_s: float = REQUEST_S
    reduce_s: float = 8e-6
    link_efficiency: float = 0.8

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            share = field.name.endswith("efficiency")
            if value is None and field.default is None:
                continue
            least, most = (LEAST_SHARE, 1.0) if share else (0.0, LONGEST_S)
            good = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not good or not least <= value <= most:  # also where it is not a number
                what = "a share" if share else "seconds"
                raise SpecError(
                    f"{field.name} must be {what} from {least:g} to {most:g}, not {value!r}",
                    where=f"latency.{field.name}",
                )
            object.__setattr__(self, field.name, float(value))

    def efficiency(self, gpu: GpuSpec) -> Efficiency:
        """What kernels reach on ``gpu``."""
        usual = efficiency_of(gpu)
        compute, memory = self.compute_efficiency, self.memory_efficiency
        return usual.times(
            1.0 if compute is None else compute / usual.gemm.compute,
            1.0 if memory is None else memory / usual.gemm.memory,
        )


_NO_REDUCES: tuple[PER_BYTE, ...] = ((0.0, 0.0),)


def _reduces(exchange: Exchange, ranks: int, count: int, row: int, gathers: int = 0) -> tuple[PER_BYTE, ...]:
    """``count`` all-reduces in each of the ways there are, and gathers: seconds fixed, and for each token."""
    (once, per), ways = exchange.gather(ranks), exchange.reduce_ways(ranks)
    return tuple((count * a + gathers * once, (count * b + gathers * per) * row) for a, b in ways)


class Roofline:
    """The roofline of one model on one GPU; see the module for the formula.

    Args:
        work: what a step does on one rank.
        gpu: datasheet peaks and bandwidth.
        exchange: how ranks exchange tensors (None for one GPU).
        constants: efficiencies and overheads.
        launching: how the host launches kernels.
        efficiency: what kernels reach where it is not what ``constants`` say (members of an ensemble).
        wider: how much wider than usual the bands are that members of an ensemble span.
    """

    __slots__ = (
        "_attention", "_decodes", "_full_limit", "_full_s", "_heads", "_joint", "_linear", "_merge",
        "_own_reduces", "_padding", "_passed_fixed", "_passed_token", "_pieces_limit", "_pieces_s",
        "_plain_s", "_reduces", "_request", "_ring", "_sent", "_sequence_s", "_state_s", "_step",
        "_together", "constants", "exchange", "gpu", "launching", "sheet", "wider", "work",
    )  # fmt: skip

    def __init__(
        self,
        work: StepWork,
        gpu: GpuSpec,
        exchange: Exchange | None,
        constants: RooflineConstants,
        launching: Launching = ALWAYS_GRAPHS,
        efficiency: Efficiency | None = None,
        wider: float = 1.0,
    ) -> None:
        self.wider = wider
        self.work, self.gpu, self.exchange, self.constants = work, gpu, exchange, constants
        self.launching = launching
        self._full_limit, self._pieces_limit = launching.full_limit, launching.piecewise_limit
        self._full_s, self._pieces_s, self._plain_s = launching.full_s, launching.pieces_s, launching.plain_s
        self._padding = launching.padding()
        sheet = self.sheet = Datasheet(gpu, efficiency or constants.efficiency(gpu))
        self._step, self._request = constants.step_s, constants.request_s
        self._linear: dict[int, float] = {}
        self._together: dict[int, float] = {}
        self._heads: dict[int, float] = {}
        self._decodes: dict[int, tuple[float, float, float, float, float]] = {}
        self._joint = work.joint
        # Layers that read the cache alike are one entry.
        classes: dict[Attention, int] = {}
        for item in work.attentions:
            alike = replace(item, layers=1)
            classes[alike] = classes.get(alike, 0) + item.layers
        self._attention = [
            (layers, item.limit, item.ratio, 1.0 / (item.ratio * item.shards), *_kernels(sheet, item))
            for item, layers in classes.items()
        ]
        self._sequence_s = sheet.streamed(2.0 * work.state_bytes_per_sequence)
        # The kernels of a scan take about what an attention kernel's launch and merge do.
        self._state_s = work.state_layers * sheet.decode_floor_s
        self._reduces = self._own_reduces = _NO_REDUCES
        self._passed_fixed = self._passed_token = self._sent = 0.0
        self._ring = ring_of(work, exchange)
        self._merge = (0.0, 0.0) if self._ring is None else self._ring.merge
        if exchange is not None:
            row = work.hidden_size * work.activation_bytes
            self._reduces = _reduces(exchange, work.ranks, work.all_reduces, row)
            own, gathers = work.ranks // work.attention_ranks, work.own_gathers
            self._own_reduces = _reduces(exchange, own, work.own_reduces, row, gathers)
            if work.expert_layers:
                fixed, per_byte = linked(work, exchange)
                self._passed_fixed += work.expert_layers * fixed
                self._sent = work.expert_layers * per_byte * row
            fixed, per_byte = exchange.hops(work.stage_hops + 1, work.ranks * work.context_ranks)
            self._passed_fixed += fixed
            self._passed_token += per_byte * row

    def step_seconds(self, batch: StepBatch) -> float:
        """Seconds of the step; constant time in the number of decode requests.

        With data-parallel attention: of one rank's own part, and of what all ranks do together.
        """
        requests = batch.decode_requests
        # What is known of a number of requests does not hold beside other ranks.
        if (
            requests == batch.scheduled_tokens == batch.sampled_requests
            and not batch.prefill_chunks
            and not self._joint
        ):
            known = self._decodes.get(requests)
            if known is None:
                known = self._decodes[requests] = self._around(batch)
        else:
            known = self._around(batch)
        overhead, linear, exchanged, launch, head = known
        decode, prefill, state = self._attended(batch)
        body = linear + (decode + prefill + state) + exchanged
        return overhead + (body if body > launch else launch) + head

    def _around(self, batch: StepBatch) -> tuple[float, float, float, float, float]:
        """All but attention, which is all that depends on contexts: overhead, matrices, collectives, how long
        launching takes at least, and logits."""
        sampled = batch.sampled_requests
        if self._joint:
            tokens, together, launch = self.launching.shared(batch, self.work.attention_ranks)
            linear = self._multiplied(tokens)
            exchanged = min(fixed + each * tokens for fixed, each in self._own_reduces)
            if together:
                linear, exchanged = linear + self._jointly(together), exchanged + self._exchanged(together, 0)
        else:
            tokens, launch = self._launched(batch)
            linear, exchanged = self._multiplied(tokens), self._exchanged(tokens, batch.decode_requests)
        return self._step + self._request * sampled, linear, exchanged, launch, self._headed(sampled)

    def _multiplied(self, tokens: int) -> float:
        """Matrices, experts and small kernels of all layers for ``tokens`` tokens; remembered by tokens."""
        seconds = self._linear.get(tokens)
        if seconds is None:
            work = self.work
            seconds = self.sheet.glue(work.layers, tokens, work.hidden_size * work.activation_bytes)
            for item in work.attentions:
                if item.kind == "mla":
                    seconds += self.sheet.latent_glue(item.layers, tokens, item.q_heads)
            seconds += self._matrices(tokens, joint=False)
            if not work.joint:
                seconds += self._experts(tokens)
            self._linear[tokens] = seconds
        return seconds

    def _jointly(self, tokens: int) -> float:
        """Matrices and experts that work for the tokens of all ranks."""
        seconds = self._together.get(tokens)
        if seconds is None:
            seconds = self._together[tokens] = self._matrices(tokens, joint=True) + self._experts(tokens)
        return seconds

    def _matrices(self, tokens: int, *, joint: bool) -> float:
        gemm = self.sheet.gemm
        return sum(
            it.count * gemm(-(-tokens // it.dealt), it.outputs, it.inputs, it.weight_bytes, it.format)
            for it in self.work.linears if it.joint is joint
        )  # fmt: skip

    def _experts(self, tokens: int) -> float:
        return sum(
            experts.layers * self.sheet.experts(experts, float(tokens)) for experts in self.work.experts
        )

    def _headed(self, sampled: int) -> float:
        """The logits of the sampled tokens."""
        head = self.work.head
        if not sampled:
            return 0.0
        seconds = self._heads.get(sampled)
        if seconds is None:
            seconds = self.sheet.gemm(sampled, head.outputs, head.inputs, head.weight_bytes, head.format)
            self._heads[sampled] = seconds
        return seconds

    def _attended(self, batch: StepBatch) -> tuple[float, float, float]:
        """Attention of decode requests, of prompt chunks, and state, of all layers.

        The kernel that both kinds of requests share is launched for the former, where there are any.
        """
        sheet, requests, chunks = self.sheet, batch.decode_requests, batch.prefill_chunks
        seconds = prefill = 0.0
        mean = batch.decode_kv_tokens / requests if requests else 0.0
        for layers, limit, ratio, share, decode, chunk in self._attention:
            if requests:
                seen = mean if limit is None or mean < limit else limit
                seconds += layers * decode(requests, seen * share)
            elif chunks:
                seconds += layers * sheet.efficiency.prefill.floor_s
            for before, new in chunks:
                keys, span = chunk_pairs(before, new, limit) / new, chunk_span(before, new, limit)
                prefill += layers * chunk(new, keys / ratio, span / ratio)
        if chunks and self._ring is not None:
            prefill = max(prefill, sum(self._ring.chunk_seconds(before, new) for before, new in chunks))
        sequences = requests + len(chunks)
        state = self._state_s + sequences * self._sequence_s if sequences and self.work.state_layers else 0.0
        return seconds, prefill, state

    def _exchanged(self, tokens: int, decode: int) -> float:
        """Collectives of a step."""
        seconds = min(fixed + each * tokens for fixed, each in self._reduces)
        seconds += self._passed_fixed + self._passed_token * tokens
        if decode and self._ring is not None:
            seconds += self._merge[0] + self._merge[1] * decode
        if self._sent:
            seconds += self._sent * self.work.experts[0].routing.copies(
                self.work.expert_exchange, float(tokens)
            )
        return seconds

    def _launched(self, batch: StepBatch) -> tuple[int, float]:
        """(tokens computed, seconds of launching): see ``Launching.padded`` and ``Launching.seconds``."""
        tokens = batch.scheduled_tokens
        if self._ring is not None:
            tokens = self._ring.rank_tokens(tokens, batch.decode_requests)
        if not batch.prefill_chunks and tokens <= self._full_limit:
            return self._padding[tokens], self._full_s
        if tokens <= self._pieces_limit:
            return self._padding[tokens], self._pieces_s
        return tokens, self._plain_s

    def parts(self, batch: StepBatch) -> StepParts:
        """The same step, by cause."""
        overhead, linear, collective, launch, head = self._around(batch)
        decode, prefill, state = self._attended(batch)
        attention = decode + prefill + state
        if not batch.decode_requests:
            decode, prefill = 0.0, decode + prefill
        return StepParts(
            overhead_s=overhead,
            linear_s=linear,
            decode_s=decode,
            prefill_s=prefill,
            state_s=state,
            head_s=head,
            collective_s=collective,
            waiting_s=max(launch - linear - attention - collective, 0.0),
        )

    def perturbed(self, draw: Draw) -> Roofline:
        """A member of the ensemble that spans the stated bands: efficiencies and overheads drawn anew.

        The factors are log-normal: memory and overhead so that 90 % lie within the TPOT band, compute within
        the TTFT band, both ``wider`` than usual, links within a factor of ``SPREAD``.
        """
        normal = normals(draw, "roofline")
        links = math.exp(normal() * math.log(SPREAD) / 1.645)
        # One draw for everything that decides TPOT: independent draws would average out and span less.
        slow = math.exp(normal() * math.log1p(TPOT_BAND[1] * self.wider) / 1.645)
        compute = math.exp(normal() * math.log1p(TTFT_BAND[1] * self.wider) / 1.645)
        host = math.exp(math.log(slow) * math.log(UNCERTAINTY) / math.log1p(TPOT_BAND[1] * self.wider))
        base = self.constants
        constants = replace(base, step_s=base.step_s * slow, request_s=base.request_s * slow)
        return Roofline(
            self.work, self.gpu, None if self.exchange is None else self.exchange.slower(links), constants,
            self.launching.scaled(host), self.sheet.efficiency.times(1.0 / compute, 1.0 / slow, slow),
            self.wider,
        )  # fmt: skip

    def with_constants(self, values: Mapping[str, float]) -> Roofline:
        """The same deployment with other constants, ``launch_s`` among them."""
        engine = {name: value for name, value in values.items() if name != LAUNCH}
        launching = self.launching.with_op(values[LAUNCH]) if LAUNCH in values else self.launching
        constants = replace(self.constants, **engine)
        return Roofline(self.work, self.gpu, self.exchange, constants, launching, wider=self.wider)

    def assumptions(self) -> tuple[Assumption, ...]:
        """Every constant that was assumed, for the report."""
        default, efficiency = RooflineConstants(), self.sheet.efficiency
        reached = {
            "compute_efficiency": efficiency.gemm.compute, "memory_efficiency": efficiency.gemm.memory
        }  # fmt: skip
        found = []
        for field in fields(RooflineConstants):
            value = getattr(self.constants, field.name)
            why = "no measurement" if value == getattr(default, field.name) else "given in the scenario"
            if field.name in ("reduce_s", "link_efficiency") and self.exchange is None:
                continue
            if value is None:
                value, why = round(reached[field.name], 4), f"what kernels reach on {efficiency.name} GPUs"
            found.append(Assumption(f"latency.{field.name}", value, f"roofline constant, {why}"))
        found += self.launching.assumptions()
        if self._ring is not None:
            found += self._ring.assumptions()
        found += [Assumption("latency.not_timed", note, "the model's shape") for note in self.work.notes]
        if self.work.stage_hops:
            found.append(
                Assumption(
                    "latency.pipeline", "one batch in flight",
                    "a step passes through all stages; overlap of several batches is not simulated",
                )
            )  # fmt: skip
        return tuple(found)


def _kernels(sheet: Datasheet, item: Attention) -> tuple[DecodeLayer, PrefillLayer]:
    """The attention kernels of a layer; one rank's share of KV and FLOPs is that of all its shards."""
    query_bytes, whole = 4.0 * item.q_heads * item.head_dim, item.kv_bytes_per_token * item.shards
    decoding = query_bytes * item.decode_rows
    elements = whole / item.kv_element_bytes / item.kv_heads
    narrow = sheet.score_share(narrow=item.narrow)
    scores = item.kind == INDEXER
    chunk = sheet.prefill(item.prefill_flops * narrow, item.kv_bytes_per_token, query_bytes, split=scores)
    if item.up_projection is not None:
        flops, kept = item.decode_flops / item.decode_rows, item.limit
        if kept is not None:
            flops *= sheet.sparse_heads(item.q_heads) / item.q_heads
        latent = sheet.prefill(flops, item.kv_bytes_per_token, query_bytes)
        chunk = (
            sheet.latent_prefill(chunk, latent, *item.up_projection)
            if kept is None
            else sheet.sparse_prefill(chunk, latent, kept)
        )
    flops = item.decode_flops * item.shards * narrow
    return sheet.decode(item.kv_heads, whole, flops, elements, decoding), chunk
