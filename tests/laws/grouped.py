"""Random pools of several cache groups."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st
from workloads import configs, requests

from kvplan.engine.config import CacheGroup, EngineConfig
from kvplan.traces.request import Request


@st.composite
def grouped(draw: st.DrawFn) -> EngineConfig:
    """Random engine options over one to four groups, in pools from too small to roomy."""
    config = draw(configs())
    block, longest = config.block_size, config.max_model_len
    kinds = draw(
        st.lists(st.sampled_from(["full", "sliding", "chunked", "mamba"]), min_size=1, max_size=4).filter(
            lambda found: set(found) != {"chunked"}
        )
    )
    groups = []
    for kind in kinds:
        if kind in ("sliding", "chunked"):
            window = draw(st.integers(1, longest + 4))
            if kind == "chunked":
                window = -(-window // block) * block
            groups.append(CacheGroup(kind, block, window))
        else:
            wide = kind == "full" and not {"chunked", "mamba"} & set(kinds) and draw(st.booleans())
            groups.append(CacheGroup(kind, 2 * block if wide else block))
    interval = draw(st.sampled_from([0, 0, None, 2, 4]))
    return replace(
        config,
        num_blocks=2 + draw(st.integers(0, len(groups) * config.num_blocks)),
        groups=tuple(groups),
        retention_interval=interval and interval * block,
    )


@st.composite
def grouped_cases(draw: st.DrawFn) -> tuple[EngineConfig, list[Request]]:
    config = draw(grouped())
    return config, draw(requests(config.max_model_len))
