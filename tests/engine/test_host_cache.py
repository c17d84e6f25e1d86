"""SGLang's host tier as a strategy: what it goes with."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.engine.config import EngineConfig
from kvplan.engine.engine import make_engine
from kvplan.engine.hicache.strategy import HierarchicalCache
from kvplan.engine.recorder import Recorder
from kvplan.engine.sglang.config import SglangConfig
from kvplan.errors import UsageError
from kvplan.latency.linear import LinearLatency

CLOCK = LinearLatency(5e-3, 2e-5, 1e-8)


class Wire:
    """So many seconds a transfer."""

    def seconds(self, size: int, operations: int = 1) -> float:
        return 2e-3 * operations if size else 0.0


def host(**values: Any) -> HierarchicalCache:
    return HierarchicalCache(**{"page_bytes": 1, "pages": 10, "put": Wire(), "get": Wire(), **values})


@pytest.mark.parametrize(
    ("values", "says"),
    [({"page_bytes": 0}, "10 pages of 0 bytes"), ({"pages": -1}, "-1 pages"), ({"write": "x"}, "policy 'x'")],
)
def test_values_that_mean_nothing(values: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        host(**values)


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize(
    ("config", "says"),
    [
        (EngineConfig(num_blocks=10), "this host tier is SGLang's"),
        (SglangConfig(100, disable_radix_cache=True), "without a radix cache"),
        (SglangConfig(100, tree="radix"), "the classic radix cache"),
    ],
)
def test_engines_it_does_not_go_with(config: EngineConfig | SglangConfig, says: str, replicas: int) -> None:
    with pytest.raises(UsageError, match=says):
        make_engine("fast", config, CLOCK, Recorder(), replicas=replicas, strategy=host())
