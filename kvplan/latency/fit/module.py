"""Attention over latents timed with the matrices of its layer: what a module takes beside them.

::

    beside = timed - sum over the layer's matrices of their fitted kernels at the module's tokens

Tables of modules time the attention of an MLA layer whole: projections, norms, rotary embedding, cache write,
attention, output projection. Kernels with tables of their own multiply the matrices, so that a step can time
them by all of its tokens; what is left is attention and all small kernels around it, tens of microseconds
that tables of bare attention kernels lack. Where a backend reads latents as they are, the up-projection is
absorbed into queries and outputs, in 16 bits.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from kvplan.errors import DataError, UnknownName
from kvplan.latency.fit.profile_file import KernelPart, ProfileFile, ProvenancePart
from kvplan.latency.fit.solve import Array
from kvplan.latency.fit.tables import Family
from kvplan.latency.kernel_notes import KernelNotes
from kvplan.latency.kernel_set import KernelSet
from kvplan.latency.linear_layer import linear_seconds
from kvplan.latency.table_formats import MULTIPLICATIONS, canonical
from kvplan.latency.work import Linear
from kvplan.sizing.parameters import attention_tensors
from kvplan.sizing.weight_formats import weight_format
from kvplan.specs.catalog import load_model
from kvplan.specs.schema import GpuSpec, LatentAttention, ModelSpec

_FORMAT = re.compile(r"[-_](?:(?:nv|mx)?fp\d|int\d|w\d+a\d+|awq|gptq)", re.IGNORECASE)
"""Where the format begins in the name of a release."""
LEAST_BESIDE = 0.05
"""Share of a module's time that cannot be matrices: a shape below it tells nothing of what is beside them."""
MOST_LEFT_OUT = 0.1
"""Share of a family's shapes from which more below it mean that its matrices are not what was fitted."""


def matrices_of(parts: Sequence[KernelPart], spec: GpuSpec, engine: str | None = None) -> KernelSet:
    """Fitted multiplications of a GPU, for taking modules apart: those of ``engine`` where there are any."""
    origin = ProvenancePart(source="", license="", inputs=[], command="")
    profile = ProfileFile(
        schema="kvplan.profile/1", name=spec.name, gpu=spec.name, provenance=origin, kernels=list(parts)
    )
    return KernelSet(profile, spec.name, engine=engine)


def taken_apart(family: Family, matrices: KernelSet) -> Family:
    """The same shapes without the matrices' seconds, which become ``beside_s``.

    Raises:
        DataError: the model has no spec or no latents, its weight format was not multiplied in tables, or the
            matrices alone take longer than the modules.
    """
    model, attention = _model_of(family)
    shapes = family.shapes
    new = shapes.get("new", np.ones(family.seconds.size))
    tokens = shapes["batch"] * new
    absorbed = shapes["kv_heads"] < shapes["q_heads"]
    beside = np.zeros(family.seconds.size)
    for heads in np.unique(shapes["q_heads"]):
        for way in (False, True):
            rows = (shapes["q_heads"] == heads) & (absorbed == way)
            if rows.any():
                beside[rows] = _matrices(
                    family, matrices, model, attention, int(heads), tokens[rows], absorbed=way
                )
    seconds = family.seconds - beside
    kept = seconds >= LEAST_BESIDE * family.seconds
    if kept.mean() < 1.0 - MOST_LEFT_OUT:
        raise DataError(
            f"the matrices of {model.name} take longer than {1 - kept.mean():.0%} of the modules they are in",
            where=family.source,
            hint="give multiplications (op_name gemm) of the same GPU, engine and number format",
        )
    return replace(
        family,
        shapes={name: column[kept] for name, column in shapes.items()},
        seconds=seconds[kept],
        beside_s=beside[kept],
    )


def _matrices(
    family: Family, kernels: KernelSet, model: ModelSpec, attention: LatentAttention, heads: int,
    tokens: Array, *, absorbed: bool,
) -> Array:  # fmt: skip
    """Seconds of all matrices of a layer with ``heads`` query heads."""
    name = canonical(family.labels["gemm_type"])
    form = weight_format(MULTIPLICATIONS[name].formats[0])
    sizes, where = np.unique(tokens, return_inverse=True)
    total = np.zeros(sizes.size)
    layer = attention.model_copy(update={"query_heads": heads})
    for tensor in attention_tensors(layer, model.hidden_size, 1):
        if not tensor.quantizable:
            continue
        used = weight_format("bf16") if absorbed and tensor.name == "kv_b_proj" else form
        size = used.matrix(tensor.outputs, tensor.inputs)
        item = Linear(tensor.name, tensor.outputs, tensor.inputs, size, used, 1)
        if not kernels.gemms(used):
            raise DataError(
                f"modules of {used.name} weights, of which no table has multiplications",
                where=family.source,
                hint="give the tables of multiplications (op_name gemm) of the same GPU, too",
            )
        total += linear_seconds(kernels, item, sizes, KernelNotes())
    return np.asarray(total[where])


def _model_of(family: Family) -> tuple[ModelSpec, LatentAttention]:
    name = family.labels["model"]
    try:
        model = _released(name)
    except UnknownName as exc:
        raise DataError(
            f"modules of {name!r}, a model that has no spec", where=family.source,
            hint="add it with kvplan models import",
        ) from exc  # fmt: skip
    for group in model.groups():
        if isinstance(group.block.attention, LatentAttention):
            return model, group.block.attention
    raise DataError(
        f"{model.name} has no attention over latents, which {family.op} are of", where=family.source,
        hint="the column model names the model that was timed",
    )  # fmt: skip


def _released(name: str) -> ModelSpec:
    """The model of a name, or that of which it is a release in another format: its layers are the same ones.

    Raises:
        UnknownName: neither has a spec.
    """
    try:
        return load_model(name)
    except UnknownName:
        own = name.rpartition("/")[2]
        plain = _FORMAT.split(own)[0]
        if plain == own:
            raise
        return load_model(plain)
