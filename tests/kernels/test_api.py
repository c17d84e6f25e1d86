"""The public operations: bad input is refused before a launch; they trace, compile, and agree with plain softmax."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from kvplan import kernels  # noqa: E402
from kvplan.errors import UsageError  # noqa: E402
from kvplan.kernels import MLACache, PagedBatch, PagedKVCache, cache_append, cache_write, paged_attention  # noqa: E402

TABLE = torch.tensor([[3, 0, 5], [1, 6, 2]], dtype=torch.int32)
LENGTHS = torch.tensor([70, 90], dtype=torch.int32)


def cache_of(name: str = "int4", **more):
    shape = {"num_blocks": 8, "block_size": 32, "kv_heads": 2, "head_dim": 64, "max_sequences": 2} | more
    return PagedKVCache.allocate(name, **shape)


def fill(cache, seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    key, value = (torch.randn(160, 2, 64, generator=g).bfloat16() for _ in range(2))
    cache.calibrate(key, value)
    cache_append(cache, key, value, PagedBatch.build(TABLE, LENGTHS, [70, 90]))
    return key, value


DECODE = PagedBatch.build(TABLE, LENGTHS)
QUERY = torch.randn(2, 8, 64, generator=torch.Generator().manual_seed(9)).bfloat16()


def test_bf16_agrees_with_torch_softmax_attention():
    cache = cache_of("bf16")
    key, value = fill(cache)
    out, lse = paged_attention(QUERY, cache, DECODE)
    for b, tokens in enumerate((slice(0, 70), slice(70, 160))):
        k, v = (x[tokens].float().repeat_interleave(4, dim=1) for x in (key, value))
        s = torch.einsum("hd,nhd->hn", QUERY[b].float(), k) / 8
        expected = torch.einsum("hn,nhd->hd", s.softmax(-1), v)
        assert torch.allclose(out[b].float(), expected, atol=2e-2)
        assert torch.allclose(lse[b], s.logsumexp(-1), atol=1e-3)


def test_appending_in_pieces_gives_the_same_answer_as_at_once():
    for name in ("int8_per_token_head", "kivi4"):
        whole, pieces = cache_of(name), cache_of(name)
        key, value = fill(whole)
        both = [x.split([70, 90]) for x in (key, value)]
        done = [0, 0]
        for upto in ([33, 1], [34, 60], [70, 90]):
            parts = [torch.cat([x[b][done[b] : upto[b]] for b in range(2)]) for x in both]
            fresh = [b - a for a, b in zip(done, upto, strict=True)]
            cache_append(
                pieces, *parts, PagedBatch.build(TABLE, torch.tensor(upto, dtype=torch.int32), fresh)
            )
            done = upto
        assert torch.equal(
            paged_attention(QUERY, whole, DECODE)[0], paged_attention(QUERY, pieces, DECODE)[0]
        )


def test_an_empty_sequence_gives_zero_and_minus_infinity():
    cache = cache_of("fp8_e4m3")
    fill(cache)
    out, lse = paged_attention(QUERY, cache, PagedBatch.build(TABLE, torch.tensor([0, 5], dtype=torch.int32)))
    assert float(out[0].abs().max()) == 0.0
    assert bool(torch.isinf(lse[0]).all())
    assert bool(torch.isfinite(lse[1]).all())


WRONG = [
    (lambda c: paged_attention(QUERY.double(), c, DECODE), "query must be bfloat16 or float16 or float32"),
    (lambda c: paged_attention(QUERY[..., :32], c, DECODE), r"query must have shape \[\*, \*, 64\]"),
    (lambda c: paged_attention(QUERY[:, :7].contiguous(), c, DECODE), "7 heads, not a multiple of the cache's 2"),
    (lambda c: paged_attention(QUERY.transpose(0, 1).contiguous().transpose(0, 1), c, DECODE), "must be contiguous"),
    (lambda c: paged_attention(QUERY[:1], c, DECODE), "one query token per sequence: 1 tokens, 2 sequences"),
    (lambda c: paged_attention(QUERY, c, DECODE, splits=129), "splits must be from 1 to 128"),
    (lambda c: paged_attention(QUERY, c, DECODE, window=-1), "window must not be negative"),
    (lambda c: paged_attention(QUERY, c, DECODE, scale=-0.1), "scale must be positive and finite, not -0.1"),
    (lambda c: paged_attention(QUERY, c, DECODE, scale=math.nan), "scale must be positive and finite, not nan"),
    (lambda c: paged_attention(QUERY, c, DECODE, backend="cuda"), "unknown backend 'cuda'"),
    (lambda c: paged_attention(QUERY, c, PagedBatch.build(TABLE.long(), LENGTHS)), "block_table must be int32, not int64"),
    (lambda c: paged_attention(QUERY, c, PagedBatch.build(TABLE[:1], LENGTHS)), "does not match 2 sequences"),
    (lambda c: paged_attention(QUERY, c, PagedBatch.build(TABLE + 3, LENGTHS)), "names block 8, outside the 8 blocks"),
    (lambda c: paged_attention(QUERY, c, PagedBatch.build(TABLE, LENGTHS + 20)), "block_table holds 3 pages of 32"),
    (lambda c: paged_attention(QUERY, c, PagedBatch(TABLE, LENGTHS, torch.tensor([0, 1, 200], dtype=torch.int32), 1)), "199 new tokens of 90"),
    (lambda c: cache_write(c, QUERY[:, :2], QUERY[:, :2], torch.arange(2)), "key must be contiguous"),
    (lambda c: cache_write(c, QUERY[:, :2].contiguous(), QUERY[:, :2].contiguous(), torch.arange(2).int()), "slots must be int64"),
    (lambda c: cache_write(c, QUERY[:, :2].contiguous(), QUERY[:, :2].contiguous(), torch.tensor([0, 256])), "slot 256 is outside"),
    (lambda c: c.set_scales(1.0, 1.0), "computes its scales when writing"),
    (lambda c: paged_attention(QUERY.to("meta"), c, DECODE), "query lies on meta"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "says"), WRONG, ids=lambda x: x if isinstance(x, str) else "")
def test_bad_input_is_refused_with_what_is_accepted(call, says: str):
    cache = cache_of()
    fill(cache)
    with pytest.raises(UsageError, match=says):
        call(cache)


def test_other_refusals():
    half = QUERY[:, :2].half().contiguous()
    with pytest.raises(UsageError, match="key must be bfloat16, not float16"):
        cache_write(cache_of("bf16"), half, half, torch.arange(2))
    with pytest.raises(UsageError, match="use cache_append"):
        cache_write(cache_of("kivi2", head_dim=128), half, half, torch.arange(2))
    with pytest.raises(UsageError, match="max_sequences"):
        cache_of("kivi4", max_sequences=0)
    with pytest.raises(UsageError, match=r"MLACache\.allocate"):
        cache_of("mla_fp8")
    with pytest.raises(UsageError, match=r"PagedKVCache\.allocate"):
        MLACache.allocate("int4", num_blocks=1, block_size=16)
    with pytest.raises(UsageError, match="positive and finite"):
        cache_of("fp8_e4m3").set_scales(0.0, math.inf)


@pytest.mark.filterwarnings("default")
def test_operations_work_under_torch_compile():
    torch.compiler.reset()
    cache, plain = cache_of("int4"), cache_of("int4")
    fill(plain)
    g = torch.Generator().manual_seed(0)
    key, value = (torch.randn(160, 2, 64, generator=g).bfloat16() for _ in range(2))
    slots = PagedBatch.build(TABLE, LENGTHS, [70, 90]).slots(32, 160)

    def step(query, key, value, slots):
        cache_write(cache, key, value, slots)
        return paged_attention(query * 1.0, cache, DECODE)[0] + 1

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(QUERY, key, value, slots), paged_attention(QUERY, plain, DECODE)[0] + 1)


@pytest.mark.filterwarnings("default")
def test_operators_pass_torch_opcheck():
    checks = ("test_schema", "test_faketensor")
    cache = cache_of("kivi4")
    fill(cache)
    arguments = (QUERY, cache.tensors()[:-1], cache.counters, "kivi4", TABLE, LENGTHS, None, None, 1, 0.125, 0, 1, False, "auto")  # fmt: skip
    torch.library.opcheck(torch.ops.kvplan.paged_attention.default, arguments, test_utils=checks)
    mla = MLACache.allocate("mla_fp8", num_blocks=8, block_size=32)
    latent, rope = torch.randn(4, 512).bfloat16(), torch.randn(4, 64).bfloat16()
    write = (mla.tensors()[:-1], "mla_fp8", latent, rope, torch.arange(4), "auto")
    torch.library.opcheck(torch.ops.kvplan.mla_write.default, write, test_utils=checks)
    query = torch.randn(2, 4, 576).bfloat16()
    attend = (
        query,
        mla.tensors()[:-1],
        mla.counters,
        "mla_fp8",
        TABLE,
        LENGTHS,
        None,
        1,
        0.07,
        1,
        False,
        "auto",
    )
    torch.library.opcheck(torch.ops.kvplan.mla_attention.default, attend, test_utils=checks)


def test_exported_names_exist():
    assert sorted(kernels.__all__) == kernels.__all__
    for name in kernels.__all__:
        assert getattr(kernels, name) is not None
