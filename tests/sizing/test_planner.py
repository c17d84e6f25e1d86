"""Page groups against a planner that works layer by layer, by name, as vLLM's does: no counting in classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvplan.sizing.capacity import fit_model
from kvplan.sizing.pages import LayerPages, Layout, vllm_layout
from kvplan.sizing.parallel import Parallel
from kvplan.sizing.retention import Retention
from kvplan.sizing.size import size_model
from kvplan.sizing.stores import Heads, Packed, Store
from kvplan.specs.catalog import load_gpu, load_model
from kvplan.specs.formats import kv_format

VLLM = Retention("vllm", "vllm")
BF16 = kv_format("bf16")


@dataclass(frozen=True)
class Asked:
    """What one named layer publishes: a page of so many bytes for so many tokens, and which tokens it keeps.

    Layers of different ``shape`` never share a group of equal pages.
    """

    kind: str
    shape: tuple[int, ...]
    page: int
    block: int
    reach: tuple[str, int]

    def blocks(self, tokens: int, in_flight: int) -> int:
        what, limit = self.reach
        if what == "state":
            return 2
        if what == "window":
            return ceil(min(limit - 1 + in_flight, tokens) / self.block) + 1
        if what == "chunk":
            return ceil(min(limit + in_flight, tokens) / self.block)
        return ceil(tokens / self.block)


def plan(
    layers: Sequence[LayerPages], tokens: int, in_flight: int, block: int, own: range
) -> tuple[int, int]:
    """(bytes of a block, blocks of a request) by vLLM's steps: align, one group, packed, or equal pages."""
    specs = publish(layers, block)
    if len({slots(spec) for spec in specs.values()}) == 1:
        groups = [list(specs)]
    elif any(spec.kind == "index" for spec in specs.values()):
        groups = packed(specs)
    else:
        specs = equal_pages(specs)
        together = len({slots(spec) for spec in specs.values()}) == 1
        groups = [list(specs)] if together else equal_numbers(specs)
    held = [[name for name in group if int(name) in own] for group in groups]
    width = max(sum(specs[name].page for name in group) for group in held)
    return width, sum(specs[group[0]].blocks(tokens, in_flight) for group in groups)


def slots(spec: Asked) -> tuple[object, ...]:
    return spec.block, spec.reach, spec.page if spec.kind == "state" else 0


def publish(layers: Sequence[LayerPages], block: int) -> dict[str, Asked]:
    stores = [layer.store for layer in layers if layer.store is not None]
    states = [layer.state_bytes for layer in layers if layer.state_bytes]
    token = max((one_token(s) for s in stores if s.name != "indexer keys"), default=0)
    if states and token:
        while block * token < max(states):
            block += 16
    specs = {}
    for number, layer in enumerate(layers):
        if layer.store is None:
            specs[str(number)] = Asked(
                "state", (layer.state_bytes,), max(block * token, layer.state_bytes), 0, ("state", 0)
            )
            continue
        store = layer.store
        kind = "index" if store.name == "indexer keys" else "latent" if store.name == "latent" else "heads"
        size = store.page_tokens or block
        page = ceil(one_token(store) * size / store.page_alignment) * store.page_alignment
        specs[str(number)] = Asked(kind, shape(store), page, size, (store.reach, store.limit))
    return specs


def shape(store: Store) -> tuple[int, ...]:
    """Four heads of 128 and eight of 64 take the same room, and are not the same."""
    content = store.content
    return (
        (one_token(store),) if isinstance(content, Packed) else (content.count, content.k_dim, content.v_dim)
    )


def one_token(store: Store) -> int:
    if isinstance(store.content, Packed):
        return int(store.content.entry_bytes)
    return 2 * store.content.count * (store.content.k_dim + store.content.v_dim)


