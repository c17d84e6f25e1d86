"""Every weight tensor of a layer, as the engines fuse and shard them.

A :class:`Tensor` is what one rank holds, so sharding and its replication are in the shapes: KV heads are
repeated once the tensor-parallel size exceeds them, the low-rank down-projections of MLA, norms and routers
are on every rank, everything else is cut. ``tp = ep = 1`` gives the whole model, so parameter counts and
bytes come from one description.

Symbols: h hidden size, Hq and Hkv query and KV heads, d and dv head dimensions of K and V, I intermediate
size, E experts, r the latent rank of MLA.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kvplan.sizing.state_parameters import state_tensors
from kvplan.sizing.tensor import Tensor, matrix, share, vector
from kvplan.specs.schema import (
    Block,
    Component,
    CompressedAttention,
    CrossAttention,
    DenseMlp,
    Indexer,
    LatentAttention,
    Mlp,
    MoeMlp,
    SelfAttention,
    SharedAttention,
)


@dataclass(frozen=True, slots=True)
class Split:
    """Ranks over which a layer's weights are cut: ``tp`` within matrices, ``ep`` across experts.

    ``ep`` 1: the experts are cut like everything else. ``ep`` > 1: whole experts are dealt out to that many
    ranks. ``attention_ranks``: groups of the ``tp`` GPUs that have attention, state, embeddings and towers
    each for itself (data-parallel attention); with ``own_layers`` everything but the experts (vLLM's, each of
    which is an engine of its own beside them). ``whole``: what each GPU has all of: embeddings, dense MLPs,
    shared experts.
    """

    tp: int = 1
    ep: int = 1
    attention_ranks: int = 1
    own_layers: bool = False
    whole: frozenset[Component] = frozenset()

    @property
    def mixer_tp(self) -> int:
        """GPUs over which attention, state and towers are cut."""
        return self.tp // self.attention_ranks

    @property
    def embedding_tp(self) -> int:
        """GPUs over which embeddings are cut."""
        return 1 if "embeddings" in self.whole else self.mixer_tp

    @property
    def dense_tp(self) -> int:
        """GPUs over which MLPs that every token passes through are cut if they are, and the output head."""
        return self.mixer_tp if self.own_layers else self.tp

    def mlp_tp(self, component: Component) -> int:
        """GPUs over which dense MLPs or shared experts are cut."""
        return 1 if component in self.whole else self.dense_tp


WHOLE = Split()


def block_tensors(block: Block, hidden: int, split: Split = WHOLE) -> Iterator[Tensor]:
    """Weight tensors of one layer on one rank, norms included."""
    if block.attention is not None:
        yield vector("attention_norm", "extra", hidden)
        yield from attention_tensors(block.attention, hidden, split.mixer_tp)
    if block.cross is not None and not block.cross.merged:
        yield vector("cross_norm", "extra", hidden)
        yield from _cross(block.cross, hidden, split.mixer_tp)
    if block.state is not None:
        if block.attention is None:
            yield vector("state_norm", "extra", hidden)
        yield from state_tensors(block.state, hidden, split.mixer_tp)
    if block.mlp is not None:
        yield vector("mlp_norm", "extra", hidden)
        yield from mlp_tensors(block.mlp, hidden, split)


def attention_tensors(attention: SelfAttention, hidden: int, tp: int = 1) -> Iterator[Tensor]:
    """Projections, their biases and norms of one self-attention layer."""
    if isinstance(attention, LatentAttention):
        yield from _latent(attention, hidden, tp)
    elif isinstance(attention, CompressedAttention):
        yield from _compressed(attention, hidden, tp)
    elif isinstance(attention, SharedAttention):
        yield from _shared(attention, hidden, tp)
    else:
        query = share(attention.query_heads, tp)
        kv = share(attention.kv_heads, tp)
        width_q = query * attention.head_dim * (2 if attention.output_gate else 1)
        width_kv = kv * (attention.head_dim + (attention.value_dim if attention.v_projection else 0))
        if attention.query_rank is None:
            yield matrix("qkv_proj", "attention", width_q + width_kv, hidden)
        else:
            yield matrix("qkv_a_proj", "attention", attention.query_rank + width_kv, hidden)
            yield vector("q_a_norm", "attention", attention.query_rank)
            yield matrix("q_b_proj", "attention", width_q, attention.query_rank)
        yield matrix("o_proj", "attention", hidden, query * attention.value_dim)
        if attention.qkv_bias:
            yield vector("qkv_bias", "attention", width_q + width_kv)
        if attention.output_bias:
            yield vector("o_bias", "attention", hidden)
        if attention.sinks:
            yield vector("sinks", "attention", query)
        if attention.qk_norm == "per_head":
            yield vector("qk_norm", "attention", 2 * attention.head_dim)
        elif attention.qk_norm == "full":
            yield vector("qk_norm", "attention", (query + kv) * attention.head_dim)
        if attention.indexer is not None:
            yield from _indexer(attention.indexer, hidden, hidden)


def _latent(attention: LatentAttention, hidden: int, tp: int) -> Iterator[Tensor]:
    heads = share(attention.query_heads, tp)
    query_width = heads * (attention.nope_head_dim + attention.rope_head_dim)
    latent = 0 if attention.shared else attention.latent_dim
    if attention.q_lora_rank is None:
        yield matrix("q_proj", "attention", query_width, hidden)
        if latent:
            yield matrix("kv_a_proj", "attention", latent, hidden)
    else:
        yield matrix("qkv_a_proj", "attention", attention.q_lora_rank + latent, hidden)
        yield vector("q_a_norm", "attention", attention.q_lora_rank)
        yield matrix("q_b_proj", "attention", query_width, attention.q_lora_rank)
    if latent:
        yield vector("kv_a_norm", "attention", attention.kv_lora_rank)
    expanded = heads * (attention.nope_head_dim + attention.v_head_dim)
    yield matrix("kv_b_proj", "attention", expanded, attention.kv_lora_rank)
    yield matrix("o_proj", "attention", hidden, heads * attention.v_head_dim)
    if attention.output_gate:
        yield matrix("gate_proj", "attention", heads * attention.v_head_dim, hidden)
    if attention.qkv_bias:
        yield vector("qkv_a_bias", "attention", (attention.q_lora_rank or 0) + attention.latent_dim)
    if attention.indexer is not None and attention.indexer.owned:
        yield from _indexer(attention.indexer, hidden, attention.q_lora_rank or hidden)


def absorbed_copies(attention: SelfAttention | None, tp: int = 1) -> int:
    """Elements of the MLA up-projection that engines keep a second time, unpacked for decode.

    Decode multiplies by W_UK and W_UV per head; both are stored in the activations' dtype beside
    ``kv_b_proj``, which prefill still needs.
    """
    if not isinstance(attention, LatentAttention):
        return 0
    per_head = attention.nope_head_dim + attention.v_head_dim
    return share(attention.query_heads, tp) * per_head * attention.kv_lora_rank


def _indexer(indexer: Indexer, hidden: int, query_inputs: int) -> Iterator[Tensor]:
    # Replicated on every rank: the selection must be the same everywhere.
    yield matrix("indexer_q", "indexer", indexer.heads * indexer.head_dim, query_inputs)
    yield matrix("indexer_k", "indexer", indexer.key_heads * indexer.head_dim, hidden)
    yield matrix("indexer_weights", "router", indexer.heads, hidden)
    yield vector("indexer_norm", "indexer", 2 * indexer.head_dim)


def _compressed(attention: CompressedAttention, hidden: int, tp: int) -> Iterator[Tensor]:
    heads = share(attention.query_heads, tp)
    dim = attention.head_dim
    yield matrix("qkv_a_proj", "attention", attention.q_lora_rank + dim, hidden)
    yield vector("q_a_norm", "attention", attention.q_lora_rank + dim)
    yield matrix("q_b_proj", "attention", heads * dim, attention.q_lora_rank)
    yield matrix("o_a_proj", "attention", attention.o_lora_rank, heads * dim)
    groups = share(attention.o_groups, tp)
    yield matrix("o_b_proj", "attention", hidden, groups * attention.o_lora_rank)
    yield vector("sinks", "attention", heads)
    if attention.keys_from_entries:
        yield from _entry_sources(attention, hidden)
        return
    if attention.ratio:
        ways = 2 if attention.overlap else 1
        yield matrix("compressor", "indexer", 2 * ways * dim, hidden)
        yield vector("compressor_bias", "indexer", attention.ratio * ways * dim + dim)
    if attention.indexer is not None:
        indexer = attention.indexer
        yield matrix("indexer_q", "indexer", indexer.heads * indexer.head_dim, attention.q_lora_rank)
        yield matrix("indexer_compressor", "indexer", 4 * indexer.head_dim, hidden)
        yield matrix("indexer_weights", "router", indexer.heads, hidden)


def _entry_sources(attention: CompressedAttention, hidden: int) -> Iterator[Tensor]:
    """DeepSeek-V4.1: the compressor (gated unless its ratio is 1) and the indexer, where a layer has them."""
    if attention.ratio and attention.compresses:
        ways = 2 if attention.ratio > 1 else 1
        yield matrix("compressor", "indexer", ways * attention.head_dim, hidden)
        yield vector("compressor_norm", "indexer", attention.head_dim)
    indexer = attention.indexer
    if indexer is None:
        return
    yield matrix("indexer_q", "indexer", indexer.heads * indexer.head_dim, attention.q_lora_rank)
    yield matrix("indexer_weights", "router", indexer.heads, hidden)
    if indexer.owned:
        yield matrix("indexer_k", "indexer", indexer.head_dim, attention.head_dim)
        yield vector("indexer_norm", "indexer", indexer.head_dim)


def _shared(attention: SharedAttention, hidden: int, tp: int) -> Iterator[Tensor]:
    query, kv = share(attention.query_heads, tp), share(attention.kv_heads, tp)
    width = query * attention.head_dim
    if attention.kv_projection:
        width += 2 * kv * attention.head_dim
    yield matrix("qkv_proj", "attention", width, hidden)
    yield matrix("o_proj", "attention", hidden, query * attention.head_dim)
    if attention.qk_norm == "per_head":
        yield vector("qk_norm", "attention", (2 if attention.kv_projection else 1) * attention.head_dim)


def _cross(attention: CrossAttention, hidden: int, tp: int) -> Iterator[Tensor]:
    query, kv = share(attention.query_heads, tp), share(attention.kv_heads, tp)
    width = (query + 2 * kv) * attention.head_dim
    yield matrix("cross_qkv_proj", "attention", width, hidden)
    yield matrix("cross_o_proj", "attention", hidden, query * attention.head_dim)
    if attention.qkv_bias:
        yield vector("cross_qkv_bias", "attention", width)
    if attention.output_bias:
        yield vector("cross_o_bias", "attention", hidden)


def mlp_tensors(mlp: Mlp, hidden: int, split: Split = WHOLE) -> Iterator[Tensor]:
    """The feed-forward weights of one layer."""
    if isinstance(mlp, DenseMlp):
        yield from _dense(mlp, hidden, split, "dense_mlp")
    else:
        yield from _moe(mlp, hidden, split)


def _dense(mlp: DenseMlp, hidden: int, split: Split, component: Component) -> Iterator[Tensor]:
    width = share(mlp.intermediate_size, split.mlp_tp(component))
    up = width * (2 if mlp.gated else 1)
    yield matrix("up_proj", component, up, hidden)
    yield matrix("down_proj", component, hidden, width)
    if mlp.bias:
        yield vector("up_bias", component, up)
        yield vector("down_bias", component, hidden)


def _moe(mlp: MoeMlp, hidden: int, split: Split) -> Iterator[Tensor]:
    experts = -(-mlp.experts // split.ep)
    width = mlp.intermediate_size if split.ep > 1 else share(mlp.intermediate_size, split.tp)
    inner = mlp.latent_size or hidden
    up = width * (2 if mlp.gated else 1)
    yield matrix("router", "router", mlp.experts, hidden)
    yield matrix("experts_up", "experts", up, inner, stack=experts)
    yield matrix("experts_down", "experts", inner, width, stack=experts)
    if mlp.bias:
        yield vector("router_bias", "router", mlp.experts)
        yield vector("experts_up_bias", "experts", up * experts)
        yield vector("experts_down_bias", "experts", inner * experts)
    if mlp.latent_size is not None:
        yield matrix("latent_down", "shared_experts", mlp.latent_size, hidden)
        yield matrix("latent_up", "shared_experts", hidden, mlp.latent_size)
    if mlp.shared_intermediate_size:
        shared = DenseMlp(intermediate_size=mlp.shared_intermediate_size, gated=mlp.gated)
        yield from _dense(shared, hidden, split, "shared_experts")
    if mlp.shared_gate:
        yield matrix("shared_gate", "router", 1, hidden)
    if mlp.dense is not None:
        yield from _dense(mlp.dense, hidden, split, "dense_mlp")
