"""What a model is: blocks (attention x state x feed-forward) and the order in which they are stacked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from kvplan.specs.attention import CrossAttention, SelfAttention
from kvplan.specs.base import Count, Frozen, Natural, Source, SpecName
from kvplan.specs.mlp import Mlp, MoeMlp
from kvplan.specs.state import State

Component = Literal[
    "embeddings", "lm_head", "attention", "state", "router", "dense_mlp", "experts", "shared_experts",
    "indexer", "vision", "encoder", "draft", "extra",
]  # fmt: skip
"""The parts of a model whose weights may be stored in a format of their own."""


class Block(Frozen):
    """One kind of layer. A part left out is absent: a Mamba block may have only ``state``."""

    attention: SelfAttention | None = None
    cross: CrossAttention | None = None
    state: State | None = None
    mlp: Mlp | None = None
    weights_shared: bool = False
    """True where the layers of this kind share weights for attention and MLP (Zamba)."""
    weight_sets: Count = 1
    """Sets of weights that they take in turn, where they share."""
    passes: Count = 1
    """Layers of the layout that are one layer run again with the same weights (looped models)."""
    no_op: bool = False
    """True for a layer that architecture search emptied: it has no part at all."""

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        parts = (self.attention, self.cross, self.state, self.mlp)
        if self.no_op != all(part is None for part in parts):
            raise ValueError("a block needs attention, cross, state or mlp; an empty one says no_op: true")
        return self


class Segment(Frozen):
    """``blocks`` (names) in order, the whole row ``repeat`` times over."""

    repeat: Count = 1
    blocks: Annotated[tuple[str, ...], Field(min_length=1, max_length=4096)]


class Weights(Frozen):
    """How the checkpoint stores its weights: one format, and the parts that differ.

    Formats: ``fp32 bf16 fp16 fp8 fp8_channel fp8_block128 int8 int8_group128 int4 int4_channel int4_group32
    int4_group64 int4_group128 nf4 nf4_double nvfp4
    mxfp4 mxfp8``; ``kvplan.sizing.weights`` gives the bytes of each.
    """

    format: str = "bf16"
    overrides: Mapping[Component, str] = Field(default_factory=dict)
    """Formats of parts: usually the unquantized ones, e.g. ``{lm_head: bf16}``."""


class ExtraWeights(Frozen):
    """Parameters no other field implies, e.g. per-layer embeddings."""

    name: str
    parameters: Count
    active: bool = True
    """False for a table of which each token reads one row."""
    in_host_memory: bool = False
    """True for tables that engines leave in the host's memory by default: counted, but on no GPU."""


class Encoder(Frozen):
    """The encoder of an encoder-decoder model; its output is what cross attention keeps."""

    layers: Natural
    hidden_size: Count
    attention: SelfAttention
    mlp: Mlp
    experts: MoeMlp | None = None
    """The feed-forward part of the ``expert_layers`` layers that have one with experts instead of ``mlp``."""
    expert_layers: Natural = 0
    max_tokens: Count | None = None
    """Fixed or largest number of encoder tokens; ``None`` = as long as the input."""
    fixed_length: bool = False
    """True when every sequence fills ``max_tokens`` (Whisper pads to 30 s)."""


class Vision(Frozen):
    """A vision tower: its weights, and how many tokens one image adds to the context."""

    layers: Natural
    hidden_size: Count
    intermediate_size: Count
    heads: Count | None = None
    gated: bool = False
    tokens_per_image: Count | None = None
    """Tokens one image adds, where the architecture fixes it; ``None`` = depends on resolution."""
    patches_per_token: Count = 4
    """Patches the tower works on for every token it hands over: 4 where 2 x 2 patches are merged."""
    parameters: Count | None = None
    whole: bool = False
    """Not cut by tensor parallelism: vLLM has it from transformers' own class (Gemma 3n, Gemma 4)."""


class Draft(Frozen):
    """Multi-token-prediction (MTP) layers; engines cache KV for them only when they draft."""

    layers: Count
    block: Block
    shared_embeddings: bool = True


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """All layers of one kind: ``count`` layers of ``block``, first seen at layer ``first``."""

    name: str
    count: int
    first: int
    block: Block


