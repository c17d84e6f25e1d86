"""The write kernels store what the rules say, to the bit, in Triton's interpreter."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: kernels cannot run")
pytest.importorskip("triton", reason="triton is not installed: kernels cannot be interpreted")

from kvplan.kernels import launch, launch_mla, mla_cache, reference  # noqa: E402
from kvplan.kernels.batch import PagedBatch  # noqa: E402
from kvplan.kernels.cache import PagedKVCache  # noqa: E402
from kvplan.kernels.formats import all_formats, get_format  # noqa: E402
from kvplan.kernels.mla_cache import MLACache  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("interpreter")]

ALONE = [fmt for fmt in all_formats() if not fmt.residual and not fmt.latent]
GROUPED = [fmt for fmt in all_formats() if fmt.residual]


def pair(fmt, head_dim: int, block_size: int = 32, sequences: int = 2):
    """Two caches, filled with the same garbage: whatever differs afterwards was written differently."""
    made = []
    for _ in range(2):
        cache = PagedKVCache.allocate(
            fmt, num_blocks=10, block_size=block_size, kv_heads=2, head_dim=head_dim, max_sequences=sequences
        )
        for t in cache.tensors()[:-1]:
            if t.dtype != torch.float32:
                t.fill_(3)
        made.append(cache)
    return made


def same_bits(a, b) -> bool:
    return all(
        torch.equal(x.contiguous().view(torch.uint8), y.contiguous().view(torch.uint8)) if x.numel() else True
        for x, y in zip(a.tensors(), b.tensors(), strict=True)
    )


def hostile(tokens: int, head_dim: int, dtype):
    """Zeros, constants, a huge outlier, tiny numbers, exact ties."""
    g = torch.Generator().manual_seed(1)
    x = torch.randn(tokens, 2, head_dim, generator=g) * 2
    x[0] = 0
    x[1, 1] = 7.5
    x[2, 0, 3] = 2e4
    x[3] *= 1e-6
    x[4, :, : head_dim // 2] = torch.arange(head_dim // 2) / 8
    return x.to(dtype)


SHAPES = [(fmt, d) for fmt in ALONE for d in (64, 80, 128, 256) if not fmt.key.why_not_head_dim(d)]


@pytest.mark.parametrize(("fmt", "head_dim"), SHAPES, ids=lambda x: getattr(x, "name", str(x)))
def test_codes_scales_and_minima_are_those_of_the_rules(fmt, head_dim: int):
    ours, theirs = pair(fmt, head_dim)
    dtype = torch.float16 if fmt.name == "fp16" else torch.bfloat16
    key, value = hostile(37, head_dim, dtype), hostile(37, head_dim, dtype).flip(0).contiguous()
    slots = torch.randperm(320, generator=torch.Generator().manual_seed(2))[:37]
    slots[7] = -1
    for cache in (ours, theirs):
        cache.calibrate(key, value)
    launch.write(ours, key, value, slots)
    reference.write(theirs, key, value, slots)
    assert same_bits(ours, theirs)


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("fmt", GROUPED, ids=lambda fmt: fmt.name)
def test_groups_leave_the_ring_as_the_rules_say(fmt, head_dim: int):
    ours, theirs = pair(fmt, head_dim)
    table = torch.tensor([[3, 0, 5, 7, 4, 8], [1, 6, 2, 9, -1, -1]], dtype=torch.int32)
    lengths = [0, 0]
    # A prompt longer than the ring, decode steps, a chunk that crosses several groups.
    for fresh in ([150, 3], [1, 90], [20, 32]):
        lengths = [a + b for a, b in zip(lengths, fresh, strict=True)]
        batch = PagedBatch.build(table, torch.tensor(lengths, dtype=torch.int32), fresh)
        key, value = (
            hostile(sum(fresh), head_dim, torch.bfloat16),
            hostile(sum(fresh), head_dim, torch.bfloat16),
        )
        launch.write_append(ours, key, value, batch)
        reference.append(theirs, key, value, batch)
        assert same_bits(ours, theirs)


@pytest.mark.parametrize("name", ["mla_bf16", "mla_fp8"])
def test_latents_are_stored_as_the_rules_say(name: str):
    ours, theirs = (MLACache.allocate(get_format(name), num_blocks=3, block_size=16) for _ in range(2))
    g = torch.Generator().manual_seed(0)
    latent = (
        torch.randn(20, 512, generator=g) * torch.tensor([1e-3, 1.0, 50.0, 0.0])[:, None].repeat(5, 1)
    ).bfloat16()
    rope = torch.randn(20, 64, generator=g).bfloat16()
    slots = torch.randperm(48, generator=g)[:20]
    slots[3] = -1
    launch_mla.write(ours, latent, rope, slots)
    mla_cache.write(theirs, latent, rope, slots)
    assert same_bits(ours, theirs)
