"""Dividing a cache over GPUs, and saying in words what could not be divided.

* TP splits KV heads; with more ranks than heads every head is kept by tp / kv_heads ranks.
* An MLA latent has no heads: every TP rank keeps a copy, unless attention is data-parallel
  (``dp_attention``), where a sequence lives on one rank, of one GPU or several.
* PP splits layers, unevenly when they do not divide (:mod:`kvplan.sizing.stages`).
* CP (context or ring parallelism) splits the tokens of a sequence; windows, indexers and state are copied.
  While ring attention works on a layer, a rank has its neighbour's share of that layer too: one chunk.
* DP splits sequences.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kvplan.errors import UsageError
from kvplan.sizing.parallel import Parallel, check_degrees
from kvplan.sizing.state import shard_sizes, shared_groups
from kvplan.sizing.stores import Heads, Store
from kvplan.specs.model import Block, ModelSpec


def check_parallel(model: ModelSpec, parallel: Parallel) -> None:
    """Refuse degrees that the model cannot be cut by.

    Raises:
        UsageError: naming the degree, the field of the model, and what would work.
    """
    check_degrees(parallel)
    if parallel.pp > model.num_layers:
        raise UsageError(f"pp {parallel.pp} is more than the {model.num_layers} layers of {model.name}")
    tp = parallel.attention_tp
    if tp == 1:
        return
    for group in model.groups():
        for field, heads, may_replicate in _divided(group.block):
            if heads % tp and not (may_replicate and tp % heads == 0):
                more = f" or a multiple of {heads}" if may_replicate else ""
                raise UsageError(
                    f"tp {tp} does not divide the {heads} {field} of {model.name} (layers {group.name!r})",
                    hint=f"use tp {tp_dividing(heads)}{more}",
                )


def tp_dividing(number: int) -> str:
    """Degrees of a real host or rack, up to 64, that cut ``number`` evenly: ``1, 2, 4, 8``."""
    return ", ".join(str(tp) for tp in range(1, 65) if number % tp == 0)


def _divided(block: Block) -> list[tuple[str, int, bool]]:
    """What TP divides in a layer: field, number, and whether copies may stand in for a division."""
    found: list[tuple[str, int, bool]] = []
    for attention in (block.attention, block.cross):
        if attention is None:
            continue
        found.append(("query heads", attention.query_heads, False))
        heads = getattr(attention, "kv_heads", None)
        if heads is not None:
            found.append(("KV heads", heads, True))
    if block.state is not None:
        found += [("state heads or channels", size, False) for size in shard_sizes(block.state)]
        if (groups := shared_groups(block.state)) > 1:
            found.append(("state groups (B and C)", groups, False))
    return found


def rank_store(store: Store, parallel: Parallel) -> Store:
    """One TP rank's share of a store."""
    tp = parallel.attention_tp
    if tp == 1 or not store.split_heads or not isinstance(store.content, Heads):
        return store
    return store.with_heads(max(store.content.count // tp, 1))


def rank_tokens(store: Store, tokens: int, parallel: Parallel) -> int:
    """Tokens of a store on one CP rank: the context is divided, everything else is copied."""
    return -(-tokens // parallel.cp) if parallel.cp > 1 and _is_shared(store) else tokens


def _is_shared(store: Store) -> bool:
    """Whether context parallelism divides a store."""
    return store.reach == "context" and store.name != "indexer keys"


def ring_chunk_bytes(layers: Iterable[Sequence[Store]], tokens: int, parallel: Parallel) -> int:
    """Bytes of the chunk that goes round the ring: a rank's share of one sequence in the layer with the most.

    Args:
        layers: the stores of one layer of every kind.
        tokens: of the sequence.
    """
    if parallel.cp == 1:
        return 0
    share = -(-tokens // parallel.cp)
    return max(
        (
            sum(rank_store(store, parallel).bytes(share) for store in stores if _is_shared(store))
            for stores in layers
        ),
        default=0,
    )


def explain(store: Store, parallel: Parallel) -> str:
    """How TP treats a store, in words."""
    tp = parallel.tp
    if tp == 1:
        return "one GPU keeps all of it"
    if parallel.dp_attention:
        if parallel.attention_tp == 1:
            return f"attention is data-parallel: a sequence lives on one of {tp} GPUs"
        within = explain(store, Parallel(tp=parallel.attention_tp))
        return f"a sequence lives on one of {parallel.attention_ranks} groups of GPUs: {within}"
    if not store.split_heads or not isinstance(store.content, Heads):
        return f"no heads to split: each of {tp} GPUs keeps a copy"
    heads = store.content.count
    if heads % tp == 0:
        return f"{heads} KV heads split {tp} ways: {heads // tp} per GPU"
    return f"tp {tp} exceeds {heads} KV heads: each head is kept by {tp // heads} GPUs"
