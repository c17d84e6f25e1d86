"""Which prefill and decode servers there are: they follow from what a model keeps beside tokens."""

from __future__ import annotations

from typing import TypeAlias

from kvplan.engine.disaggregation.sglang.decode import DecodeEvents, DecodeReplica
from kvplan.engine.disaggregation.sglang.hosted import HostedPrefillReplica
from kvplan.engine.disaggregation.sglang.hosted_beside import (
    HostedStatePrefillReplica,
    HostedWindowPrefillReplica,
)
from kvplan.engine.disaggregation.sglang.options import DecodeOptions
from kvplan.engine.disaggregation.sglang.prefill import PrefillEvents, PrefillReplica
from kvplan.engine.disaggregation.sglang.radix import RadixDecodeReplica
from kvplan.engine.disaggregation.sglang.states import StateDecodeReplica, StatePrefillReplica
from kvplan.engine.disaggregation.sglang.windows import WindowDecodeReplica, WindowPrefillReplica
from kvplan.engine.hicache.strategy import HierarchicalCache
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import Recorder
from kvplan.engine.sglang.config import SglangConfig
from kvplan.engine.sglang_states.strategy import RecurrentStates
from kvplan.engine.sglang_windows.strategy import WindowPools

Beside: TypeAlias = RecurrentStates | WindowPools | None
"""What servers have beside their tokens."""


def prefill_server(
    config: SglangConfig, latency: LatencyModel, recorder: Recorder, events: PrefillEvents, beside: Beside,
    host: HierarchicalCache | None,
) -> PrefillReplica:  # fmt: skip
    """A prefill server, or a rank of one.

    Raises:
        UsageError: its options do not go with what it has beside its tokens, or below them.
    """
    if host is not None:
        return _hosted(config, latency, recorder, events, beside, host)
    if beside is None:
        return PrefillReplica(config, latency, recorder, events)
    if isinstance(beside, WindowPools):
        beside.windows.check(config)
        return WindowPrefillReplica(config, latency, recorder, events, beside.windows)
    beside.rules.check(config)
    return StatePrefillReplica(config, latency, recorder, events, beside.rules)


def _hosted(
    config: SglangConfig, latency: LatencyModel, recorder: Recorder, events: PrefillEvents, beside: Beside,
    host: HierarchicalCache,
) -> HostedPrefillReplica:  # fmt: skip
    """A prefill server above host memory."""
    if beside is None:
        return HostedPrefillReplica(config, latency, recorder, events, host.index(config))
    if isinstance(beside, WindowPools):
        windows = beside.windows
        return HostedWindowPrefillReplica(
            config, latency, recorder, events, windows, host.window_index(config, windows)
        )
    states = beside.rules
    return HostedStatePrefillReplica(
        config, latency, recorder, events, states, host.state_index(config, states)
    )


def decode_server(
    config: SglangConfig, options: DecodeOptions, latency: LatencyModel, recorder: Recorder,
    events: DecodeEvents, beside: Beside,
) -> DecodeReplica:  # fmt: skip
    """A decode server, or a rank of one.

    Raises:
        UsageError: its options do not go with what it has beside its tokens.
    """
    if beside is None:
        kind = DecodeReplica if config.disable_radix_cache else RadixDecodeReplica
        return kind(config, options, latency, recorder, events)
    if isinstance(beside, WindowPools):
        beside.windows.check(config)
        return WindowDecodeReplica(config, options, latency, recorder, events, beside.windows)
    beside.rules.check(config)
    return StateDecodeReplica(config, options, latency, recorder, events, beside.rules)
