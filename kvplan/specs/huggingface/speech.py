"""Models that generate sound in codes: a table of words for every codebook, and stacks inside a step.

A frame is one position of the language model, whatever number of codes it has, so its cache is that of other
decoders. What a small stack keeps while it spells the codes of one frame ends with the frame and is not
counted; its weights are. Classes of transformers 5.23, and XiaomiMiMo's own of MiMo-Audio.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from kvplan.specs.huggingface.config import Config
from kvplan.specs.model import ExtraWeights

MOST_ROWS = 1 << 28


def speech(config: Config) -> Iterator[ExtraWeights]:
    """Weights of codebooks and of stacks inside a step, where the type of the model is known to have them.

    Raises:
        SpecError: a size that is not a number.
    """
    rule = RULES.get(config.model_type)
    if config.has("local_layers") and config.has("speech_vocab_size"):
        rule = _mimo
    for name, size in rule(config) if rule is not None else ():
        if size > 0:
            yield ExtraWeights.model_construct(name=name, parameters=int(size), active=name != "codebooks")


def _kyutai(config: Config) -> Iterator[tuple[str, int]]:
    rows = config.count("num_codebooks") * config.count("codebook_vocab_size") + 1
    yield "codebooks", rows * config.count("hidden_size")


def _musicgen(config: Config) -> Iterator[tuple[str, int]]:
    """The spec has one table and one head; the others are here, and a row for the start in each table."""
    books, hidden = config.count("num_codebooks"), config.count("hidden_size")
    yield "codebooks", (2 * (books - 1) * config.count("vocab_size") + books) * hidden


def _csm(config: Config) -> Iterator[tuple[str, int]]:
    books, words, hidden = (
        config.count("num_codebooks"),
        config.count("vocab_size"),
        config.count("hidden_size"),
    )
    yield "codebooks", (books * words + config.count("text_vocab_size")) * hidden
    depth = config.sub("depth_decoder_config")
    if depth is not None:
        inner = depth.count("hidden_size")
        yield "depth decoder", _stack(depth) + inner * (hidden + (books - 1) * words)


def _higgs(config: Config) -> Iterator[tuple[str, int]]:
    """Sounds pass through a feed-forward part of their own in every layer."""
    hidden = config.count("hidden_size")
    yield "codebooks", 2 * config.count("num_codebooks") * config.count("codebook_size") * hidden
    layers = config.count("num_hidden_layers")
    yield "feed-forward layers of sound", 3 * layers * hidden * config.count("intermediate_size")


def _mimo(config: Config) -> Iterator[tuple[str, int]]:
    """One stack reads the codes of a group of frames, one spells them."""
    config.used |= {"delay_pattern", "input_full_attention", "input_local_dim", "local_attn_heads"}
    hidden, dim = config.count("hidden_size"), config.count("local_dim")
    width = config.integer("local_ffn_dim", 4 * dim)
    layers = config.count("local_layers") + config.integer("input_local_layers", 0, least=0)
    group = config.integer("group_size", 4)
    words = sum(int(part) for part in str(config.get("speech_vocab_size")).split("-") if part.isdigit())
    words = min(words, MOST_ROWS)
    yield "codebooks", 2 * words * dim + words * dim
    yield "local stacks", layers * dim * (4 * dim + 3 * width) + (1 + group) * hidden * dim


def _stack(config: Config) -> int:
    """Attention and gated feed-forward layers."""
    hidden, heads = config.count("hidden_size"), config.count("num_attention_heads")
    dim = config.optional("head_dim") or hidden // heads
    groups = config.optional("num_key_value_heads") or heads
    layer = 2 * hidden * dim * (heads + groups) + 3 * hidden * config.count("intermediate_size")
    return int(config.count("num_hidden_layers") * layer)


RULES: dict[str, Callable[[Config], Iterator[tuple[str, int]]]] = {
    "kyutai_speech_to_text": _kyutai,
    "musicgen_decoder": _musicgen,
    "musicgen_melody_decoder": _musicgen,
    "csm": _csm,
    "higgs_audio_v2": _higgs,
}
"""By the type of the decoder."""
