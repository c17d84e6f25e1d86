"""One configuration with its habits smoothed out: nested text configs, legacy names, class defaults.

A value is looked for under its current name, under the names older architectures used, and last among the
defaults of the configuration class: transformers writes only what differs from them
(``class_defaults.json``). A key that is present and null means null. Every key that was read is remembered,
so that a refusal can name the ones that were not understood.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from kvplan.errors import SpecError
from kvplan.specs.base import MAX_COUNT
from kvplan.specs.model import MAX_LAYERS

NAMES: dict[str, tuple[str, ...]] = {
    "hidden_size": ("n_embd", "n_embed", "d_model", "dim", "model_dim", "decoder_hidden_size", "embed_dim"),
    "num_hidden_layers": (
        "n_layer", "n_layers", "num_layers", "num_decoder_layers", "decoder_layers",
        "num_transformer_layers", "decoder_num_hidden_layers", "num_blocks", "layers",
    ),
    "num_attention_heads": (
        "n_head", "n_heads", "num_heads", "decoder_attention_heads", "num_query_heads",
        "attention_heads", "num_decoder_attention_heads", "decoder_num_attention_heads",
    ),
    "num_key_value_heads": (
        "num_kv_heads", "n_head_kv", "n_kv_heads", "kv_n_heads", "num_attention_heads_kv",
        "num_query_groups", "num_attention_groups", "decoder_num_key_value_heads",
    ),
    "head_dim": (
        "attention_head_dim", "kv_channels", "d_kv", "head_size", "attention_head_size", "dim_head",
        "hidden_size_per_head",
    ),
    "intermediate_size": (
        "n_inner", "ffn_hidden_size", "d_ff", "dff", "ffn_dim", "decoder_ffn_dim", "intermediate_dim",
        "block_ff_dim", "hidden_dim", "mlp_hidden_size", "inner_hidden_size",
        "dim_ff", "ff_dim", "ff_intermediate_size",
    ),
    "vocab_size": ("padded_vocab_size", "text_vocab_size", "tgt_vocab_size"),
    "max_position_embeddings": (
        "n_positions", "n_ctx", "max_seq_len", "seq_length", "max_sequence_length",
        "model_max_length", "max_target_positions", "max_context_length", "max_context",
    ),
    "num_experts": (
        "num_local_experts", "n_routed_experts", "moe_num_experts", "num_routed_experts", "n_experts",
    ),
    "num_experts_per_tok": (
        "num_experts_per_token", "experts_per_token", "moe_topk", "moe_k", "moe_top_k",
        "top_k_experts", "num_experts_per_topk", "n_experts_per_tok",
    ),
    "moe_intermediate_size": (
        "expert_intermediate_size", "moe_ffn_hidden_size", "expert_ffn_hidden_size", "expert_dim",
        "expert_hidden_dim", "expert_inner_dim",
    ),
    "num_shared_experts": ("n_shared_experts", "moe_num_shared_experts", "num_shared_expert"),
    "shared_expert_intermediate_size": (
        "moe_shared_expert_intermediate_size", "shared_intermediate_size", "share_expert_dim",
    ),
    "sliding_window": (
        "sliding_window_size", "attention_window_size", "window_size", "interleaved_sliding_window",
    ),
    "layer_types": ("layers_block_type", "layer_type_list"),
    "tie_word_embeddings": ("tied_embeddings", "weight_tying", "share_input_output_layers"),
    "dtype": ("torch_dtype",),
    "kv_lora_rank": ("attention_kv_lora_dim",),
    "q_lora_rank": ("attention_q_lora_dim",),
    "qk_nope_head_dim": ("attention_qk_dim",),
    "qk_rope_head_dim": ("attention_qk_rope_dim",),
    "v_head_dim": ("attention_v_dim", "v_channels"),
}  # fmt: skip
"""Current name -> names other architectures gave the same thing."""

TEXT_KEYS = (
    "text_config", "llm_config", "language_config", "language_model_config", "thinker_config",
    "text_model_config", "llm", "decoder", "decoder_config",
)  # fmt: skip
"""Where composite models keep their language model's configuration."""

NO_DECODER = re.compile(
    r"vision|visual|vit|image|video|audio|speech|sound|encod|tower|proj|adapter|expert|action|tts|talker|token2wav|"
    r"code|vae|diffusion|flow|draft|mtp|quant|rope|resampl|perceiver|qformer|generat"
)
"""Words in the names of sections that describe something beside a language model."""

