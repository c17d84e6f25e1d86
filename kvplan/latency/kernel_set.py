"""The kernels of a profile, found by what a layer needs; what was not measured is refused, never guessed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from kvplan.errors import SpecError
from kvplan.latency.assumption import Assumption
from kvplan.latency.attention_shapes import check_supported
from kvplan.latency.attention_work import Attention
from kvplan.latency.kernel_choice import fastest, fastest_sum, newest, of_engine
from kvplan.latency.measured_set import MeasuredSet, Rates, kernel_format, rates_of
from kvplan.latency.module_kernels import DECODE, PREFILL, cache_dtype, decoding, prefilling
from kvplan.latency.table_formats import canonical, runs
from kvplan.latency.verification import Verification, verification
from kvplan.sizing.weight_formats import WeightFormat

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]
    from kvplan.latency.fit.kernel import FittedKernel
    from kvplan.latency.fit.profile_file import ProfileFile

EAGER_LAUNCH_S = 20e-6
"""Least seconds a call fitted above this waited for the host: it was timed without a CUDA graph."""
ENOUGH_TESTED = 20
"""Shapes from which a kernel's held-out error is more than an accident."""
STOOD_IN = "not measured: bytes as stored over the rates of the measured 16-bit multiplication"
_INSTEAD = "use {model: roofline}, whose bands are wider, or calibrate a profile that has it"


