"""Moving the cache of one request: bytes by number format, converted for the way where that is wanted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvplan.errors import UsageError
from kvplan.latency.curve import Link, transfer_seconds
from kvplan.latency.transfer import CONVERT_EFFICIENCY

if TYPE_CHECKING:
    from kvplan.specs.formats import KvFormat
    from kvplan.specs.schema import GpuSpec, ModelSpec


@dataclass(frozen=True, slots=True)
class KvTransfer:
    """Moving a request's cache; ``seconds`` is the sum of the two parts.

    Attributes:
        stored_bytes: as both ends keep it.
        wire_bytes: as it travels.
        convert_s: into the wire's number format and back; 0 where it is the cache's own.
        wire_s: on the link.
    """

    stored_bytes: int
    wire_bytes: int
    convert_s: float
    wire_s: float

    @property
    def seconds(self) -> float:
        """From the last computed token to a usable copy, nothing overlapped with computing."""
        return self.convert_s + self.wire_s


def kv_transfer(
    model: ModelSpec,
    tokens: int,
    link: Link,
    *,
    kv: KvFormat | str | None = None,
    wire: KvFormat | str | None = None,
    gpu: GpuSpec | None = None,
    block_size: int = 16,
    contiguous: bool = True,
    lanes: int = 1,
) -> KvTransfer:
    """Time of moving the cache of one request of ``tokens`` tokens, all layers and ranks, GPU to GPU.

    Args:
        kv: number format of the cache (None: the model's own).
        wire: format it travels in (None: the cache's); converting reads and writes it once at either end.
        gpu: whose memory bandwidth converts; needed with ``wire``.
        contiguous: one copy a request (a connector gathered it), else one a block and layer.
        lanes: equal links side by side.

    Raises:
        UsageError, UnknownName: what ``size_model`` refuses; ``wire`` without a GPU.
    """
    stored = _cache_bytes(model, tokens, kv, block_size)
    sent, convert = stored, 0.0
    if wire is not None:
        if gpu is None:
            raise UsageError(
                "a quantized transfer needs the GPU that converts", hint="give gpu=load_gpu(...)"
            )
        sent = _cache_bytes(model, tokens, wire, block_size)
        if sent != stored:
            rate = gpu.bandwidth_bytes_per_s * CONVERT_EFFICIENCY * lanes
            convert = 2.0 * (stored + sent) / rate
    pieces = 1 if contiguous else -(-tokens // block_size) * model.num_layers
    return KvTransfer(stored, sent, convert, transfer_seconds(link, sent, pieces=pieces, lanes=lanes))


def wire_ratio(
    model: ModelSpec, stored: KvFormat | str | None, wire: KvFormat | str, *, tokens: int = 65_536
) -> float:
    """Bytes of a request's cache in format ``wire`` per byte in format ``stored`` (None: the model's own)."""
    return _cache_bytes(model, tokens, wire, 16) / _cache_bytes(model, tokens, stored, 16)


def _cache_bytes(model: ModelSpec, tokens: int, form: KvFormat | str | None, block_size: int) -> int:
    from kvplan.sizing.size import size_model

    report = size_model(model, context_tokens=tokens, kv=form, block_size=block_size)
    return report.kv_bytes_per_sequence + report.state_bytes_per_sequence