INHERITED = ("tie_word_embeddings", "dtype", "quantization_config", "compression_config")
"""Of the whole model: what its file says outside wins over the language model's section (as in engines)."""

MISNAMED = {"Grok1ForCausalLM": "grok1", "Grok1ModelForCausalLM": "grok1"}
"""Types of architectures whose files may name another (Grok-2: ``git``); engines go by architecture."""

MISSING: Any = object()


@cache
def class_defaults() -> dict[str, dict[str, Any]]:
    """Defaults of the configuration classes by ``model_type`` (facts of transformers 5.23)."""
    path = Path(__file__).with_name("class_defaults.json")
    loaded: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["classes"]
    return loaded


class Config:
    """A text model's configuration with typed, located access.

    Attributes:
        data: its own keys.
        top: the whole file, for what composite models keep outside.
        outermost: the whole model's architecture; ``architecture``: the text model's, where it names its own.
        path: the file, for messages; ``prefix``: key path of ``data`` inside it.
    """

    def __init__(self, data: Mapping[str, Any], top: Mapping[str, Any], path: str, prefix: str = "") -> None:
        self.data = data
        self.top = top
        self.path = path
        self.prefix = prefix
        self.used: set[str] = set()
        own = _architecture(data)
        self.outermost = _architecture(top)
        self.architecture = own or self.outermost
        given = data.get("model_type") or _type_of(own) or top.get("model_type") or ""
        self.model_type = MISNAMED.get(self.architecture, str(given))

    @property
    def defaults(self) -> Mapping[str, Any] | None:
        """Defaults of the model type's class, if it has any.

        Where a whole model's file has the language model's fields outside (``qwen2_5_vl``), as old files do,
        those of its language model: transformers hands them to the class of its ``text_config``.
        """
        classes = class_defaults()
        own = classes.get(self.model_type)
        return classes.get(f"{self.model_type}_text") if own is None and self.top and not self.prefix else own

    def sub(self, key: str) -> Config | None:
        """A nested mapping as a configuration of its own."""
        value = self.data.get(key)
        if not isinstance(value, Mapping):
            return None
        self.used.add(key)
        return Config(value, self.top, self.path, f"{self.prefix}{key}.")

    def error(self, message: str, key: str, hint: str | None = None) -> SpecError:
        """An error at a key of this file."""
        return SpecError(message, where=f"{self.path}  {self.prefix}{self.spelt(key)}", hint=hint)

    def spelt(self, key: str) -> str:
        """The name under which the file has ``key``."""
        return next((name for name in (key, *NAMES.get(key, ())) if name in self.data), key)

    def has(self, key: str) -> bool:
        """Whether the file itself says something other than null."""
        return self.get(key, defaults=False) is not None

    def get(self, key: str, default: Any = None, *, defaults: bool = True) -> Any:
        """The raw value: the file's own, the class's default, or ``default``."""
        names = (key, *NAMES.get(key, ()))
        if key in INHERITED:
            self.used.update(names)
            outside = next((self.top[name] for name in names if self.top.get(name) is not None), None)
            if outside is not None:
                return outside
        for name in names:
            if name in self.data:
                self.used.add(name)
                return self.data[name]
        if defaults:
            own = self.defaults or {}
            for name in (key, *NAMES.get(key, ())):
                if name in own:
                    return own[name]
        return default

    def integer(self, key: str, default: Any = MISSING, *, least: int = 1, defaults: bool = True) -> Any:
        """A whole number of at least ``least``; ``default`` when absent or null.

        Raises:
            SpecError: absent without a default, not a whole number, too small or too large.
        """
        value = self.get(key, defaults=defaults)
        if value is None:
            if default is MISSING:
                raise self.error("this field is missing and its class has no default", key)
            return default
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(f"expected a whole number, found {_shown(value)}", key)
        if not least <= value <= MAX_COUNT:
            raise self.error(f"{value} is not a possible value ({least} to {MAX_COUNT:,})", key)
        return value

    def count(self, key: str, *, defaults: bool = True) -> int:
        """A required whole number of at least one."""
        value: int = self.integer(key, defaults=defaults)
        return value

    def uniform(self, key: str, *, least: int = 1) -> int | None:
        """A whole number, or the largest of a list that gives one per layer."""
        value = self.get(key)
        if not isinstance(value, list):
            return self.optional(key, least=least)
        whole = [
            item for item in value if isinstance(item, int) and not isinstance(item, bool) and item >= least
        ]
        if len(whole) != len(value) or not whole:
            raise self.error(f"expected whole numbers of at least {least}, found {_shown(value)}", key)
        return max(whole)

    def optional(self, key: str, *, least: int = 1, defaults: bool = True) -> int | None:
        """The same, or ``None``."""
        value: int | None = self.integer(key, None, least=least, defaults=defaults)
        return value

    def number(self, key: str) -> float | None:
        """A finite number of at least 0, or ``None``.

        Raises:
            SpecError: something else.
        """
        value = self.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= MAX_COUNT:
            raise self.error(f"expected a number of at least 0, found {_shown(value)}", key)
        return float(value)

    def flag(self, key: str, default: bool = False) -> bool:
        """A boolean; absent or null means ``default``."""
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, (bool, int)):
            raise self.error(f"expected true or false, found {_shown(value)}", key)
        return bool(value)

    def items(self, key: str) -> list[Any] | None:
        """A list of at most ``MAX_LAYERS`` entries, or ``None``."""
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, list):
            raise self.error(f"expected a list, found {_shown(value)}", key)
        if len(value) > MAX_LAYERS:
            raise self.error(f"a list of {len(value):,} entries is longer than any model has layers", key)
        return value

    def per_layer(self, key: str, layers: int) -> list[Any] | None:
        """A list with an entry for every layer; a longer one is cut (some files describe MTP layers too)."""
        value = self.items(key)
        if value is None:
            return None
        if len(value) < layers:
            listed = "1 entry contradicts" if len(value) == 1 else f"{len(value)} entries contradict"
            raise self.error(f"{listed} the {layers} layers of num_hidden_layers", key)
        return value[:layers]