def equal_pages(specs: dict[str, Asked]) -> dict[str, Asked]:
    largest = max(spec.page for spec in specs.values())
    if any(spec.kind == "latent" and largest % spec.page for spec in specs.values()):
        (size,) = {spec.block for spec in specs.values() if spec.reach[0] == "context"}
        return {
            name: spec
            if spec.kind != "heads"
            else replace(spec, page=spec.page // spec.block * size, block=size, reach=("context", 0))
            for name, spec in specs.items()
        }
    return {
        name: replace(spec, page=largest, block=spec.block * (largest // spec.page))
        if largest % spec.page == 0
        else replace(spec, page=largest)
        for name, spec in specs.items()
    }


def equal_numbers(specs: dict[str, Asked]) -> list[list[str]]:
    buckets: dict[Asked, list[str]] = {}
    for name, spec in specs.items():
        buckets.setdefault(spec, []).append(name)
    least, most = min(map(len, buckets.values())), max(map(len, buckets.values()))
    size = most if most < 1.5 * least else least
    return [
        names[first :: ceil(len(names) / size)]
        for names in buckets.values()
        for first in range(ceil(len(names) / size))
    ]


def packed(specs: dict[str, Asked]) -> list[list[str]]:
    buckets: dict[object, dict[int, list[str]]] = {}
    for name, spec in specs.items():
        buckets.setdefault(slots(spec), {}).setdefault(spec.page, []).append(name)
    even = {key: len(set(map(len, pages.values()))) == 1 for key, pages in buckets.items()}
    longest = {key: max(map(len, pages.values())) for key, pages in buckets.items()}
    floor = max((longest[key] for key in buckets if even[key] and len(buckets[key]) > 1), default=0)
    best = 0
    if floor:
        counts = [longest[key] for key in buckets if even[key]]
        waste = {size: sum(-count % size for count in counts) for size in range(floor, max(counts) + 1)}
        best = max(size for size in waste if waste[size] == min(waste.values()))
    numbers = {key: ceil(longest[key] / best) if best and even[key] else 1 for key in buckets}
    shrinks = {
        key: key[1][0] == "state" or (not best and key[1][0] == "window")  # type: ignore[index]
        for key in buckets
    }
    anchor = 0
    for key, pages in buckets.items():
        cut = sum(map(len, pages.values())) if shrinks[key] else numbers[key]
        anchor = max(anchor, sum(ceil(len(names) / cut) * page for page, names in pages.items()))
    found = []
    for key, pages in buckets.items():
        if shrinks[key]:
            fitting = max(anchor // next(iter(pages)), 1)
            numbers[key] = max(numbers[key], ceil(sum(map(len, pages.values())) / fitting))
        for first in range(numbers[key]):
            found.append([name for names in pages.values() for name in names[first :: numbers[key]]])
    return [group for group in found if group]


def heads(count: int, dim: int, reach: str, limit: int) -> LayerPages:
    return LayerPages(store=Store("K and V", Heads(count, dim, dim, BF16), reach, limit))  # type: ignore[arg-type]


def entry(name: str, size: int) -> LayerPages:
    return LayerPages(store=Store(name, Packed(Fraction(size), "x"), split_heads=False))


FULL = st.builds(
    heads, st.sampled_from([1, 2, 5, 8]), st.sampled_from([64, 96, 128, 256]), st.just("context"), st.just(0)
)
WINDOW = st.builds(
    heads,
    st.sampled_from([1, 4, 8]),
    st.sampled_from([64, 128]),
    st.just("window"),
    st.sampled_from([128, 1024]),
)
CHUNK = st.builds(heads, st.just(8), st.just(128), st.just("chunk"), st.just(256))
STATE = st.builds(lambda size: LayerPages(state_bytes=size), st.sampled_from([40_000, 77_777, 1_097_728]))
LATENT = st.just(entry("latent", 1152))
INDEX = st.just(entry("indexer keys", 132))

MIXTURES = [
    [FULL], [FULL, FULL], [FULL, WINDOW], [WINDOW, WINDOW], [FULL, WINDOW, WINDOW], [FULL, CHUNK],
    [FULL, STATE], [WINDOW, STATE], [FULL, WINDOW, STATE], [STATE], [LATENT, WINDOW], [LATENT, INDEX],
    [LATENT, INDEX, WINDOW], [FULL, INDEX, STATE],
]  # fmt: skip


@st.composite
def models(draw: st.DrawFn) -> list[LayerPages]:
    """A few kinds of layers, each at least once, in any order."""
    kinds = [draw(kind) for kind in draw(st.sampled_from(MIXTURES))]
    rest = draw(st.lists(st.sampled_from(kinds), max_size=24))
    return draw(st.permutations([*kinds, *rest]))


@settings(max_examples=300)
@given(
    layers=models(),
    tokens=st.sampled_from([1, 100, 1000, 32768]),
    in_flight=st.sampled_from([512, 16384]),
    data=st.data(),
)
def test_groups_equal_a_planner_that_names_every_layer(
    layers: list[LayerPages], tokens: int, in_flight: int, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(layers) - 1))
    own = range(start, data.draw(st.integers(start + 1, len(layers))))
    found = vllm_layout(layers, tokens, retention=VLLM, in_flight=in_flight, own=own)
    assert (found.block_bytes, found.blocks_per_request) == plan(layers, tokens, in_flight, 16, own)
    assert found.request_bytes == found.block_bytes * found.blocks_per_request
    assert sum(group.layers - group.padding_layers for group in found.groups) == len(own)


def layout_of(model: str, tokens: int, budget: int) -> Layout:
    report = size_model(load_model(model), context_tokens=tokens, max_num_batched_tokens=budget)
    assert report.layout is not None
    return report.layout


@pytest.mark.parametrize(
    ("model", "block_bytes", "groups"),
    [
        ("deepseek-v4-flash", 1_002_240, {(22, 64): 1, (21, 64): 1, (62, 256): 1, (42, 4): 1, (20, 8): 1}),
        ("deepseek-v4-pro", 1_435_968, {(31, 64): 1, (30, 64): 1, (91, 256): 1, (60, 4): 1, (31, 8): 1}),
    ],
)
def test_compressed_layers_share_blocks_as_wide_as_the_widest_group(
    model: str, block_bytes: int, groups: dict[tuple[int, int], int]
) -> None:
    """vLLM 0.33's planner on the specs its model classes publish."""
    layout = layout_of(model, 32768, 8192)
    assert layout.block_bytes == block_bytes
    assert Counter((group.layers, group.block_tokens) for group in layout.groups) == groups
    assert sorted(group.blocks_per_request for group in layout.groups) == [128, 259, 259, 2065, 4099]
    assert layout.request_bytes == 6_810 * block_bytes


def test_a_pool_of_compressed_layers_is_counted_in_such_blocks() -> None:
    report = fit_model(
        load_model("deepseek-v4-flash"), load_gpu("h200-sxm"), parallel=Parallel(tp=8), max_model_len=131072
    )
    assert report.num_blocks == report.kv_pool_bytes // 1_002_240
    need = report.binding.pool.layout(131072).blocks_per_request
    assert report.max_concurrency == Fraction(report.num_blocks, need)


def test_stages_share_the_groups_of_the_whole_model() -> None:
    """Gemma 3 with 62 layers: one group of 10 full layers and six of windows, on every stage alike."""
    model = load_model("gemma-3-27b")
    groups = []
    for pp in (1, 4):
        report = fit_model(model, load_gpu("h100-sxm"), parallel=Parallel(pp=pp), max_model_len=32768)
        groups += [len(stage.pool.layout(32768).groups) for stage in report.stages]
    assert groups == [7] * 5


def test_windows_that_latents_do_not_divide_are_kept_whole() -> None:
    layers = [entry("latent", 1152)] * 3 + [heads(8, 64, "window", 128)]
    (group,) = vllm_layout(layers, 4096, retention=VLLM, in_flight=512).groups
    assert (group.blocks_per_request, group.block_bytes) == (256, 3 * 18_432 + 32_768)


def test_context_ranks_divide_index_keys_too() -> None:
    layers = [entry("latent", 656), entry("indexer keys", 132)] * 4
    (group,) = vllm_layout(layers, 4096, retention=VLLM, in_flight=512, block_size=64, cp=4).groups
    assert (group.blocks_per_request, group.block_bytes) == (16, 4 * 64 * 788)


@pytest.mark.parametrize(
    ("model", "gpu", "version", "states"),
    [
        ("nemotron-h-56b", "a100-80g", "0.33", 3),
        ("nemotron-h-56b", "h100-sxm", "0.32", 2),
        ("qwen3.5-27b", "h100-sxm", "0.33", 3),
        ("qwen3.5-27b", "h100-sxm", "0.28", 2),
        ("qwen3.5-27b", "a100-80g", "0.33", 2),
        ("jamba-v0.1", "h100-sxm", "0.33", 2),
    ],
)
def test_kernels_that_write_states_on_the_way_take_a_block_for_it(
    model: str, gpu: str, version: str, states: int
) -> None:
    """``num_prefill_checkpoint_blocks`` of vLLM 0.33: Mamba-2 everywhere, delta nets from Hopper on."""
    options = {"parallel": Parallel(tp=8), "max_model_len": 8192, "version": version}
    layout = fit_model(load_model(model), load_gpu(gpu), **options).binding.pool.layout(8192)  # type: ignore[arg-type]
    assert {group.blocks_per_request for group in layout.groups if group.name == "state"} == {states}


@pytest.mark.parametrize(
    ("form", "per_token", "block"), [("turboquant_k8v4", 8 * 196, 48), ("turboquant_3bit_nc", 8 * 102, 96)]
)
def test_turboquant_leaves_two_layers_at_either_end_plain(form: str, per_token: int, block: int) -> None:
    """``get_boundary_skip_layers`` of vLLM 0.33; blocks grow until a packed page covers 16 plain tokens."""
    model = load_model("llama-3.1-8b")
    report = size_model(model, context_tokens=8192, kv=form)
    assert [(row.name, row.count) for row in report.rows] == [("full_ends", 4), ("full", 28)]
    assert report.kv_bytes_per_token == 28 * per_token + 4 * 4096
    assert report.layout is not None
    (group,) = report.layout.groups
    assert (group.layers, group.block_tokens) == (32, block)
    assert group.block_bytes == block * report.kv_bytes_per_token
    hybrid = size_model(load_model("qwen3.5-27b"), context_tokens=8192, kv=form)
    assert len({row.name for row in hybrid.rows if row.bytes_per_token}) == 1
    elsewhere = size_model(model, context_tokens=8192, kv=form, retention="ideal")
    assert elsewhere.kv_bytes_per_token == 32 * per_token


@pytest.mark.parametrize(("dim", "slot"), [(72, 70), (80, 76), (88, 84)])
def test_turboquant_slots_are_even(dim: int, slot: int) -> None:
    content = Heads(4, dim, dim, kv_format("turboquant_k3v4_nc"))
    assert content.bytes_per_entry() == 4 * slot
    assert content.bytes(10) == 40 * slot


@pytest.mark.parametrize(("gpu", "latent"), [("h200-sxm", 656), ("b200", 576)])
def test_sglang_packs_fp8_latents_of_sparse_attention_before_blackwell(gpu: str, latent: int) -> None:
    """``calculate_mla_kv_cache_dim`` of SGLang 0.5.23: FlashMLA's rows, or TRT-LLM's plain ones."""
    model = load_model("deepseek-v3.2")
    report = fit_model(model, load_gpu(gpu), engine="sglang", kv_dtype="fp8", parallel=Parallel(tp=8))
    assert report.binding.pool.token_bytes == 61 * (latent + 132)
    sized = size_model(model, context_tokens=4096, kv="fp8", retention="sglang")
    assert sized.kv_bytes_per_token == 61 * (656 + 132)