class KernelSet:
    """Fitted kernels by op and labels.

    ``engine``: whose kernels go before those of other engines; None: all are alike.
    ``ragged``: times of batches of log-normal lengths relative to equal ones, where measured, sorted.
    """

    def __init__(
        self, profile: ProfileFile, where: str, block_size: int = 64, engine: str | None = None
    ) -> None:
        from kvplan.latency.fit.profile_file import restore_kernel

        self.name = profile.name
        used = of_engine(profile.kernels, newest(profile.kernels), engine)
        self._kernels: list[tuple[str, dict[str, str], FittedKernel]] = [
            (part.op, part.labels, restore_kernel(part, f"{where}: kernels.{index}"))
            for index, part in ((index, profile.kernels[index]) for index in used)
        ]
        self._errors = {
            id(kernel): part.held_out.p90
            for (_, _, kernel), part in zip(self._kernels, (profile.kernels[i] for i in used), strict=True)
            if part.held_out is not None and part.held_out.tested >= ENOUGH_TESTED
        }
        self._stood_in: dict[str, Assumption] = {}
        self._chosen: dict[str, Assumption] = {}
        self.measured: MeasuredSet | None = None
        if profile.measured is not None:
            pages = {
                part.labels.get("kv_cache_dtype", ""): part.detail.pages
                for part in profile.kernels
                if part.detail is not None and part.op == "generation_attention"
            }
            self.measured = MeasuredSet(profile.measured, pages, block_size)
        self._details = {
            (part.op, part.labels.get("kv_cache_dtype", "")): part.detail
            for part in profile.kernels
            if part.detail is not None
        }
        ragged = [detail.ragged for detail in self._details.values()]
        self.ragged = sorted(ratio for ratio in ragged if ratio is not None)

    def error(self, kernel: FittedKernel, typical: float) -> float:
        """What nine in ten held-out shapes of a kernel were within, as a share; without them, its band.

        Args:
            typical: half width of its band in log time where it is used.
        """
        return self._errors.get(id(kernel), math.expm1(typical))

    def gemms(self, form: WeightFormat) -> list[FittedKernel]:
        """Every kernel that multiplies weights of this format; none where only ``stand_in`` can help."""
        return self._gemms(form)

    def _gemms(self, form: WeightFormat) -> list[FittedKernel]:
        return [
            kernel for labels, kernel in self.timed("gemm") if runs(labels.get("gemm_dtype", ""), form.name)
        ]  # fmt: skip

    def stand_in(self, form: WeightFormat) -> Rates:
        """Rates for a weight format that was not measured; the result states it.

        Raises:
            SpecError: nothing was measured that could stand in.
        """
        plain = [k for labels, k in self.timed("gemm") if runs(labels.get("gemm_dtype", ""), "bf16")]
        rates = rates_of(plain[0]) if plain else None
        if self.measured is not None:
            rates = self.measured.stand_in(form, rates)
        elif rates is not None:
            self._stood_in[form.name] = Assumption("latency.matmul", form.name, STOOD_IN)
        if rates is not None and form.name == "fp32":
            # Tensor cores multiply 32-bit numbers (as tf32) at half the 16-bit rate at best.
            rates = replace(rates, flops=rates.flops / 2.0)
        if rates is None:
            raise self._missing(f"matrix multiplication with {form.name} weights")
        return rates

    def assumptions(self) -> tuple[Assumption, ...]:
        """What stood in for something that was not measured, so far."""
        own = () if self.measured is None else self.measured.assumptions()
        return (*self._chosen.values(), *self._stood_in.values(), *own)

    def expert_rates(self, form: WeightFormat) -> list[Rates]:
        """What grouped multiplications may count on: the rates of plain ones of the same format."""
        found = self.gemms(form)
        if not found:
            return [self.stand_in(form)]
        plain = [rates_of(kernel) for kernel in found]
        return [
            Rates(rates.bandwidth_bytes_per_s, rates.flops, rates.launch_s - self._gap_s(kernel))
            for rates, kernel in zip(plain, found, strict=True)
        ]

    def experts(self, form: WeightFormat) -> list[FittedKernel]:
        """Every fused kernel of routed experts with weights of this format."""
        return [
            kernel for labels, kernel in self.timed("moe") if runs(labels.get("moe_dtype", ""), form.name)
        ]  # fmt: skip

    def gemm_seconds(self, kernel: FittedKernel, shapes: Mapping[str, Array], timed: Array) -> Array:
        """Seconds of a multiplication in a CUDA graph, where it waits for no host.

        Args:
            timed: seconds as it was timed, predicted. What they have beyond the formula counts as far as the
                GPU, and not the host, decided them.
        """
        import numpy as np

        from kvplan.latency.fit.gemm import Gemm

        structure = kernel.structure
        assert isinstance(structure, Gemm)
        gpu = structure.gpu_seconds(kernel.values, shapes)
        formula = structure.with_host(kernel.values, gpu)
        return np.asarray(gpu * (timed / formula) ** ((gpu / formula) ** 8)) - self._gap_s(kernel)

    def write_seconds(self, item: Attention) -> tuple[float, float]:
        """(seconds of a call, seconds per token) by which a quantized cache write exceeds a plain one."""
        if self.measured is None:
            return 0.0, 0.0
        mla = item.kind == "mla"
        inputs = 2.0 * (item.head_dim if mla else 2 * item.kv_heads * item.head_dim)
        name = kernel_format(item.kv_format, mla=mla)
        plain = "mla_bf16" if mla else "bf16"
        return self.measured.write_seconds(name, plain, item.kv_bytes_per_token, inputs)

    def page_factor(self, item: Attention) -> float:
        """Time of decode attention with this page size, relative to the size that was fitted."""
        if self.measured is None or item.kind == "mla":
            return 1.0
        return self.measured.page_factor(kernel_format(item.kv_format, mla=False))

    def verification(self, item: Attention) -> Verification:
        """What several tokens of a request take beyond as many more query heads; one token's is nothing."""
        op = _decode_op(item)
        name = kernel_format(item.kv_format, mla=item.kind == "mla")
        timed = {
            label: detail.verify
            for (kernel, label), detail in self._details.items()
            if kernel == op and detail.verify is not None
        }
        found = verification(item.decode_rows, timed.pop(name, None), timed.values())
        if found.assumption is not None:
            self._chosen[found.assumption.name] = found.assumption
        return found

    def _gap_s(self, kernel: FittedKernel) -> float:
        """Time between the launches of a multiplication timed eagerly that a CUDA graph has not, else 0.

        Such kernels quantise and multiply in two launches, so two graph launches stay.
        """
        if not _is_eager(kernel):
            return 0.0
        graph = min(_value(other, "launch_s") for _, other in self.timed("gemm"))
        return max(_value(kernel, "launch_s") - 2.0 * min(graph, EAGER_LAUNCH_S / 2.0), 0.0)

    def has_eager(self, forms: Iterable[WeightFormat]) -> bool:
        """Whether a kernel for one of these formats was timed eagerly."""
        return any(_is_eager(kernel) for form in forms for kernel in self.gemms(form))

    def cold_factor(self, kernel: FittedKernel, shapes: Mapping[str, Array]) -> Array | float:
        """Time of decode attention or experts with a cold L2 over that of the same call again and again.

        kvplan's own measurements rotate their buffers; those of kernel tables do not.
        """
        from kvplan.latency.fit.decode import DecodeAttention
        from kvplan.latency.fit.experts import Experts

        structure = kernel.structure
        if self.measured is not None or not isinstance(structure, (DecodeAttention, Experts)):
            return 1.0
        return structure.seconds(kernel.values, shapes, cold=True) / structure.seconds(kernel.values, shapes)

    def timed(self, op: str) -> list[tuple[dict[str, str], FittedKernel]]:
        """(labels, kernel) of every kernel of an op that is used."""
        return [(labels, kernel) for name, labels, kernel in self._kernels if name == op]

    def decode(self, item: Attention, weights: WeightFormat | None = None) -> FittedKernel:
        """The decode kernel of a layer; over latents all that is beside a module's matrices, where timed.

        Args:
            weights: format of the layer's matrices, beside which modules were timed.
        """
        found = decoding(self, item, weights)
        return self._fastest(DECODE, item, found) if found else self._attention(_decode_op(item), item)

    def prefill(self, item: Attention, weights: WeightFormat | None = None) -> FittedKernel:
        """The prefill kernel of a layer, as ``decode``; latents are expanded to heads."""
        found = prefilling(self, item, weights)
        if found:
            return self._fastest(PREFILL, item, found)
        return self._attention("mla_context" if item.kind == "mla" else "context_attention", item)

    def all_reduce(self) -> FittedKernel | None:
        """The all-reduce under CUDA graphs, else the fastest that was measured, if any."""
        found = [(labels.get("kernel_source", ""), kernel) for labels, kernel in self.timed("all_reduce")]
        graph = [kernel for source, kernel in found if source.endswith("graph")]
        return graph[0] if graph else fastest_sum([kernel for _, kernel in found])

    def bandwidth_bytes_per_s(self) -> float:
        """What plain 16-bit multiplications reached on memory: the rate for everything that streams."""
        for labels, kernel in self.timed("gemm"):
            if runs(labels.get("gemm_dtype", ""), "bf16"):
                names = [p.name for p in kernel.structure.parameters()]
                return float(kernel.values[names.index("bandwidth")])
        machine = None if self.measured is None else self.measured.machine_rates()
        if machine is not None:
            return machine.bandwidth_bytes_per_s
        raise self._missing("16-bit matrix multiplication")

    def _attention(self, op: str, item: Attention) -> FittedKernel:
        check_supported(item)
        if self.measured is not None:
            return self._own(op, item, self.measured)
        dtype = cache_dtype(item)
        if dtype is None:
            raise self._missing(f"attention over a cache of {item.kv_element_bytes:.3g} bytes an element")
        found: dict[int, dict[str, FittedKernel]] = {}
        for labels, kernel in self.timed(op):
            if canonical(labels.get("kv_cache_dtype", "bfloat16")) == dtype:
                told = " ".join(text for label, text in labels.items() if label != "head_dim")
                found.setdefault(int(labels.get("head_dim", 0)), {})[told] = kernel
        # A head size between two compiled ones runs the next larger kernel.
        fitting = [dim for dim in sorted(found) if dim >= item.head_dim or item.kind == "mla"]
        if not fitting:
            what = "MLA attention" if item.kind == "mla" else f"attention with heads of {item.head_dim}"
            raise self._missing(f"{dtype} {what}", self._heads(op, found))
        return self._fastest(op, item, found[fitting[0]])

    def _fastest(self, op: str, item: Attention, kernels: Mapping[str, FittedKernel]) -> FittedKernel:
        best = fastest(kernels, op, item)
        if len(kernels) > 1:
            others = ", ".join(name for name in sorted(kernels) if name != best)
            self._chosen[op] = Assumption(
                f"latency.{op}", best, f"the fastest of those measured at typical sizes; not: {others}"
            )
        return kernels[best]

    def _heads(self, op: str, found: Mapping[int, object]) -> str:
        """What to do where no kernel of these heads or this format was measured."""
        if not found:
            formats = sorted({labels.get("kv_cache_dtype", "") for labels, _ in self.timed(op)})
            return f"measured over: {', '.join(formats) or 'nothing'}; {_INSTEAD}"
        return f"measured with heads of {', '.join(map(str, sorted(found)))}; {_INSTEAD}"

    def _own(self, op: str, item: Attention, measured: MeasuredSet) -> FittedKernel:
        """The kernel of kvplan's own that reads this cache format."""
        mla = item.kind == "mla"
        wanted = kernel_format(item.kv_format, mla=mla)
        found = {labels.get("kv_cache_dtype", ""): kernel for labels, kernel in self.timed(op)}
        if wanted == "fp16" and "fp16" not in found:
            wanted = "bf16"
        if wanted not in found and op in ("context_attention", "mla_context"):
            return self._own_prefill(item, wanted, measured)
        if wanted not in found:
            raise self._missing(
                f"{'MLA ' if mla else ''}decode attention over a cache of {item.kv_format}",
                f"measured: {', '.join(sorted(found)) or 'none'}; or use {{model: roofline}}",
            )
        kernel = found[wanted]
        if not mla and item.head_dim > kernel.high["head_dim"]:
            raise self._missing(f"attention with heads of {item.head_dim}")
        detail = self._details.get((op, wanted))
        if detail is not None and detail.fitted:
            rest = f"those of {detail.donor}" if detail.donor else "physical defaults"
            measured.assume(
                "few_points", f"{op} {wanted}",
                f"{', '.join(detail.fitted)} fitted to {kernel.trained_on} points, other parameters {rest}",
            )  # fmt: skip
        return kernel

    def _own_prefill(self, item: Attention, wanted: str, measured: MeasuredSet) -> FittedKernel:
        """Prefill of a format that was not timed: the measured one of the nearest width.

        MLA expands its latent to heads and runs the 16-bit kernel.
        """
        found = {
            labels.get("kv_cache_dtype", ""): kernel for labels, kernel in self.timed("context_attention")
        }
        if not found:
            raise self._missing(f"prefill attention over a cache of {item.kv_format}")
        width = 2.0 if item.kind == "mla" else item.kv_element_bytes
        near = min(
            sorted(found), key=lambda name: abs(math.log(found[name].high["kv_element_bytes"] / width))
        )
        what = "prefill of expanded MLA heads" if item.kind == "mla" else "prefill"
        measured.assume(
            "prefill_kernel", near, f"{what} over {wanted} was not measured: timed as over {near}"
        )
        return found[near]

    def _missing(self, what: str, hint: str = _INSTEAD) -> SpecError:
        return SpecError(
            f"the profile {self.name!r} has no measured kernel for {what}",
            where="latency.model",
            hint=hint,
        )


def _decode_op(item: Attention) -> str:
    return "mla_generation" if item.kind == "mla" else "generation_attention"


def _is_eager(kernel: FittedKernel) -> bool:
    return _value(kernel, "host_s") > EAGER_LAUNCH_S


def _value(kernel: FittedKernel, name: str) -> float:
    names = [p.name for p in kernel.structure.parameters()]
    return float(kernel.values[names.index(name)])
