"""One engine step composed of fitted kernels, tabulated once so that the engine's clock is cheap to read.

::

    t = step + request * sampled + head(sampled)
        + max(linear(tokens)                    GEMMs, experts, norms and activations, all-reduces: two tables
              + decode(requests, mean context)  attention of decode requests over all layers
              + sum over chunks of prefill(new, before),
              launching)                        what the host needs to launch the kernels

Kernels were timed with sequences of one length; a batch of different lengths is timed at its mean context.
Tables of kernels called again and again find small caches in L2, where an engine never does: decode attention
is timed as the fitted formula has it with a cold L2.
Tables are monotone by construction: in tokens, in requests at a given context, in context at a given number
of requests.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvplan.latency.attention_shapes import absorbed_shapes, decode_shapes, prefill_shapes
from kvplan.latency.datasheet import GLUE_S, GLUE_STREAMS, LATENT_HEAD_BYTES, LATENT_S
from kvplan.latency.expert_exchange import exchange_seconds
from kvplan.latency.expert_layer import expert_seconds
from kvplan.latency.kernel_notes import DEVIATIONS, KernelNotes
from kvplan.latency.kernel_set import KernelSet
from kvplan.latency.linear_layer import linear_seconds
from kvplan.latency.link import SPREAD, Exchange
from kvplan.latency.module_kernels import decoding, short_prefill
from kvplan.latency.monotone import DenseTable, LogTable
from kvplan.latency.ring import Ring, ring_of
from kvplan.latency.work import StepWork
from kvplan.sizing.weight_formats import WeightFormat

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]

MAX_TOKENS = 16_384
"""Scheduled tokens up to which the linear part is tabulated one by one."""
MAX_SAMPLED = 1_024
STEPS = 2
"""Grid lines an octave of the attention tables."""
BATCH_OCTAVES, CONTEXT_OCTAVES, CHUNK_OCTAVES = 11, 20, 15


@dataclass(frozen=True, slots=True)
class StepTables:
    """The tables of one model on one GPU, in seconds, and what their kernels' bands are.

    ``joint``: what data-parallel attention's ranks do together, by the tokens of them all; ``collective`` is
    then by those, too. ``spread``: standard deviation of the log error by part; ``errors``: what nine in ten
    held-out shapes of its worst kernel were within; ``outside``: parts that leave the measured range.
    """

    linear: DenseTable
    collective: DenseTable | None
    joint: DenseTable | None
    head: DenseTable
    decode: LogTable | None
    prefill: LogTable | None
    launch_s: float
    sequence_s: float
    context_ranks: int
    attention_ranks: int
    spread: Mapping[str, float]
    errors: Mapping[str, float]
    outside: tuple[str, ...]


def build_tables(work: StepWork, kernels: KernelSet, exchange: Exchange | None) -> StepTables:
    """Tabulate a step.

    Raises:
        SpecError: the profile has no kernel for a format or head size of this model.
    """
    import numpy as np

    notes = KernelNotes()
    tokens = _token_grid(MAX_TOKENS)
    total, together = np.zeros(tokens.size), np.zeros(tokens.size)
    for item in work.linears:
        seconds = item.count * linear_seconds(kernels, item, np.ceil(tokens / item.dealt), notes)
        together += seconds if item.joint else 0.0
        total += 0.0 if item.joint else seconds
    for experts in work.experts:
        together += expert_seconds(kernels, experts, tokens, notes)
    if not work.joint:
        total += together
    rate = kernels.bandwidth_bytes_per_s()
    glue = GLUE_S + GLUE_STREAMS * tokens * work.hidden_size * work.activation_bytes / rate
    total += work.layers * glue
    weights = _attention_weights(work)
    for attention in work.attentions:
        if attention.kind == "mla" and not decoding(kernels, attention, weights):
            moved = tokens * attention.q_heads * LATENT_HEAD_BYTES
            total += attention.layers * (LATENT_S + moved / rate)
        call, token = kernels.write_seconds(attention)
        total += attention.layers * (call + token * tokens)
    if exchange is not None and work.own_reduces:
        size = tokens * work.hidden_size * work.activation_bytes
        own = work.ranks // work.attention_ranks
        fixed, per_byte = exchange.gather(own)
        total += work.own_reduces * _summing(kernels, exchange, own, size)[0]
        total += work.own_gathers * (fixed + per_byte * size)
    links = None if exchange is None else _collectives(kernels, work, exchange, tokens, notes)
    head = linear_seconds(kernels, work.head, _token_grid(MAX_SAMPLED), notes)
    decode, prefill, launch = _attention(work, kernels, ring_of(work, exchange), notes)
    return StepTables(
        linear=_dense(tokens, total, MAX_TOKENS, first=None),
        joint=_dense(tokens, together, MAX_TOKENS, first=0.0) if work.joint else None,
        collective=None if links is None else _dense(tokens, links, MAX_TOKENS, first=None),
        head=_dense(_token_grid(MAX_SAMPLED), head, MAX_SAMPLED, first=0.0),
        decode=decode,
        prefill=prefill,
        launch_s=launch,
        sequence_s=2.0 * work.state_bytes_per_sequence / rate,
        context_ranks=work.context_ranks,
        attention_ranks=work.attention_ranks,
        spread=notes.spread,
        errors=notes.errors,
        outside=tuple(dict.fromkeys(notes.outside)),
    )


def _token_grid(most: int) -> Array:
    """1, 2, ... 16, then about eight sizes an octave up to ``most``; whole tiles of 16 from 128 on."""
    import numpy as np

    sizes = set(range(1, 17))
    for index in range(4 * 8, int(math.log2(most) * 8) + 1):
        size = round(2.0 ** (index / 8))
        sizes.add(min(most, size if size < 128 else -(-size // 16) * 16))
    sizes.add(most)
    return np.array(sorted(sizes), dtype=np.float64)


def _dense(grid: Array, seconds: Array, most: int, *, first: float | None) -> DenseTable:
    import numpy as np

    rising = np.maximum.accumulate(seconds)
    values = np.interp(np.arange(most + 1), grid, rising)
    if first is not None:
        values[0] = first
    return DenseTable(values.tolist())


def _collectives(
    kernels: KernelSet, work: StepWork, exchange: Exchange, tokens: Array, notes: KernelNotes
) -> Array:
    import numpy as np

    total = np.zeros(tokens.size)
    notes.spread["collective"] = math.log(SPREAD) / DEVIATIONS
    row = tokens * work.hidden_size * work.activation_bytes
    seconds, spread = _summing(kernels, exchange, work.ranks, row)
    if spread is not None and not work.expert_layers and not work.stage_hops:
        notes.spread["collective"] = spread
    total += work.all_reduces * seconds
    if work.expert_layers:
        total += work.expert_layers * exchange_seconds(work, exchange, kernels, tokens)
    fixed, per_byte = exchange.hops(work.stage_hops + 1, work.ranks * work.context_ranks)
    return np.asarray(total + fixed + per_byte * row)


def _summing(kernels: KernelSet, exchange: Exchange, ranks: int, sizes: Array) -> tuple[Array, float | None]:
    """Seconds of all-reduces of ``sizes`` bytes, and their measured kernel's spread where it says it all."""
    import numpy as np

    kernel = kernels.all_reduce()
    if kernel is None or ranks == 1:
        return np.minimum.reduce([fixed + byte * sizes for fixed, byte in exchange.reduce_ways(ranks)]), None
    inside, nodes = exchange.nodes(ranks)
    fixed, per_byte = exchange.across(ranks)
    guess = kernel.predict({"ranks": np.full(sizes.size, float(inside)), "bytes": sizes})
    spread = float(np.median(np.log(guess.high / guess.seconds))) / DEVIATIONS if nodes == 1 else None
    return guess.seconds + fixed + per_byte * sizes, spread


