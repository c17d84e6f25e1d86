"""Weights that no layer's usual parts imply, by the fields that describe them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from kvplan.specs.attention import FullAttention
from kvplan.specs.base import MAX_COUNT
from kvplan.specs.huggingface.class_towers import tower_owners
from kvplan.specs.huggingface.config import Config
from kvplan.specs.huggingface.heads import head_dim, query_heads
from kvplan.specs.huggingface.speech import speech
from kvplan.specs.huggingface.states import jet_section
from kvplan.specs.model import Block, ExtraWeights
from kvplan.specs.state import GatedDeltaNetState, MambaState


def extra_weights(config: Config, stack: Sequence[Block]) -> tuple[ExtraWeights, ...]:
    """Per-layer embeddings and their projections, alternating updates, experts of attention, wide inputs."""
    found = [*_per_layer(config, len(stack)), *_alternating(config, len(stack))]
    found += [
        *_ngrams(config),
        *_image_experts(config, stack),
        *_engrams(config),
        *_hashed(config),
        *_connections(config, len(stack)),
        *_generated_kernels(config, stack),
        *_value_experts(config, stack),
        *_encoders_own(config),
        *_memory_gates(config, stack),
        *speech(config),
        *_image_layers(config, stack),
        *_added_words(config, stack),
    ]
    if config.model_type == "jetmoe":
        found += _attention_experts(config, len(stack))
    if config.model_type in ("zamba", "zamba2"):
        found += _wide_inputs(config, stack)
    return tuple(found)


def _extra(name: str, parameters: int, *, active: bool = True) -> ExtraWeights:
    return ExtraWeights.model_construct(name=name, parameters=parameters, active=active)


def _per_layer(config: Config, layers: int) -> Iterator[ExtraWeights]:
    """Gemma 3n and the E models of Gemma 4: a small embedding per token and layer, gated into the layer."""
    width = config.integer("hidden_size_per_layer_input", 0, least=0)
    if not width:
        return
    rows = config.optional("vocab_size_per_layer_input") or config.count("vocab_size")
    hidden = config.count("hidden_size")
    yield _extra("per-layer embeddings", rows * width * layers, active=False)
    # From the hidden state once for all layers; in each layer a gate down and a projection up, and its norm.
    yield _extra("per-layer projections", 3 * layers * hidden * width + layers * hidden + width)


def _alternating(config: Config, layers: int) -> Iterator[ExtraWeights]:
    """Gemma 3n: AltUp keeps several copies of the hidden state, LAuReL adds a low-rank residual."""
    copies = config.integer("altup_num_inputs", 0, least=0)
    hidden = config.count("hidden_size")
    if copies and config.model_type.startswith("gemma3n"):
        routers = layers * hidden * (copies + 2)
        yield _extra("alternating updates", 2 * (copies - 1) * hidden * hidden + routers)
    rank = config.integer("laurel_rank", 0, least=0)
    if rank and config.model_type.startswith("gemma3n"):
        yield _extra("low-rank residuals", layers * hidden * (2 * rank + 1))


def _ngrams(config: Config) -> Iterator[ExtraWeights]:
    """LongCat-Flash-Lite: hashed embeddings of the last 2, 3 ... tokens, projected and added.

    Table i has ``ratio x vocabulary + 2 i + 1`` rows; a row is the hidden size over the number of tables.
    """
    ratio = config.optional("ngram_vocab_size_ratio")
    if ratio is None:
        return
    hidden = config.count("hidden_size")
    tables = config.count("emb_split_num") * (config.integer("emb_neighbor_num", least=2) - 1)
    width = hidden // tables
    rows = tables * ratio * config.count("vocab_size") + tables * tables
    yield _extra("n-gram embeddings", rows * width, active=False)
    yield _extra("n-gram projections", tables * width * hidden)


def _memory_gates(config: Config, stack: Sequence[Block]) -> Iterator[ExtraWeights]:
    """Phi-4-flash: upper layers that gate the output of the last scan, one projection in and one out."""
    if not config.has("mb_per_layer"):
        return
    gating = sum(block.attention is None and block.state is None for block in stack)
    inner = next(block.state.inner_size for block in stack if isinstance(block.state, MambaState))
    yield _extra("gated memory units", 2 * gating * inner * config.count("hidden_size"))


def _engrams(config: Config) -> Iterator[ExtraWeights]:
    """DeepSeek-V4.1: tables of hashed n-grams beside some layers, and the projection of the rows they give.

    A position hashes its n-grams of 2 to ``engram_max_ngram_size`` tokens once per head; the rows, side by
    side, become a key for every copy of the hidden state and a value. vLLM keeps tables in host memory.
    """
    sizes = config.items("engram_num_embeddings")
    if not sizes or not config.items("engram_layer_ids"):
        return
    if any(type(size) is not int or not 0 < size <= MAX_COUNT for size in sizes):
        raise config.error("expected a number of rows for every table", "engram_num_embeddings")
    width, hidden = config.count("engram_head_dim"), config.count("hidden_size")
    rows = (config.integer("engram_max_ngram_size", least=2) - 1) * config.count("engram_n_heads")
    copies = config.integer("hc_mult", 1)
    yield _extra("n-gram tables", sum(sizes) * width, active=False).model_copy(
        update={"in_host_memory": True}
    )
    projected = rows * width * hidden * (copies + 1) + 2 * copies * hidden
    yield _extra("n-gram projections", len(sizes) * projected)


def _hashed(config: Config) -> Iterator[ExtraWeights]:
    """Qwen 4: the same beside ``ple_layer_ids``; every head of every n-gram has a table of about one size.

    A table has the smallest unused prime of rows above ``ngram_vocab_size_base``, here counted as that.
    """
    owners = config.items("ple_layer_ids")
    if not owners:
        return
    hidden, copies = config.count("hidden_size"), config.count("hc_count")
    width = config.optional("ple_embed_dim") or hidden
    rows = config.count("ngram_vocab_size_base")
    table = len(owners) * rows * width
    yield _extra("n-gram tables", table, active=False).model_copy(update={"in_host_memory": True})
    kernel = config.integer("ple_conv_kernel_size", 4)
    mixed = (copies + 1) * width * hidden + copies * hidden * (kernel + 3)
    yield _extra("n-gram projections", len(owners) * mixed)


def ngram_words(config: Config) -> list[str]:
    """What Qwen 4 keeps beside its n-gram tables and no layer of the spec has."""
    owners = config.items("ple_layer_ids")
    if not owners:
        return []
    tail = (config.integer("ple_conv_kernel_size", 4) - 1) * config.integer("ngram_size", 3)
    channels = config.count("hidden_size") * config.integer("hc_count", 4)
    kept = len(owners) * tail * channels
    words = f"the convolutions beside n-gram tables keep {kept:,} elements a sequence, which are not counted"
    return [f"{words} (vLLM: a state of their own, copied to every rank)"]


def _connections(config: Config, layers: int) -> Iterator[ExtraWeights]:
    """DeepSeek-V4: what mixes the copies of the hidden state in front of attention and of the experts."""
    copies = config.optional("hc_mult")
    if copies is None or config.optional("hc_sinkhorn_iters", least=0) is None:
        return
    mixed = (2 + copies) * copies
    yield _extra("hyper-connections", layers * 2 * (mixed * copies * config.count("hidden_size") + mixed + 3))


def _generated_kernels(config: Config, stack: Sequence[Block]) -> Iterator[ExtraWeights]:
    """Jet-Nemotron: two matrices make the kernels of a layer's convolution from each token's hidden state."""
    jet = jet_section(config, "jet")
    states = [block.state for block in stack if block.state is not None]
    if jet is None or not states:
        return
    state = states[0]
    assert isinstance(state, GatedDeltaNetState)
    values = state.value_heads * state.value_head_dim
    narrow = values // jet.integer("dconv_generator_reduction", 8)
    size = narrow * (config.count("hidden_size") + values * state.conv_kernel)
    yield _extra("generated kernels", len(states) * size)


def _value_experts(config: Config, stack: Sequence[Block]) -> Iterator[ExtraWeights]:
    """K2 Horizon, xLLM: V is a mixture of projections in layers with experts; the spec counts one of them."""
    keys = ("mova_num_experts", "num_values")
    number = next((found for key in keys if (found := config.optional(key, least=0))), None)
    if number is None:
        return
    hidden = config.count("hidden_size")
    mixed = [block for block in stack if block.mlp is not None and block.mlp.kind == "moe"]
    width = sum(
        block.attention.kv_heads * block.attention.head_dim
        for block in mixed
        if isinstance(block.attention, FullAttention)
    )
    size = (number - 1) * hidden * width + len(mixed) * number * hidden
    if size:
        yield _extra("value experts", size, active=False)


def _encoders_own(config: Config) -> Iterator[ExtraWeights]:
    """T5Gemma's encoder has a table of words of its own; LED's projections of its own for global tokens."""
    beside = config.top.get("encoder")
    if str(config.top.get("model_type")) == "t5gemma" and isinstance(beside, Mapping):
        own = Config(beside, {}, config.path, "encoder.")
        table = config.count("vocab_size") * own.count("hidden_size")
        yield _extra("encoder embeddings", table, active=False)
    reads = config.top.get("text_encoder")
    if config.model_type.startswith("musicgen") and isinstance(reads, Mapping):
        own = Config(reads, {}, config.path, "text_encoder.")
        yield _extra("encoder embeddings", own.count("vocab_size") * own.count("hidden_size"), active=False)
    if words := config.optional("src_vocab_size", least=0):  # FSMT: one table for each language
        yield _extra("encoder embeddings", words * config.count("hidden_size"), active=False)
    if config.model_type == "led":
        hidden = config.count("hidden_size")
        places = sum(
            config.integer(f"max_{side}_position_embeddings", 0, least=0) for side in ("encoder", "decoder")
        )
        yield _extra("learned positions", places * hidden, active=False)
        yield _extra("global projections", config.integer("encoder_layers", 0, least=0) * 3 * hidden * hidden)


def _image_experts(config: Config, stack: Sequence[Block]) -> Iterator[ExtraWeights]:
    """ERNIE-VL: a second set of experts, for images, of a width of its own; texts are routed to the first."""
    widths = config.get("moe_intermediate_size")
    if not isinstance(widths, list) or len(widths) != 2:
        return
    if not any(owner.get("vision_config") for owner in tower_owners(config)):
        return
    width = Config({"width": widths[1]}, {}, config.path, config.prefix).count("width")
    sparse = [block.mlp for block in stack if block.mlp is not None and block.mlp.kind == "moe"]
    ways = 3 if sparse and sparse[0].gated else 2
    hidden = config.count("hidden_size")
    experts = sum(mlp.experts * hidden * (ways * width + 1) for mlp in sparse)
    if experts:
        yield _extra("experts for images", experts, active=False)


def _image_layers(config: Config, stack: Sequence[Block]) -> Iterator[ExtraWeights]:
    """Idefics: beside every so manieth layer one that attends to images, whose K and V are not cached."""
    if config.model_type != "idefics":
        return
    hidden, width = config.count("hidden_size"), config.count("intermediate_size")
    tower = config.sub("vision_config")
    seen = tower.integer("embed_dim", hidden) if tower is not None else hidden
    layers = len(stack) // config.integer("cross_layer_interval", 1)
    yield _extra("layers for images", layers * hidden * (2 * hidden + 2 * seen + 3 * width))


def _added_words(config: Config, stack: Sequence[Block]) -> Iterator[ExtraWeights]:
    """Rows of the embeddings that have no logit (Molmo, Llama 3.2 Vision); gates and norms of the latter's
    layers that read images."""
    hidden = config.count("hidden_size")
    if config.model_type in ("molmo", "molmo2_text"):
        words = config.integer("additional_vocab_size", 128, least=0)
        yield _extra("added words", words * hidden, active=False)
    if config.model_type == "mllama_text_model":
        crossed = [block.cross for block in stack if block.cross is not None]
        dims = hidden // config.count("num_attention_heads")
        yield _extra("added words", 8 * hidden + len(crossed) * (2 * dims + 2), active=False)


def _attention_experts(config: Config, layers: int) -> Iterator[ExtraWeights]:
    """JetMoe: every expert has query and output projections; the spec counts the chosen ones."""
    experts = config.count("num_experts")
    hidden = config.count("hidden_size")
    heads = query_heads(config)
    width = heads * head_dim(config, heads)
    chosen = config.count("num_experts_per_tok")
    others = layers * 2 * hidden * width * (experts - chosen) // chosen
    yield _extra("attention experts", others + layers * experts * hidden, active=False)


def _wide_inputs(config: Config, stack: Sequence[Block]) -> Iterator[ExtraWeights]:
    """Zamba: the shared blocks read hidden state and embeddings side by side; each use has its projection.

    Zamba 2: and low-rank adapters of its own, of the gated up-projection and of q, k and v.
    """
    hidden = config.count("hidden_size")
    heads = query_heads(config)
    width = heads * head_dim(config, heads)
    used = [block for block in stack if block.attention is not None]
    sets = used[0].weight_sets if used else 0
    yield _extra("shared blocks' wide inputs", 3 * sets * hidden * width + len(used) * hidden * hidden)
    rank, adapters = config.integer("adapter_rank", 128), 0
    if config.model_type == "zamba2" and config.flag("use_shared_mlp_adapter", True):
        widths = [block.mlp.intermediate_size for block in used if block.mlp is not None]
        adapters += sum(rank * (hidden + 2 * wide) for wide in widths)
    if config.flag("use_shared_attention_adapter"):
        adapters += len(used) * 3 * rank * (2 * hidden + width)
    if adapters:
        yield _extra("adapters of shared blocks", adapters)
