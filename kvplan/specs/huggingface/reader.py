"""A Hugging Face configuration to a ModelSpec: kinds of layers, blocks, weights, parts beside the stack."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from kvplan.errors import SpecError
from kvplan.specs.attention import CompressedAttention, SharedAttention
from kvplan.specs.base import Source
from kvplan.specs.huggingface import families
from kvplan.specs.huggingface.attention import attention, cross_attention
from kvplan.specs.huggingface.codecs import codecs
from kvplan.specs.huggingface.config import Config, text_config
from kvplan.specs.huggingface.drafting import draft
from kvplan.specs.huggingface.extras import extra_weights, ngram_words
from kvplan.specs.huggingface.layers import layer_kinds, number_of_layers
from kvplan.specs.huggingface.layout import segments
from kvplan.specs.huggingface.loops import loops_words, unrolled
from kvplan.specs.huggingface.mlps import mlp
from kvplan.specs.huggingface.nas import nas_blocks
from kvplan.specs.huggingface.overrides import layer_view, refuse_unread
from kvplan.specs.huggingface.parts import decoder_layers, encoder, is_encoder_decoder
from kvplan.specs.huggingface.qformers import qformers
from kvplan.specs.huggingface.quantization import model_dtype, weights
from kvplan.specs.huggingface.rotary import max_context, unstretched_context, yarn_context
from kvplan.specs.huggingface.sounds import sound
from kvplan.specs.huggingface.states import state
from kvplan.specs.huggingface.towers import image_prefixes, vision
from kvplan.specs.huggingface.understood import (
    refuse_elsewhere,
    refuse_other_files,
    refuse_several_stacks,
    refuse_silent_heads,
    refuse_unknown_fields,
    refuse_without_cache,
    unsaid,
)
from kvplan.specs.huggingface.windows import windows_answers
from kvplan.specs.json_document import read_json
from kvplan.specs.model import Block, KvFormats, ModelSpec

NO_MLP = (
    "no field gives the width of the feed-forward layers (intermediate_size or another name of it): "
    "WEIGHTS ARE SIZED WITHOUT THEM, usually less than half of what they are; the KV cache is as it should be"
)

RESERVED = (
    "windows here are of generated tokens, prompts stay: every layer is sized for the whole context, as vLLM "
    "reserves it; an answer longer than the window frees what lies between"
)


@dataclass(frozen=True, slots=True)
class Imported:
    """The model a configuration describes, and what reading it left to say."""

    model: ModelSpec
    warnings: tuple[str, ...] = ()


def read_config(path: Path, *, name: str | None = None, source: Source | None = None) -> Imported:
    """Read a ``config.json``.

    Raises:
        SpecError: unreadable as JSON, not a decoder's configuration, a field that is missing, impossible or
            contradictory, or an architecture that is not understood. OSError: the file cannot be opened.
    """
    data = read_json(path)
    beside = path.with_name("hf_quant_config.json")
    if beside != path and beside.is_file() and not _says_how_weights_are_stored(data):
        data = {**data, "quantization_config": read_json(beside)}
    return import_config(data, str(path), name=name or name_from_path(path), source=source)


def _says_how_weights_are_stored(data: Mapping[str, Any]) -> bool:
    keys = ("quantization_config", "compression_config")
    return any(part.get(key) for part in (data, text_config(data, "").data) for key in keys)


def import_config(data: Mapping[str, Any], path: str, *, name: str, source: Source | None = None) -> Imported:
    """Build a model from a configuration; ``path`` is what errors call the file. Raises as
    ``read_config``.
    """
    refuse_other_files(data, path)
    config = text_config(data, path)
    refuse_elsewhere(config)
    refuse_without_cache(config)
    refuse_several_stacks(config)
    refuse_silent_heads(config)
    layers = decoder_layers(config) or number_of_layers(config)
    warnings: list[str] = []
    try:
        stack = nas_blocks(config, layers) or _blocks(config, layers)
        passes = unrolled(config, stack)
        new = refuse_unknown_fields(config)
        spec = _assemble(config, stack, passes, name, source, warnings)
        if any(block.attention for block in stack) and not any(block.mlp for block in stack):
            warnings.append(NO_MLP)
        warnings += [*loops_words(len(stack), len(passes)), *hosted_words(spec), *unsaid(config)]
        if windows_answers(config):
            warnings.append(RESERVED)
        warnings += ngram_words(config)
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        keys = ".".join(str(key) for key in first["loc"])
        message = str(first["msg"]).removeprefix("Value error, ")
        raise SpecError(f"{keys}: {message}" if keys else message, where=path) from None
    return Imported(spec, tuple([new] if new else []) + tuple(warnings))


def _blocks(whole: Config, layers: int) -> list[Block]:
    kinds = layer_kinds(whole, layers)
    crossed = is_encoder_decoder(whole)
    found = []
    for index, kind in enumerate(kinds):
        config = layer_view(whole, index, layers)
        own = attention(config, kind, index, layers, first=kind not in kinds[:index])
        cross = None
        if kind == "cross":
            cross = cross_attention(config, "vision")
        elif crossed:
            cross = cross_attention(config, "encoder")
        part = state(config, kind)
        if part is None and kind == "linear":
            raise config.error("a layer with a state, but none is described", "layer_types")
        shared = config.model_type in ("zamba", "zamba2") and kind == "hybrid"
        feed = mlp(config, index, layers)
        refuse_unread(whole, index, layers)
        if config.model_type in ("zamba", "zamba2") and kind == "linear":
            feed = None  # only the shared blocks have a feed-forward part
        found.append(
            Block.model_construct(
                attention=own,
                cross=cross,
                state=part,
                mlp=feed,
                weights_shared=shared,
                weight_sets=config.integer("num_mem_blocks", 1) if shared else 1,
                no_op=own is None and cross is None and part is None and feed is None,
            )
        )
    return found


def _assemble(
    config: Config,
    stack: list[Block],
    passes: list[Block],
    name: str,
    source: Source | None,
    warnings: list[str],
) -> ModelSpec:
    dtype, notes = model_dtype(config)
    warnings += notes
    stored, kv, notes = weights(config, dtype, stack, name)
    warnings += notes
    tower, notes = vision(config)
    warnings += notes
    towers, notes = sound(config)
    warnings += notes
    querying, notes = qformers(config)
    warnings += notes
    coding, notes = codecs(config)
    warnings += notes
    warnings += _cache_words(kv, dtype)
    names, blocks = _named(passes)
    fields: dict[str, Any] = {
        "name": name,
        "family": slug(config.model_type or config.architecture or "model"),
        "source": source or Source.model_construct(url=config.path, note="read from a local configuration"),
        "hidden_size": config.count("hidden_size"),
        "vocab_size": config.count("vocab_size"),
        "max_context": max_context(config),
        "unstretched_context": unstretched_context(config),
        "yarn_context": yarn_context(config),
        # Configurations of transformers tie unless they say otherwise, files of other formats do not.
        "tie_embeddings": config.model_type in families.WITHOUT_HEAD
        or config.flag("tie_word_embeddings", bool(config.model_type or config.architecture)),
        "embedding_size": _embedding_size(config),
        "learned_positions": _learned_positions(config),
        "dtype": dtype,
        "weights": stored,
        "kv_format": _one_format(kv),
        "blocks": blocks,
        "layout": segments(names),
        "encoder": encoder(config) if is_encoder_decoder(config) else None,
        "vision": tower,
        "image_prefixes": image_prefixes(config),
        "draft": draft(config, stack),
        "extra_weights": (*extra_weights(config, stack), *towers, *querying, *coding),
    }
    return ModelSpec.model_validate(fields)


def _one_format(found: KvFormats) -> str | KvFormats | None:
    """One name where both engines take the same format."""
    if len(found) == 2 and found["vllm"] == found["sglang"]:
        return found["vllm"]
    return found or None


def _cache_words(found: KvFormats, dtype: str) -> list[str]:
    if not found:
        return []
    one, hint = _one_format(found), f"--dtype {dtype} sizes a plain one"
    if isinstance(one, str):
        return [f"the checkpoint asks for a KV cache in {one}: {hint}"]
    said = f"vLLM keeps it in {found.get('vllm', dtype)}, SGLang in {found.get('sglang', dtype)}"
    return [f"the checkpoint asks for a quantized KV cache: {said}; {hint}"]


def hosted_words(spec: ModelSpec) -> list[str]:
    """Which tables are on no GPU."""
    tables = [extra for extra in spec.extra_weights if extra.in_host_memory]
    return [
        f"{extra.name} ({extra.parameters / 1e9:,.0f} billion parameters) are taken to stay in the host's "
        "memory, where vLLM keeps them by default: no GPU is charged for them"
        for extra in tables
    ]


def _embedding_size(config: Config) -> int | None:
    width = config.optional("word_embed_proj_dim")
    return width if width != config.count("hidden_size") else None


def _learned_positions(config: Config) -> int:
    if config.model_type in ("gpt2", "gpt_bigcode", "opt", "gpt_neo", "whisper", "bart", "mbart", "imagegpt"):
        return config.optional("max_position_embeddings") or 0
    return 0


def _named(stack: list[Block]) -> tuple[list[str], dict[str, Block]]:
    """A short name for every distinct block, in order of first appearance."""
    names: dict[Block, str] = {}
    used: dict[str, Block] = {}
    moe = {block.mlp.kind for block in stack if block.mlp is not None}
    for block in stack:
        if block in names:
            continue
        base = _base_name(block)
        if len(moe) > 1 and block.mlp is not None:
            base += "_" + block.mlp.kind
        name, number = base, 2
        while name in used:
            name, number = f"{base}_{number}", number + 1
        names[block], used[name] = name, block
    return [names[block] for block in stack], used


def _base_name(block: Block) -> str:
    parts = []
    if isinstance(block.attention, SharedAttention):
        parts.append("shared_sliding" if block.attention.window else "shared")
    elif isinstance(block.attention, CompressedAttention):
        how = "compressed" if block.attention.compresses else "reused"
        parts.append(f"{how}_{block.attention.ratio}" if block.attention.ratio else "window")
    elif block.attention is not None:
        parts.append(block.attention.kind)
    elif block.cross is not None:
        parts.append("cross")
    if block.state is not None:
        parts.append(block.state.kind)
    return "_".join(parts) or ("mlp" if block.mlp is not None else "no_op")


def name_from_path(path: Path) -> str:
    """``.../Qwen3-8B/config.json`` and ``.../Qwen__Qwen3-8B.json`` are both ``qwen3-8b``."""
    stem = path.stem if path.stem != "config" else path.resolve().parent.name
    return slug(stem.split("__")[-1])


def slug(text: str) -> str:
    """Text as a spec name: lower case, anything unusual a dash."""
    folded = re.sub(r"[^a-z0-9._-]+", "-", text.casefold()).strip("-._")[:96]
    return folded or "model"