def _attention(
    work: StepWork,
    kernels: KernelSet,
    ring: Ring | None,
    notes: KernelNotes,
) -> tuple[LogTable | None, LogTable | None, float]:
    """(decode table, prefill table without its launch, launch) over all layers, exchanges included."""
    import numpy as np

    if not work.attentions:
        return None, None, 0.0
    batch = 2.0 ** (np.arange(BATCH_OCTAVES * STEPS + 1) / STEPS)
    context = 2.0 ** (np.arange(CONTEXT_OCTAVES * STEPS + 1) / STEPS)
    new = 2.0 ** (np.arange(CHUNK_OCTAVES * STEPS + 1) / STEPS)
    decode = np.zeros((batch.size, context.size))
    prefill = np.zeros((new.size, context.size))
    launch = 0.0
    weights = _attention_weights(work)
    for item in work.attentions:
        one = kernels.decode(item, weights)
        shapes = decode_shapes(item, *np.meshgrid(batch, context, indexing="ij"))
        verified = kernels.verification(item)
        notes.spreads("decode", verified.deviation)
        seconds = one.seconds(shapes) * kernels.cold_factor(one, shapes) * verified.factor
        decode += item.layers * kernels.page_factor(item) * seconds.reshape(decode.shape)
        many = kernels.prefill(item, weights)
        floor = float(many.values[0])
        share = _rank_chunk(*np.meshgrid(new, context - 1.0, indexing="ij"), work.context_ranks)
        body = many.seconds(prefill_shapes(item, *share))
        if item.kind == "mla" and item.limit is None:
            body = body + _expanding(kernels, work, share[1].ravel(), notes)
            short = short_prefill(kernels, item, weights)
            if short is not None:
                latent = short.seconds(absorbed_shapes(item, *share))
                body = np.where(share[0].ravel() <= short.high["new"], latent, body)
        prefill += item.layers * np.maximum(body.reshape(prefill.shape) - floor, 0.0)
        # Around a ring the kernel is launched once for every rank's share of the cache.
        launch += item.layers * floor * item.shards
        for name, kernel, probe in (
            ("decode", one, decode_shapes(item, *np.meshgrid(batch[::4], context[::4], indexing="ij"))),
            ("prefill", many, prefill_shapes(item, new[::2], np.zeros(new[::2].size))),
        ):
            guess = kernel.predict(probe)
            inside = guess.outside <= 0.0
            width = np.log(guess.high / guess.seconds)
            typical = float(np.median(width[inside] if inside.any() else width))
            notes.used(name, typical, kernels.error(kernel, typical))
        # Several tokens of a request that were timed together are no more heads than were timed.
        heads = item.q_heads if verified.measured else item.decode_heads
        for name, size in (
            ("q_heads", heads), ("kv_heads", item.kv_heads), ("head_dim", item.head_dim),
        ):  # fmt: skip
            checked = item.kind != "mla" or (name == "q_heads" and item.decode_rows > 1)
            if checked and not one.low[name] / 2 <= size <= one.high[name] * 2:
                notes.outside.append(f"decode attention with {size} {name}")
    if ring is not None:
        fixed, each = ring.merge
        decode += fixed + each * batch[:, None]
        chunk, before = np.meshgrid(new, context - 1.0, indexing="ij")
        prefill = np.maximum(prefill, ring.chunk_array(before, chunk))
    return _table(np.maximum(decode, launch)), _table(prefill), launch


