"""Bytes that vLLM's connectors send of a cache: of a block, and of a recurrent state."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from kvplan.engine.config import EngineConfig
from kvplan.engine.disaggregation.cargo import Sizes
from kvplan.engine.instance import one_full_group
from kvplan.latency.assumption import Assumption
from kvplan.scenario.side import SECTION
from kvplan.scenario.wire import keeps_nothing, kept_report, token_bytes

if TYPE_CHECKING:
    from kvplan.scenario.deployment import Deployment
    from kvplan.scenario.schema import Scenario
    from kvplan.scenario.schema.disaggregation import DisaggregationPart
    from kvplan.sizing.capacity import FitReport

PER_TOKEN = ("context", "window", "chunk")
"""Reaches of what grows with every token, as far as it goes."""


def sizes_of(
    scenario: Scenario, deployment: Deployment, part: DisaggregationPart
) -> tuple[Sizes, tuple[Assumption, ...]]:
    """What is sent, one copy of every head, and what that assumes.

    Raises:
        UsageError: bytes given beside a model that they follow from, or neither; a model that keeps none.
    """
    config = deployment.config
    assert isinstance(config, EngineConfig)
    tokens, assumed = token_bytes(deployment, part)
    if one_full_group(config):
        return Sizes(tokens * config.block_size), assumed
    fit = deployment.fit
    if fit is not None and scenario.cache.groups is None:
        return _of_layout(fit, deployment)
    # A block of the pool holds a block of any group, and each group has its share of a token's bytes.
    shares = sum(Fraction(1, group.block_size) for group in config.groups if group.kind != "mamba")
    block = round(tokens / shares)
    return Sizes(block, block), (
        *assumed,
        Assumption(f"{SECTION}.block_bytes", block, "a block of any group; a state fills one"),
    )


def _of_layout(fit: FitReport, deployment: Deployment) -> tuple[Sizes, tuple[Assumption, ...]]:
    """Of the groups that vLLM makes of a model's layers.

    A block is read over all tensors that groups share (``_compute_desc_ids``), whichever group it is of; a
    state without what it is padded with.
    """
    pool = fit.binding.pool
    layout = pool.layout(fit.max_model_len)
    pages = [page for page in pool.pages if not page.drafts]
    stores = [page.store for page in pages if page.store is not None and page.store.reach in PER_TOKEN]
    on_rank = sum(store.bytes_per_token() for store in stores)
    if not on_rank:
        raise keeps_nothing(fit.model)
    once = sum(
        row.count * (row.bytes_per_token + row.window_bytes_per_token)
        for row in kept_report(fit.model, deployment).rows
    )
    block = round(layout.block_bytes * once / on_rank)
    layers = [group.layers - group.padding_layers for group in layout.groups if group.reach[0] == "state"]
    largest = max((page.state_bytes for page in pool.pages), default=0)
    state = max(layers, default=0) * largest * fit.parallel.attention_tp
    whats = [("block_bytes", block, f"a block of any of its {len(layout.groups)} groups")]
    if state:
        whats.append(("state_bytes", state, "recurrent states of a group of layers, of one request"))
    return Sizes(block, state), tuple(
        Assumption(f"{SECTION}.{key}", value, f"of {fit.model.name}: {what}, as NIXL's connector reads it")
        for key, value, what in whats
    )
