"""The words of a size report: every number with its formula, what could not be divided, what to beware of."""

from __future__ import annotations

from kvplan.sizing.attention import keeping_of
from kvplan.sizing.context import reach
from kvplan.sizing.pages import Layout
from kvplan.sizing.parallel import Parallel
from kvplan.sizing.report import LayerRow, SizeReport, SizeRequest, number
from kvplan.sizing.retention import kept_tokens
from kvplan.sizing.sharding import explain, rank_tokens
from kvplan.sizing.state import state_parts
from kvplan.sizing.state_block import beside_drafts
from kvplan.sizing.terms import Term
from kvplan.specs.model import LayerGroup, ModelSpec


def sharding_words(rows: tuple[LayerRow, ...], parallel: Parallel) -> tuple[str, ...]:
    words: dict[str, None] = {}
    for row in rows:
        for store in row.stores:
            if parallel.tp > 1:
                words[f"{row.name} {store.name}: {explain(store, parallel)}"] = None
            if parallel.cp > 1 and rank_tokens(store, parallel.cp, parallel) == parallel.cp:
                words[f"{row.name} {store.name}: copied to each of {parallel.cp} context ranks"] = None
    return tuple(words)


def warnings(
    model: ModelSpec, ask: SizeRequest, rows: tuple[LayerRow, ...], layout: Layout | None
) -> tuple[str, ...]:
    found = []
    limit = reach(model)
    if limit is not None and ask.context_tokens > limit:
        found.append(f"context {ask.context_tokens:,} is beyond the {limit:,} tokens {model.name} supports")
    for row in rows:
        for store in row.stores:
            if (
                store.reach in ("window", "chunk")
                and store.limit > ask.context_tokens
                and store.name == "K and V"
            ):
                found.append(
                    f"the {store.reach} of {store.limit:,} tokens (layers {row.name!r}) is longer than the "
                    f"context of {ask.context_tokens:,}"
                )
    packed = any(store.source == "vLLM 0.33 deepseek_v4" for row in rows for store in row.stores)
    if packed and ask.form.name not in ("fp8_ds_mla", "fp8_e4m3"):
        found.append(f"{ask.retention.name} keeps this model's latents in fp8 whatever the KV dtype says")
    if layout is not None and layout.block_size > ask.block_size and any(row.state_bytes for row in rows):
        found.append(
            f"vLLM raises the block size from {ask.block_size} to {layout.block_size:,} tokens so that one "
            "attention page holds one state"
        )
    if layout is not None and any(group.padding_layers for group in layout.groups):
        padding = sum(group.padding_layers for group in layout.groups)
        found.append(f"vLLM adds {padding} padding layers to make its layer groups equal")
    if model.encoder is not None and not model.encoder.fixed_length:
        found.append(f"cross attention is sized for {ask.encoder_tokens:,} encoder tokens")
    return tuple(dict.fromkeys(found))


