"""What an inference engine is told at start-up that decides memory: version, batch limits, utilization.

Defaults follow the engines' own rules: a plan made without flags equals a server started without any.

* vLLM V0 (before 0.8): one step may hold a whole prompt, so ``max_num_batched_tokens`` is ``max_model_len``
  (at least 2,048) up to 32k of context, 2,048 with chunked prefill beyond; 256 sequences.
* vLLM V1: 2,048 tokens and 256 sequences; from 0.8.5 on GPUs of at least 70 GiB 8,192 and 1,024 (not on the
  A100 from 0.9 on, nor on the GB10 from 0.33 on), from 0.28 on 16,384 tokens on GPUs of at least 160 GiB
  (``EngineArgs.get_batch_defaults``, API server). Utilization 0.9, 0.92 from 0.20. A step of fewer
  tokens than that many sequences lowers the sequences: vLLM refuses more of them than tokens.
* SGLang: ``sglang_reserve`` (chunk, largest CUDA graph, share of memory).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Literal

from kvplan.errors import UsageError, shortened
from kvplan.sizing.ahead import ASYNC, can_plan_ahead
from kvplan.sizing.captures import LARGE_STEPS, largest_batch
from kvplan.sizing.prefix_caching import may_cache_prefixes
from kvplan.sizing.sglang.names import named
from kvplan.sizing.sglang.reserve import sglang_reserve
from kvplan.sizing.sglang.start import SEQUENCES, SEQUENCES_BESIDE_DRAFTS, Asked, Drafts
from kvplan.specs.schema import GpuSpec, ModelSpec
from kvplan.units import GIB, check_count

EngineKind = Literal["vllm", "sglang"]

HOPPER, BLACKWELL = 9, 10
"""Major compute capabilities of data-center GPUs."""

RESERVES_PROMPTS = (0, 19, 0)
"""vLLM from here on admits a request only if its whole prompt fits (``scheduler_reserve_full_isl``)."""
PLANS_GRAPHS = (0, 20, 0)
"""vLLM from here on takes an estimate of its CUDA graphs out of the budget, which is larger by default."""
OFFLOADS_GROUPS = (0, 22, 0)
"""vLLM from here on keeps several cache groups apart where it offloads to host memory, unless told not to."""
NO_MORE_THAN_FITS = (0, 11, 0)
"""vLLM from here on batches no more tokens, unless told to, than its sequences have at their longest."""
SMALL_A100 = (0, 9, 0)
"""vLLM from here on gives A100 the limits of smaller GPUs."""
SMALL_GB10 = (0, 33, 0)
"""vLLM from here on does not take GB10, which has a large GPU's memory but not its arithmetic, for one."""

WHOLE_ITEMS = (0, 22, 0)
"""vLLM from here on batches no fewer tokens, unless told to, than an image or video may have whose tokens see
one another, where it knows how many."""
ITEM_TOKENS = {"gemma4": 32 * (70 + 8)}
"""A video of Gemma 4: so many frames, with marks and time stamps around each."""

BLOCK_TOKENS: dict[EngineKind, int] = {"vllm": 16, "sglang": 1}
"""Tokens of a block, or page, where nobody asks for others."""

LATEST: dict[str, tuple[int, ...]] = {"vllm": (0, 33), "sglang": (0, 5, 23)}
"""Newest release each engine's rules were checked against."""

EARLIEST: dict[str, tuple[int, ...]] = {"vllm": (0, 6), "sglang": (0, 5, 1)}
"""Oldest release they were checked against."""

_VERSION = re.compile(
    r"v?(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?(?:\.\d{1,9})*"
    r"(?:[-._]?(?:a|b|c|rc|alpha|beta|pre|preview)[-._]?\d{0,9})?(?:[-._]?(?:post|rev|r)[-._]?\d{0,9})?"
    r"(?:[-._]?dev[-._]?\d{0,9})?(?:\+[a-z0-9]+(?:[-._][a-z0-9]+)*)?",
    re.ASCII | re.IGNORECASE,
)
"""As Python counts releases (PEP 440), with two parts at least."""