def text_config(data: Mapping[str, Any], path: str) -> Config:
    """The language model's configuration inside ``data``, however deep composite models nest it."""
    current, prefix = data, ""
    for _ in range(4):
        inner = next(
            (key for key in TEXT_KEYS if isinstance(current.get(key), Mapping) and current[key]), None
        )
        if inner is None:
            inner = _only_decoder(current)
            if inner is None:
                break
        elif _describes_layers(current) and not _describes_layers(current[inner]):
            break
        prefix += f"{inner}."
        current = current[inner]
    return Config(current, data, path, prefix)


def owners(config: Config) -> Iterator[Mapping[str, Any]]:
    """The whole file, and every section on the way to the text configuration.

    The encoder beside a decoder comes last: T5Gemma 2's has the tower for images.
    """
    current: Any = config.top
    yield current
    for key in config.prefix.split("."):
        current = current.get(key) if isinstance(current, Mapping) else None
        if not isinstance(current, Mapping):
            break
        yield current
    encoder = config.top.get("encoder")
    if config.prefix.startswith("decoder.") and isinstance(encoder, Mapping):
        yield encoder


def _architecture(data: Mapping[str, Any]) -> str:
    names = data.get("architectures")
    return str(names[0]) if isinstance(names, list) and names else ""


def _type_of(architecture: str) -> str:
    """The model type a class is named for (``DeepseekV2ForCausalLM``: ``deepseek_v2``), or nothing."""
    stem = architecture.partition("For")[0].casefold()
    return next((name for name in class_defaults() if name.replace("_", "") == stem), "")


def has_biases(config: Config, usual: frozenset[str], key: str) -> bool:
    """Whether linear layers carry biases: by a field of their own, by ``use_bias``, or always."""
    for name in (key, "use_bias"):
        if isinstance(config.get(name), bool):
            return config.flag(name)
    return config.model_type in usual and not config.flag("no_bias")


def _only_decoder(data: Mapping[str, Any]) -> str | None:
    """The section that holds the one language model of a file without layers of its own, by any name."""
    if _describes_layers(data):
        return None
    found = [
        key
        for key, part in data.items()
        if isinstance(part, Mapping) and not NO_DECODER.search(key.casefold()) and _holds_decoder(part)
    ]
    return found[0] if len(found) == 1 else None


def _holds_decoder(part: Mapping[str, Any]) -> bool:
    named = any(name in part for name in ("vocab_size", *NAMES["vocab_size"]))
    if _describes_layers(part):
        return named or part.get("model_type") in class_defaults()
    inside = [part[key] for key in (*TEXT_KEYS, "text") if isinstance(part.get(key), Mapping)]
    return any(_describes_layers(inner) for inner in inside)


def _describes_layers(data: Mapping[str, Any]) -> bool:
    return any(name in data for name in ("num_hidden_layers", *NAMES["num_hidden_layers"]))


def _shown(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