def size_terms(report: SizeReport, model: ModelSpec, groups: tuple[LayerGroup, ...]) -> tuple[Term, ...]:
    """The bill, line by line: per token, per sequence, state, allocated, per GPU."""
    ask = report.request
    terms = _token_terms(report)
    terms += _sequence_terms(report)
    kept = f"{ask.context_tokens:,} tokens, before block rounding"
    terms.append(Term("per sequence", kept, report.kv_bytes_per_sequence))
    terms += _state_terms(report, model, groups)
    if report.state_bytes_per_sequence:
        terms.append(Term("state per sequence", "constant", report.state_bytes_per_sequence))
    allocated = report.allocated_bytes_per_sequence
    terms.append(Term("allocated per sequence", _allocation_formula(report), allocated))
    terms.append(Term("total", f"{ask.batch} sequence{'s' if ask.batch > 1 else ''}", report.total_bytes))
    parallel = ask.parallel
    if parallel.gpus > 1:
        words = f"tp {parallel.tp} x pp {parallel.pp} x cp {parallel.cp} x dp {parallel.dp}"
        terms.append(Term("per GPU", f"{words}, the fullest stage", report.bytes_per_gpu))
    if report.ring_chunk_bytes:
        share = -(-ask.context_tokens // parallel.cp)
        words = f"a neighbour's {share:,} tokens of one layer, while a prompt is computed"
        terms.append(Term("ring chunk", words, report.ring_chunk_bytes))
        both = report.bytes_per_gpu + report.ring_chunk_bytes
        terms.append(Term("per GPU with ring chunk", "its share and one chunk", both))
    if report.static_scale_bytes:
        words = "with the model, once, not per sequence"
        terms.append(Term("static scales", words, report.static_scale_bytes))
    return tuple(terms)


def _token_terms(report: SizeReport) -> list[Term]:
    terms = []
    for row in report.rows:
        for store in row.stores:
            if store.reach == "encoder":
                continue
            bounded = "" if store.reach == "context" else f", {store.reach} {store.limit:,}"
            per = f" / {store.tokens_per_entry}" if store.tokens_per_entry > 1 else ""
            terms.append(
                Term(
                    f"{row.name}: {store.name} per token{bounded}",
                    f"{row.count} layers x {_product(store.content.formula)}{per}",
                    number(row.count * store.bytes_per_token()),
                    source=store.source,
                )
            )
    shown = [f"{row.count} x {number(row.bytes_per_token):,}" for row in report.rows if row.bytes_per_token]
    formula = " + ".join(shown) or "no layer keeps the whole context"
    terms.append(Term("KV per token", formula, report.kv_bytes_per_token))
    return terms


def _product(formula: str) -> str:
    """A formula that may be multiplied: in parentheses when it is a bare sum."""
    depth, bare = 0, False
    for letter in formula:
        depth += (letter == "(") - (letter == ")")
        bare = bare or (letter == "+" and depth == 0)
    return f"({formula})" if bare else formula


def _sequence_terms(report: SizeReport) -> list[Term]:
    ask, terms = report.request, []
    for row in report.rows:
        for store in row.stores:
            kept = kept_tokens(store, ask.context_tokens, ask.retention, ask.in_flight)
            what = "encoder tokens" if store.reach == "encoder" else "tokens kept"
            if store.reach in ("window", "chunk") and kept > store.limit:
                steps = ask.in_flight // ask.max_num_batched_tokens
                what += f": the {store.reach} and {steps} steps of {ask.max_num_batched_tokens:,} in flight"
            terms.append(
                Term(
                    f"{row.name}: {store.name} per sequence",
                    f"{row.count} layers x {kept:,} {what}",
                    row.count * store.bytes(kept),
                    source=f"retention {ask.retention.name}",
                )
            )
    return terms


def _state_terms(report: SizeReport, model: ModelSpec, groups: tuple[LayerGroup, ...]) -> list[Term]:
    ask, terms = report.request, []
    keeping = keeping_of(model, ask.form, ask.retention.engine)
    for group, row in zip(groups, report.rows, strict=True):
        if group.block.state is not None:
            kept = beside_drafts(group.block.state, keeping, int(ask.draft))
            parts = state_parts(group.block.state, kept)
            formula = " + ".join(f"{part.name} {part.formula}" for part in parts)
            whole = row.count * row.state_bytes
            terms.append(Term(f"{row.name}: state", f"{row.count} layers x ({formula})", whole))
    return terms


def _held_states(report: SizeReport) -> str:
    """Why a sequence takes its state more than once: one a step reads, one it writes, one on a grid."""
    groups = () if report.layout is None else report.layout.groups
    held = max((group.blocks_per_request for group in groups if group.reach[0] == "state"), default=1)
    return f"; {held} states a layer, as prefixes are cached" if held > 1 else ""


def _allocation_formula(report: SizeReport) -> str:
    ask = report.request
    if ask.retention.name == "vllm":
        size = report.layout.block_size if report.layout is not None else ask.block_size
        return f"blocks of {size:,} tokens, vLLM page groups{_held_states(report)}"
    if not ask.retention.pages:
        return "exact lengths, no blocks"
    return f"rounded up to blocks of {ask.block_size} tokens"
