"""The kernels of a profile, found by what a layer needs; what was not measured is refused, never guessed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from kvplan.errors import SpecError
from kvplan.latency.work import Attention
from kvplan.sizing.weight_formats import WeightFormat

if TYPE_CHECKING:
    from kvplan.latency.fit.kernel import FittedKernel
    from kvplan.latency.fit.profile_file import ProfileFile

_GEMM_FORMATS = {
    "bf16": "bfloat16", "fp16": "bfloat16", "fp8": "fp8", "fp8_channel": "fp8", "fp8_block128": "fp8_block",
}  # fmt: skip
EAGER_LAUNCH_S = 20e-6
"""A fitted launch time above this is that of calls timed one by one from the CPU, not inside a CUDA graph."""
_INSTEAD = "use {model: roofline}, whose bands are wider, or calibrate a profile that has it"


class KernelSet:
    """Fitted kernels by op and labels."""

    def __init__(self, profile: ProfileFile, where: str) -> None:
        from kvplan.latency.fit.profile_file import restore_kernel

        self.name = profile.name
        self._kernels: list[tuple[str, dict[str, str], FittedKernel]] = [
            (part.op, part.labels, restore_kernel(part, f"{where}: kernels.{index}"))
            for index, part in enumerate(profile.kernels)
        ]

    def gemms(self, form: WeightFormat) -> list[FittedKernel]:
        """Every kernel that multiplies weights of this format."""
        wanted = _GEMM_FORMATS.get(form.name)
        found = [
            kernel for op, labels, kernel in self._kernels
            if op == "gemm" and wanted is not None and labels.get("gemm_dtype") == wanted
        ]  # fmt: skip
        if not found:
            raise self._missing(f"matrix multiplication with {form.name} weights")
        return found

    def eager_excess_s(self, kernel: FittedKernel) -> float:
        """What a multiplication timed eagerly carries of launch time that a CUDA graph hides, else 0.

        Such kernels quantise and multiply in two launches, so two graph launches stay.
        """
        launch = _launch(kernel)
        if launch <= EAGER_LAUNCH_S:
            return 0.0
        graph = min(_launch(other) for op, _, other in self._kernels if op == "gemm")
        return max(launch - 2.0 * min(graph, EAGER_LAUNCH_S / 2.0), 0.0)

    def has_eager(self, forms: Iterable[WeightFormat]) -> bool:
        """Whether a kernel for one of these formats was timed eagerly."""
        return any(self.eager_excess_s(kernel) > 0 for form in forms for kernel in self.gemms(form))

    def decode(self, item: Attention) -> FittedKernel:
        """The decode kernel of a layer."""
        return self._attention("mla_generation" if item.kind == "mla" else "generation_attention", item)

    def prefill(self, item: Attention) -> FittedKernel:
        """The prefill kernel of a layer."""
        return self._attention("mla_context" if item.kind == "mla" else "context_attention", item)

    def all_reduce(self) -> FittedKernel | None:
        """The all-reduce under CUDA graphs, if one was measured."""
        found = [
            (labels.get("kernel_source", ""), kernel) for op, labels, kernel in self._kernels
            if op == "all_reduce"
        ]  # fmt: skip
        graph = [kernel for source, kernel in found if source.endswith("graph")]
        plain = [kernel for _, kernel in found]
        return next(iter(graph or plain), None)

    def bandwidth_bytes_per_s(self) -> float:
        """What plain 16-bit multiplications reached on memory: the rate for everything that streams."""
        for op, labels, kernel in self._kernels:
            if op == "gemm" and labels.get("gemm_dtype") == "bfloat16":
                names = [p.name for p in kernel.structure.parameters()]
                return float(kernel.values[names.index("bandwidth")])
        raise self._missing("16-bit matrix multiplication")

    def _attention(self, op: str, item: Attention) -> FittedKernel:
        from kvplan.latency.step import check_supported

        check_supported(item)
        dtype = {1.0: "fp8", 2.0: "bfloat16"}.get(round(item.kv_element_bytes, 6))
        if dtype is None:
            raise self._missing(f"attention over a cache of {item.kv_element_bytes:.3g} bytes an element")
        found: dict[int, FittedKernel] = {}
        for name, labels, kernel in self._kernels:
            if name == op and labels.get("kv_cache_dtype") == dtype:
                found.setdefault(int(labels.get("head_dim", 0)), kernel)
        # A head size between two compiled ones runs the next larger kernel.
        fitting = [dim for dim in sorted(found) if dim >= item.head_dim or item.kind == "mla"]
        if not fitting:
            raise self._missing(f"{dtype} attention with heads of {item.head_dim}")
        return found[fitting[0]]

    def _missing(self, what: str) -> SpecError:
        return SpecError(
            f"the profile {self.name!r} has no measured kernel for {what}",
            where="latency.model",
            hint=_INSTEAD,
        )


def _launch(kernel: FittedKernel) -> float:
    names = [p.name for p in kernel.structure.parameters()]
    return float(kernel.values[names.index("launch_s")])
