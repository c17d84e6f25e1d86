"""Q-Formers: small transformers whose learned queries read what a tower puts out (BLIP-2, Granite Speech).

A section describes one when its type says so or it tells how often its layers have cross attention. Like a
tower it stands beside the KV cache: what is odd in it is a warning and refuses no model.
"""

from __future__ import annotations

from kvplan.errors import SpecError
from kvplan.specs.huggingface.config import Config, owners
from kvplan.specs.model import ExtraWeights

DEFAULTS: dict[str, int] = {
    "vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 3072,
    "max_position_embeddings": 512, "cross_attention_frequency": 2, "encoder_hidden_size": 1408,
}  # fmt: skip
"""Of both classes (transformers 5.23)."""

QUERIES = 32


def qformers(config: Config) -> tuple[tuple[ExtraWeights, ...], list[str]]:
    """``(weights of every Q-Former around a text configuration, warnings)``."""
    found: list[ExtraWeights] = []
    notes: list[str] = []
    for owner in owners(config):
        for key, section in owner.items():
            if not isinstance(section, dict) or not _is_qformer(section):
                continue
            name = key.removesuffix("_config")
            try:
                inner = Config({**DEFAULTS, **section}, {}, config.path, f"{key}.")
                queries = Config(owner, {}, config.path).integer("num_query_tokens", QUERIES)
                size = _parameters(inner) + inner.count("hidden_size") * (
                    queries + config.count("hidden_size")
                )
                size += config.count("hidden_size")
                found.append(ExtraWeights.model_construct(name=name, parameters=size, active=False))
            except SpecError as exc:
                notes.append(f"the {name} is not counted: {exc.message} ({exc.where})")
    return tuple(found), notes


def _is_qformer(section: dict[str, object]) -> bool:
    return str(section.get("model_type")).endswith("qformer") or "cross_attention_frequency" in section


def _parameters(config: Config) -> int:
    """Self-attention and feed-forward parts, with cross attention in every so manieth layer, all with biases.

    Texts (an instruction) pass through embeddings and feed-forward parts of their own.
    """
    hidden, width = config.count("hidden_size"), config.count("intermediate_size")
    layers, seen = config.count("num_hidden_layers"), config.count("encoder_hidden_size")
    crossed = -(-layers // config.count("cross_attention_frequency"))
    texts = str(config.data.get("model_type")).startswith("instructblip")
    texts = texts or config.flag("use_qformer_text_input")
    norm = 2 * hidden
    feed = 2 * hidden * width + width + hidden + norm
    own = 4 * hidden * hidden + 4 * hidden + norm
    cross = 2 * hidden * hidden + 2 * seen * hidden + 4 * hidden + norm
    size = layers * (own + feed * (2 if texts else 1)) + crossed * cross + norm
    if texts:
        size += hidden * (config.count("vocab_size") + config.count("max_position_embeddings"))
    return int(size)