def _attention_weights(work: StepWork) -> WeightFormat | None:
    """The format of the matrices around attention."""
    return next((item.format for item in work.linears if item.name == "o_proj"), None)


def _expanding(kernels: KernelSet, work: StepWork, before: Array, notes: KernelNotes) -> Array:
    """Making K and V of all heads again of cached latents, which a chunk behind them does in every layer."""
    import numpy as np

    up = next((item for item in work.linears if item.name == "kv_b_proj"), None)
    if up is None:
        return np.zeros(before.size)
    tokens, where = np.unique(before, return_inverse=True)
    seconds = linear_seconds(kernels, up, np.maximum(tokens, 1.0), notes)
    return np.asarray(np.where(tokens > 0, seconds, 0.0)[where])


def _rank_chunk(new: Array, before: Array, ranks: int) -> tuple[Array, Array]:
    """One rank's share of a chunk, dealt so that every rank has as many query-key pairs."""
    import numpy as np

    share = np.maximum(new / ranks, 1.0)
    return share, before + np.maximum(new - share, 0.0) / 2.0


def _table(values: Array) -> LogTable:
    import numpy as np

    rising = np.maximum.accumulate(np.maximum.accumulate(values, axis=0), axis=1)
    return LogTable(rising.tolist(), STEPS)