@dataclass(frozen=True, slots=True)
class Serving:
    """The start-up options of one engine instance, resolved: nothing is left to a default.

    ``version`` is (major, minor, patch). ``utilization`` is vLLM's ``gpu_memory_utilization`` (a share of
    total memory for everything) or SGLang's ``mem_fraction_static`` (a share of free memory for weights
    and pool). ``capability`` is the GPU's major compute capability, 0 where it has none. Where SGLang sizes
    its pool once graphs are captured, ``after_capture_bytes`` stay free then at least. ``given`` names the
    options that were said; the others are defaults, which another GPU, context or layout would change.
    ``prefix_caching`` is None where the model decides. ``decode_tokens`` are those of one sequence in a step:
    one, and its drafts. ``graph_max_batch`` is the largest batch captured, which vLLM's steps may
    not reach. ``ranks`` of data-parallel attention share SGLang's ``max_num_seqs``.
    """

    kind: EngineKind
    version: tuple[int, int, int]
    utilization: float
    max_num_batched_tokens: int
    max_num_seqs: int
    cuda_graphs: bool
    block_size: int
    async_scheduling: bool
    graph_max_batch: int
    decode_tokens: int = 1
    prefix_caching: bool | None = None
    capability: int = 0
    after_capture_bytes: int | None = None
    ranks: int = 1
    given: frozenset[str] = field(default=frozenset(), compare=False)

    @property
    def rank_seqs(self) -> int:
        """Sequences of one rank (``resolve_max_num_reqs``); a rank of vLLM's is an engine of its own."""
        return self.max_num_seqs if self.kind == "vllm" else max(self.max_num_seqs // self.ranks, 1)

    @property
    def version_text(self) -> str:
        """``0.33`` or, with a patch release, ``0.8.5``; of SGLang always with one: 0.5 is its newest."""
        major, minor, patch = self.version
        return f"{major}.{minor}" + (f".{patch}" if patch or self.kind == "sglang" else "")

    @property
    def unchecked(self) -> str | None:
        """What to know of a version whose rules were not read; ``None`` for those that were."""
        oldest, newest = EARLIEST[self.kind], LATEST[self.kind]
        for other, far, end in (
            ("older", self.version[: len(oldest)] < oldest, oldest),
            ("newer", self.version[: len(newest)] > newest, newest),
        ):
            if far:
                known = ".".join(map(str, end))
                return f"{self.kind} {self.version_text} is {other} than {known}, whose rules are used"
        return None


def parse_version(text: str) -> tuple[int, int, int]:
    """``0.33.0``, ``v0.8.5``, ``0.21rc1`` -> (major, minor, patch).

    Raises:
        UsageError: not a version.
    """
    match = _VERSION.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{text!r} is not an engine version", hint="write it like 0.33 or 0.8.5")
    major, minor, patch = match.groups()
    return int(major), int(minor), int(patch or 0)


def engine_version(kind: str, text: str | None) -> tuple[int, int, int]:
    """The version meant: the newest known where none is said, or of SGLang 0.5 no patch release.

    Raises:
        UsageError: not a version.
    """
    newest = LATEST[kind]
    if text is not None:
        parsed = parse_version(text)
        match = _VERSION.fullmatch(text.strip())
        series = match is not None and match[3] is None and parsed[:2] == newest[:2]
        if not (series and kind == "sglang"):
            return parsed
    major, minor, patch = (*newest, 0)[:3]
    return major, minor, patch


def resolve_serving(
    kind: str,
    gpu: GpuSpec,
    *,
    max_model_len: int,
    version: str | None = None,
    utilization: float | None = None,
    max_num_batched_tokens: int | None = None,
    max_num_seqs: int | None = None,
    cuda_graphs: bool = True,
    block_size: int | None = None,
    async_scheduling: bool | None = None,
    prefix_caching: bool | None = None,
    tp: int = 1,
    pp: int = 1,
    ranks: int = 1,
    model: ModelSpec | None = None,
    drafts: Drafts = "none",
    draft_tokens: int = 1,
    lookup: bool = False,
    context_said: bool = False,
) -> Serving:
    """Fill what is not given with the engine's defaults on this GPU.

    Args:
        ranks: of data-parallel attention; 1 without.
        model, drafts, context_said: what is served, who drafts, and whether ``max_model_len`` was asked for;
            SGLang's share of memory depends on them.
        draft_tokens: drafts of a step, where somebody drafts.
        lookup: they are looked up in the prompt.

    Raises:
        UsageError: unknown engine, another one's option, utilization outside (0, 1], a batch limit below 1.
    """
    if kind not in LATEST:
        raise UsageError(f"unknown engine {shortened(repr(kind))}", hint="use vllm or sglang")
    if utilization is not None and not 0 < utilization <= 1:
        percent = f"write {utilization / 100:g} for {utilization:g} %" if 2 <= utilization <= 100 else None
        raise UsageError(f"utilization {utilization} must be above 0 and at most 1", hint=percent)
    if prefix_caching is not None and kind != "vllm":
        raise UsageError(
            "whether prefixes are cached decides no memory of SGLang's",
            hint="leave --prefix out; a simulation has --set cache.prefix=none",
        )
    for name, value in (
        ("max_num_batched_tokens", max_num_batched_tokens),
        ("max_num_seqs", max_num_seqs),
        ("max_model_len", max_model_len),
        ("block_size", block_size),
    ):
        if value is not None:
            check_count(name, value)
    parsed = engine_version(kind, version)
    if kind == "vllm":
        ahead = parsed >= ASYNC and can_plan_ahead(parsed, pp=pp, lookup=lookup)
        serving = _vllm_defaults(parsed, gpu, max_model_len, ahead=ahead)
    else:
        context = max_model_len if context_said else None
        serving = _sglang_defaults(
            Asked(
                parsed, gpu, model, tp=tp, pp=pp, ranks=ranks, drafts=drafts, chunk=max_num_batched_tokens,
                running=max_num_seqs, context=context, graphs=cuda_graphs,
            )
        )  # fmt: skip
    if kind == "vllm" and prefix_caching and model is not None:
        prefix_caching = may_cache_prefixes(model, parsed)
    chosen = {
        "utilization": utilization,
        "max_num_batched_tokens": max_num_batched_tokens,
        "max_num_seqs": max_num_seqs,
        "block_size": block_size,
        "async_scheduling": async_scheduling,
        "prefix_caching": prefix_caching,
    }
    given = {name: value for name, value in chosen.items() if value is not None}
    asked = (("version", version is not None), ("max_model_len", context_said))
    said = frozenset(given) | {name for name, is_said in asked if is_said}
    major = compute_capability(gpu)[0]
    decode_tokens = 1 + draft_tokens if lookup or drafts != "none" else 1
    if kind == "vllm":
        least = _item_tokens(model, parsed)
        limits = _vllm_batch(serving, max_model_len, max_num_batched_tokens, max_num_seqs, least)
        family = None if model is None else model.family
        largest = largest_batch(parsed, major, family, limits["max_num_seqs"], decode_tokens)
        given |= {**limits, "graph_max_batch": largest}
    given["decode_tokens"] = decode_tokens
    return replace(serving, cuda_graphs=cuda_graphs, capability=major, given=said, **given)  # type: ignore[arg-type]


def _item_tokens(model: ModelSpec | None, version: tuple[int, int, int]) -> int:
    """Tokens of the largest image or video that a step must hold whole; 0 where nothing says so."""
    if model is None or not model.image_prefixes or version < WHOLE_ITEMS:
        return 0
    return next((tokens for name, tokens in ITEM_TOKENS.items() if named(model, name)), 0)


def _vllm_batch(
    serving: Serving, max_model_len: int, tokens: int | None, seqs: int | None, least: int
) -> dict[str, int]:
    """The limits of a step; of those that are not given none is larger than the other makes possible.

    Args:
        least: tokens that a step has at least unless told otherwise.
    """
    longest = (seqs or serving.max_num_seqs) * max_model_len
    if tokens is None:
        tokens = max(serving.max_num_batched_tokens, least)
        if serving.version >= NO_MORE_THAN_FITS:
            tokens = min(tokens, longest)
    return {
        "max_num_batched_tokens": tokens,
        "max_num_seqs": min(serving.max_num_seqs, tokens) if seqs is None else seqs,
    }


def compute_capability(gpu: GpuSpec) -> tuple[int, int]:
    """``8.9`` -> (8, 9); (0, 0) where a GPU has none."""
    major, _, minor = (gpu.compute_capability or "").partition(".")
    return (int(major), int(minor) if minor.isdecimal() else 0) if major.isdecimal() else (0, 0)


def vllm_utilization(version: tuple[int, int, int]) -> float:
    """``--gpu-memory-utilization`` where nobody sets it."""
    return 0.92 if version >= PLANS_GRAPHS else 0.9


def _vllm_defaults(
    version: tuple[int, int, int], gpu: GpuSpec, max_model_len: int, *, ahead: bool
) -> Serving:
    gb10 = compute_capability(gpu) == (12, 1) and version >= SMALL_GB10
    a100 = gpu.name.startswith("a100") and version >= SMALL_A100
    big = gpu.usable_memory_bytes >= 70 * GIB and not a100 and not gb10
    if version < (0, 8, 0):
        tokens, seqs = (max(max_model_len, 2048) if max_model_len <= 32768 else 2048), 256
    elif version >= LARGE_STEPS and gpu.usable_memory_bytes >= 160 * GIB:
        tokens, seqs = 16384, 1024
    elif version >= (0, 8, 5) and big:
        tokens, seqs = 8192, 1024
    else:
        tokens, seqs = 2048, 256
    return Serving(
        kind="vllm",
        version=version,
        utilization=vllm_utilization(version),
        max_num_batched_tokens=tokens,
        max_num_seqs=seqs,
        cuda_graphs=True,
        block_size=BLOCK_TOKENS["vllm"],
        async_scheduling=ahead,
        graph_max_batch=0,
    )


def _sglang_defaults(asked: Asked) -> Serving:
    found = sglang_reserve(asked)
    return Serving(
        kind="sglang",
        version=asked.version,
        utilization=found.share,
        max_num_batched_tokens=found.chunk,
        max_num_seqs=SEQUENCES if asked.drafts == "none" else SEQUENCES_BESIDE_DRAFTS,
        cuda_graphs=True,
        block_size=BLOCK_TOKENS["sglang"],
        async_scheduling=True,
        graph_max_batch=found.graph_max_batch,
        after_capture_bytes=found.after_capture_bytes,
        ranks=asked.ranks,
    )
