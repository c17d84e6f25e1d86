"""How many tokens a page of SGLang's pool has: one, unless the attention kernels want more.

Which kernels run follows from GPU, attention and version (``get_default_attn_backend``, model overrides and
page constraints of 0.5.1 to 0.5.23). A size that is given is kept where the kernels read it.
"""

from __future__ import annotations

from kvplan.sizing.serving import BLACKWELL, HOPPER, Serving
from kvplan.sizing.sglang.names import Version, named, named_since
from kvplan.specs.schema import CompressedAttention, LatentAttention, ModelSpec

SPARSE = (0, 5, 3)
"""Indexers, whose kernels read pages of 64 keys."""
LATENT_KERNEL = (0, 5, 4)
"""Data-center Blackwell runs TensorRT-LLM's kernel on DeepSeek-V3's class."""
HEADS_KERNEL = (0, 5, 7)
"""And on keys and values; before, on GPT-OSS, and on Llama 4 from 0.5.5 on."""
COMPRESSED = (0, 5, 12)
"""DeepSeek-V4."""
SPARE_STATES = (0, 5, 14)
"""Recurrent layers keep spare states where their model can: their pages may have more than one token."""
UNEQUAL_HEADS = (0, 5, 17)
"""Keys and values of different widths run on FlashAttention 4 on data-center Blackwell; TensorRT-LLM's kernel
reads pages of 128.
"""
POOLED_KEYS = (0, 5, 22)
"""Indexers that merge keys want whole groups of them in a page."""

LATENT_MODELS = {
    "deepseekv3": LATENT_KERNEL, "deepseekr1": LATENT_KERNEL, "kimik2": LATENT_KERNEL,
    "mistrallarge3": LATENT_KERNEL, "kimik3": LATENT_KERNEL, "longcat": LATENT_KERNEL,
}  # fmt: skip
"""Those that TensorRT-LLM's kernel runs on data-center Blackwell; other latents run on FlashInfer."""
HEADS_MODELS = {
    "gptoss": (0, 5, 1), "olmo2": (0, 5, 4), "olmo3": (0, 5, 4), "llama4": (0, 5, 5), "exaone4": (0, 5, 9),
    "exaonemoe": (0, 5, 9), "kexaone": (0, 5, 9), "gemma4": (0, 5, 13), "nemotron": (0, 5, 19),
}  # fmt: skip
"""Those that had TensorRT-LLM's kernel before ``HEADS_KERNEL``, and have it while they draft."""
TRITON_BEFORE = {"gemma4": (0, 5, 13)}
"""Those that run on Triton's kernels up to that version."""
TRITON_BESIDE_STATES = ("qwen3next", "qwen35", "qwen36", "interns2")
"""Those that want spare states before they leave Triton's kernels, and choose before it is settled that they
have them (``_qwen3_5_hybrid_overrides``, 0.5.14 on): their pages have one token, whatever was given."""
SPARSE_BLOCKS = {"minimaxm3": (0, 5, 16)}
"""Sparse attention in blocks of 128 tokens."""
COMPRESSED_KEYS = {"qwen4exp": (0, 5, 20)}
"""Keys that choose what is read stand for several tokens of a page."""
SPARE_STATE_MODELS = {
    "qwen": SPARE_STATES, "bailing": SPARE_STATES, "falconh1": SPARE_STATES, "granite": SPARE_STATES,
    "nemotron": SPARE_STATES, "kimilinear": (0, 5, 16), "kimik3": (0, 5, 17), "glm5": (0, 5, 20),
    "interns2preview": (0, 5, 23),
}  # fmt: skip
"""Recurrent models that can keep spare states."""


def sglang_page(model: ModelSpec, serving: Serving, *, drafts: bool) -> int:
    """Tokens of a page."""
    version, capability = serving.version, serving.capability
    given = serving.block_size if "block_size" in serving.given else None
    attentions = [block.attention for block in model.layers() if block.attention is not None]
    if version >= COMPRESSED and any(isinstance(item, CompressedAttention) for item in attentions):
        return 256
    latents = [item for item in attentions if isinstance(item, LatentAttention)]
    indexers = [item.indexer for item in latents if item.indexer is not None]
    if version >= SPARSE and indexers:
        return 64 * (max(item.pool for item in indexers) if version >= POOLED_KEYS else 1)
    if named_since(model, SPARSE_BLOCKS, version) and capability in (HOPPER, BLACKWELL):
        return given or 128
    if named_since(model, COMPRESSED_KEYS, version):
        return 64
    if capability != BLACKWELL:
        return given or 1
    if latents:
        return _read(given, (32, 64)) if named_since(model, LATENT_MODELS, version) else given or 1
    return _blackwell(model, version, given, drafts=drafts)


def spare_states(model: ModelSpec, serving: Serving, page: int) -> int:
    """Spare states of a request (``get_mamba_tracking_slots``), so that scheduling may run ahead, or pages of
    several tokens end with a state."""
    if not named_since(model, SPARE_STATE_MODELS, serving.version):
        return 0
    if serving.async_scheduling:
        return 2
    return 1 if page > 1 else 0


def asserts_a_page(model: ModelSpec, serving: Serving) -> bool:
    """Whether SGLang stops at start unless it is given a page of several tokens.

    Nemotron-H names TensorRT-LLM's kernel before it is settled whether it has spare states; where nothing
    runs ahead it has them only in pages, whose size the kernel sets later (``validate_mamba_no_buffer``).
    """
    since = HEADS_MODELS["nemotron"]
    own = serving.capability == BLACKWELL and named_since(model, {"nemotron": since}, serving.version)
    paged = "block_size" in serving.given and serving.block_size > 1
    states = any(block.state is not None for block in model.layers())
    return own and states and not serving.async_scheduling and not paged


def _blackwell(model: ModelSpec, version: Version, given: int | None, *, drafts: bool) -> int:
    """Keys and values on data-center Blackwell."""
    blocks = model.layers()
    if any(version < until and named(model, start) for start, until in TRITON_BEFORE.items()):
        return given or 1
    if any(block.state is not None for block in blocks):
        settled = not drafts or named_since(model, HEADS_MODELS, version)
        if not named_since(model, SPARE_STATE_MODELS, version) or not settled:
            return given or 1
        if named(model, *TRITON_BESIDE_STATES):
            return 1
    elif any(block.cross is not None for block in blocks) or (
        not named_since(model, HEADS_MODELS, version) and (version < HEADS_KERNEL or drafts)
    ):
        return given or 1
    if version >= UNEQUAL_HEADS and any(_unequal(block.attention) for block in blocks):
        return 128
    return _read(given, (16, 32, 64, 128) if version >= UNEQUAL_HEADS else (16, 32, 64))


def _unequal(attention: object) -> bool:
    width = getattr(attention, "head_dim", None)
    return width is not None and getattr(attention, "value_dim", width) != width


def _read(given: int | None, sizes: tuple[int, ...]) -> int:
    return given if given in sizes else 64
