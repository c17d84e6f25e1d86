"""Random pools of several cache groups."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st
from workloads import beginning, configs, requests

from kvplan.engine.config import CacheGroup, EngineConfig
from kvplan.traces.request import Request, TokenRuns, count_tokens, join_runs


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


@st.composite
def long_decodes(draw: st.DrawFn) -> tuple[EngineConfig, list[Request]]:
    """Any groups under requests that decode for long, in pools where blocks are short."""
    block = draw(st.integers(1, 5))
    prompts = draw(st.lists(st.integers(1, 3 * block + 4), min_size=1, max_size=6))
    outputs = [draw(st.integers(1, 50)) for _ in prompts]
    options = st.sampled_from(["full", "sliding", "sliding", "chunked", "mamba"])
    kinds = draw(st.lists(options, min_size=1, max_size=4).filter(lambda kinds: set(kinds) != {"chunked"}))
    windows = draw(st.lists(st.integers(1, 30), min_size=2, max_size=2))
    chunks = draw(st.lists(st.integers(1, 30), min_size=2, max_size=2))
    lengths = {"sliding": windows, "chunked": chunks}
    groups = tuple(CacheGroup(kind, block, draw(st.sampled_from(lengths.get(kind, [0])))) for kind in kinds)
    longest = max(prompt + output for prompt, output in zip(prompts, outputs, strict=True))
    least = len(groups) * (-(-longest // block) + 1)
    config = EngineConfig(
        num_blocks=2 + least // draw(st.sampled_from([1, 2])) + draw(st.integers(0, least)),
        block_size=block,
        max_model_len=longest,
        max_num_seqs=draw(st.integers(1, 6)),
        max_num_batched_tokens=draw(st.integers(4, 40)),
        enable_prefix_caching=draw(st.booleans()),
        scheduler_reserve_full_isl=draw(st.booleans()),
        async_scheduling=draw(st.booleans()),
        retention_interval=draw(st.sampled_from([0, 0, None])),
        groups=groups,
    )
    clock, found = 0.0, []
    for index, (prompt, output) in enumerate(zip(prompts, outputs, strict=True)):
        clock += draw(st.sampled_from([0.0, 0.001, 0.02, 0.1, 0.3]))
        start = 1000 * draw(st.integers(0, index))  # sometimes a prompt that was there before
        answer = ((10**6 + 1000 * index, output),)
        found.append(Request(f"r{index}", clock, ((start, prompt),), prompt, answer, output))
    return config, found


@st.composite
def long_prompts(draw: st.DrawFn) -> tuple[EngineConfig, list[Request]]:
    """Prompts that go on from earlier ones and wait for a pool that holds little more than one of them.

    What they hit comes, goes and changes hands while they wait.
    """
    block = draw(st.sampled_from([1, 2, 4]))
    longest = block * draw(st.integers(20, 60))
    kind = draw(st.sampled_from(["sliding", "sliding", "chunked", "chunked", "mamba"]))
    window = draw(st.integers(1, longest // 2))
    if kind == "mamba":
        window = 0
    width = draw(st.sampled_from([1, 1, 2, 3]))
    least = (1 + width) * (longest // block)
    config = EngineConfig(
        num_blocks=2 + least + draw(st.integers(0, least // 2)),
        block_size=block,
        max_model_len=longest,
        max_num_seqs=draw(st.sampled_from([3, 4, 8])),
        max_num_batched_tokens=block * draw(st.sampled_from([8, 16, 64])),
        policy=draw(st.sampled_from(["fcfs", "priority"])),
        async_scheduling=draw(st.booleans()),
        retention_interval=draw(st.sampled_from([0, None])),
        groups=(CacheGroup("full", block), *[CacheGroup(kind, block, window)] * width),
    )
    clock, found = 0.0, []
    history: list[TokenRuns] = [()]
    for index in range(draw(st.integers(3, 9))):
        runs = beginning(draw, draw(st.sampled_from(history)))
        fresh = min(draw(st.integers(1, longest // 3)), longest - 1 - count_tokens(tuple(runs)))
        if fresh > 0:
            runs.append((1000 * index, fresh))
        prompt = join_runs(runs)
        tokens = count_tokens(prompt)
        output_tokens = draw(st.integers(1, max(1, longest - tokens)))
        output = ((10**6 + 1000 * index, output_tokens),)
        history.append(join_runs((*prompt, *output)))
        clock += draw(st.sampled_from([0.0, 0.0, 0.01, 0.1]))
        found.append(
            Request(f"r{index}", clock, prompt, tokens, output, output_tokens, draw(st.integers(0, 2)))
        )
    return config, found