KvFormats = Mapping[Literal["vllm", "sglang"], str]
"""The KV number format that an engine takes from a checkpoint; those that take none are left out."""


class ModelSpec(Frozen):
    """A model's shape. ``layout`` stacks the named ``blocks``; every block must be used."""

    schema_: Literal["kvplan.model/1"] = Field("kvplan.model/1", alias="schema")
    name: SpecName
    family: SpecName
    aliases: tuple[str, ...] = ()
    source: Source
    hidden_size: Count
    vocab_size: Count
    max_context: Count | None = None
    unstretched_context: Count | None = None
    """Context before LongRoPE stretches it to ``max_context``, where it does."""
    yarn_context: Count | None = None
    """Context YaRN stretches the model to, where its files give another as ``max_context``."""
    tie_embeddings: bool = False
    embedding_size: Count | None = None
    """Width of embeddings and output head where it is not the hidden size: projected in and out."""
    learned_positions: Natural = 0
    dtype: Literal["bf16", "fp16", "fp32"] = "bf16"
    """Dtype of activations, and of the KV cache unless told otherwise."""
    weights: Weights = Weights()
    kv_format: str | KvFormats | None = None
    """KV number format the checkpoint itself asks for (its quantization config), if any: one for every
    engine, or by engine where they read it differently.
    """
    blocks: Annotated[Mapping[str, Block], Field(min_length=1, max_length=64)]
    layout: Annotated[tuple[Segment, ...], Field(min_length=1, max_length=4096)]
    encoder: Encoder | None = None
    vision: Vision | None = None
    image_prefixes: bool = False
    """Tokens of one image attend to one another, also to later ones (Gemma 3)."""
    draft: Draft | None = None
    extra_weights: tuple[ExtraWeights, ...] = ()
    parameters: Count | None = None
    """Published number of parameters, where it is known: a check on the weights, never an input."""
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _layout_names_blocks(self) -> Self:
        used = {name for segment in self.layout for name in segment.blocks}
        if unknown := sorted(used - set(self.blocks)):
            raise ValueError(f"layout names blocks that are not defined: {', '.join(unknown)}")
        if idle := sorted(set(self.blocks) - used):
            raise ValueError(f"blocks that layout never uses: {', '.join(idle)}")
        if (layers := self.num_layers) > MAX_LAYERS:
            raise ValueError(f"{layers} layers is more than {MAX_LAYERS}")
        needs_encoder = any(b.cross is not None and b.cross.source == "encoder" for b in self.blocks.values())
        if needs_encoder and self.encoder is None:
            raise ValueError("cross attention over an encoder needs the encoder section")
        return self

    def asked_format(self, engine: str) -> str | None:
        """The KV number format the checkpoint asks ``engine`` for; of another than vLLM and SGLang: any."""
        asked = self.kv_format
        if asked is None or isinstance(asked, str):
            return asked
        own = engine in ("vllm", "sglang")
        return next((form for name, form in asked.items() if name == engine or not own), None)

    @property
    def num_layers(self) -> int:
        """Layers of the (decoder) stack, without encoder, vision or draft."""
        return sum(segment.repeat * len(segment.blocks) for segment in self.layout)

    def layer_names(self) -> tuple[str, ...]:
        """The block name of every layer, bottom to top."""
        return tuple(name for segment in self.layout for name in segment.blocks * segment.repeat)

    def layers(self) -> tuple[Block, ...]:
        """The block of every layer, bottom to top."""
        return tuple(self.blocks[name] for name in self.layer_names())

    def groups(self) -> tuple[LayerGroup, ...]:
        """Layers gathered by kind, in order of first appearance."""
        count: dict[str, int] = {}
        first: dict[str, int] = {}
        for index, name in enumerate(self.layer_names()):
            count[name] = count.get(name, 0) + 1
            first.setdefault(name, index)
        return tuple(LayerGroup(name, n, first[name], self.blocks[name]) for name, n in count.items())


MAX_LAYERS = 4096
"""More layers than any model has; bounds the work a hostile file can ask for."""
