"""Fitting every family of a GPU's tables: bare kernels first, then modules without what they are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kvplan.errors import DataError, SpecError
from kvplan.latency.fit.choose import structures_for
from kvplan.latency.fit.columns import MODULES
from kvplan.latency.fit.kernel import FittedKernel, designed_rows, fit_likeliest, take
from kvplan.latency.fit.module import matrices_of, taken_apart
from kvplan.latency.fit.profile_file import KernelPart, kernel_part
from kvplan.latency.fit.tables import Family
from kvplan.specs.schema import GpuSpec


@dataclass(frozen=True, slots=True)
class FittedFamily:
    """A family as it was fitted: a module's without its matrices; ``rows`` of it were seen."""

    family: Family
    kernel: FittedKernel
    rows: npt.NDArray[np.intp]


def fit_families(
    families: Sequence[Family], spec: GpuSpec, points: int, left_out: Callable[[str], None]
) -> Iterator[FittedFamily]:
    """Each family fitted on at most ``points`` designed shapes.

    Args:
        left_out: told of each family that cannot be fitted, in a sentence.

    Raises:
        DataError: measurements that are no times.
    """
    matrices: list[KernelPart] = []
    for timed in sorted(families, key=lambda family: family.op in MODULES):
        family = timed
        try:
            if family.op in MODULES:
                if not matrices:
                    raise DataError(
                        "no table has multiplications", hint="give those of the same GPU (op_name gemm), too"
                    )
                engine = family.version.rpartition(" ")[0]
                family = taken_apart(family, matrices_of(matrices, spec, engine))
            structures = structures_for(family, spec)
        except (DataError, SpecError) as exc:
            left_out(f"{family.title}: {exc.message}; {exc.hint}")
            continue
        rows = designed_rows(structures[0], family.shapes, points)
        try:
            kernel = fit_likeliest(structures, take(family.shapes, rows), family.seconds[rows])
        except DataError as exc:
            if family.seconds.size > len(structures[0].parameters()):
                raise
            left_out(f"{family.title}: {exc.message}; {exc.hint}")
            continue
        if family.op == "gemm":
            matrices.append(kernel_part(family.op, family.labels, kernel, family.version, None))
        yield FittedFamily(family, kernel, rows)
