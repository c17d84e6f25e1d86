"""SGLang's pool for sliding windows, from the memory bill of a model that has one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvplan.engine.sglang.config import SglangConfig
from kvplan.errors import UsageError
from kvplan.latency.assumption import Assumption
from kvplan.scenario.chosen import Chosen
from kvplan.scenario.schema import Scenario, SglangPart
from kvplan.sizing.sglang.windows import look_back, window_tokens
from kvplan.specs.schema import CompressedAttention

if TYPE_CHECKING:
    from kvplan.scenario.deployment import Deployment
    from kvplan.sizing.capacity import FitReport

WINDOWS = ("window", "chunk")
"""Reaches of layers whose tokens lie in the window pool: local chunks as windows of a chunk's length."""


def windows_apart(fit: FitReport) -> tuple[int, ...]:
    """Windows of the layers that have a pool of their own, shortest first; empty without one."""
    stores = (page.store for page in fit.binding.pool.pages)
    return tuple(sorted({store.limit for store in stores if store is not None and store.reach in WINDOWS}))


def check_windows(fit: FitReport, engine: SglangPart) -> None:
    """Refuse pools for windows that are not simulated.

    Raises:
        UsageError: attention that compresses its context, layers with windows of several lengths, no layer
            without, or a pool that is sized by requests.
    """
    lengths = windows_apart(fit)
    if not lengths:
        return
    if any(isinstance(group.block.attention, CompressedAttention) for group in fit.model.groups()):
        raise UsageError(
            f"attention of {fit.model.name} compresses its context; "
            "SGLang's pools for that are not simulated yet",
            where="engine.kind",
            hint="simulate it with engine.kind=vllm",
        )
    if len(lengths) > 1:
        raise UsageError(
            f"layers of {fit.model.name} have windows of {', '.join(map(str, lengths))} tokens; "
            "SGLang's pool is simulated for one length",
            where="engine.kind",
            hint="simulate it with engine.kind=vllm, or give the full pool alone with cache.blocks",
        )
    if all(page.store is None or page.store.reach in WINDOWS for page in fit.binding.pool.pages):
        raise UsageError(
            f"all layers of {fit.model.name} have windows; SGLang's cache for those alone is not simulated",
            where="engine.kind",
            hint="simulate it with engine.kind=vllm",
        )
    # Where drafts are verified it is always said.
    limited = engine.max_running_requests or fit.serving.decode_tokens > 1
    if engine.disable_radix_cache and limited and engine.chunked_prefill_size != -1:
        raise UsageError(
            "without a radix cache SGLang gives windows as much as max_running_requests may take, which the "
            "memory bill does not count yet",
            where="engine.max_running_requests",
            hint="leave it out, or leave the radix cache on",
        )


def sliding_windows(scenario: Scenario, deployment: Deployment) -> Chosen | None:
    """The pool beside the full one, where the model has one and the scenario does not give the full pool
    alone."""
    fit, config = deployment.fit, deployment.config
    if fit is None or not isinstance(config, SglangConfig) or scenario.cache.blocks is not None:
        return None
    lengths = windows_apart(fit)
    if not lengths:
        return None
    from kvplan.engine.sglang_windows.strategy import WindowPools
    from kvplan.engine.sglang_windows.windows import SlidingWindows

    ratio = fit.binding.pool.window_ratio
    tokens = window_tokens(config.pool_tokens, ratio, config.page_size)
    windows = SlidingWindows(look_back(fit.model, lengths[0]), tokens)
    windows.check(config)
    explained = (
        Assumption(
            "engine.swa_max_total_tokens", tokens,
            f"SGLang's share: {float(ratio):g} of the full pool (--swa-full-tokens-ratio)",
        ),
        Assumption("engine.sliding_window_size", windows.span, "how far SGLang takes the model to look back"),
        Assumption(
            "engine.swa_eviction_interval", windows.interval,
            "SGLang's default: tokens that leave a window before a request gives them back",
        ),
    )  # fmt: skip
    return Chosen(WindowPools(windows), explained)
