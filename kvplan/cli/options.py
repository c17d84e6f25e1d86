"""Options that several commands share, so that they are spelled and explained the same everywhere."""

from enum import StrEnum
from typing import Annotated

import typer


class OutputFormat(StrEnum):
    """How the answer is printed on stdout."""

    table = "table"
    json = "json"
    csv = "csv"
    md = "md"


FormatOption = Annotated[
    OutputFormat,
    typer.Option(
        "--format",
        "-f",
        metavar="FORM",
        help="How to print the answer: table, json, csv or md.",
        show_default=True,
    ),
]

PpOption = Annotated[int | None, typer.Option("--pp", metavar="N", help="Pipeline-parallel stages.")]
TpOption = Annotated[int | None, typer.Option("--tp", metavar="N", help="Tensor-parallel GPUs.")]
DtypeOption = Annotated[str | None, typer.Option("--dtype", "--kv-dtype", help="KV number format.")]
WeightsDtypeOption = Annotated[
    str | None, typer.Option("--weights-dtype", help="Weight format: bf16, fp8, awq, nvfp4 ...")
]
ContextOption = Annotated[
    str | None, typer.Option("--ctx", "--context", help="Longest request the engine takes: 32k, 131072.")
]
UtilizationOption = Annotated[
    float | None,
    typer.Option(
        "--utilization", metavar="X", help="gpu_memory_utilization, or SGLang's mem_fraction_static."
    ),
]
MaxNumSeqsOption = Annotated[
    int | None, typer.Option("--max-num-seqs", metavar="N", help="Sequences of one step.")
]
MaxNumBatchedTokensOption = Annotated[
    int | None, typer.Option("--max-num-batched-tokens", metavar="N", help="Tokens of one step.")
]
BlocksOption = Annotated[
    int | None, typer.Option("--blocks", metavar="N", help="Blocks instead of what fits.")
]
BlockSizeOption = Annotated[int | None, typer.Option("--block-size", metavar="N", help="Tokens per block.")]
EngineOption = Annotated[str | None, typer.Option("--engine", help="vllm or sglang.")]

SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of every random stream.")]


FIELDS = {
    "model": "model",
    "gpu": "gpu",
    "engine": "engine.kind",
    "tp": "parallel.tp",
    "pp": "parallel.pp",
    "ctx": "engine.max_model_len",
    "dtype": "cache.dtype",
    "weights_dtype": "weights_dtype",
    "utilization": "engine.gpu_memory_utilization",
    "max_num_seqs": "engine.max_num_seqs",
    "max_num_batched_tokens": "engine.max_num_batched_tokens",
    "blocks": "cache.blocks",
    "block_size": "cache.block_size",
    "trace": "workload.trace",
    "synthesize": "workload.synthesize",
    "rate": "workload.rate",
    "max_in_flight": "workload.max_in_flight",
    "latency": "latency.model",
    "seed": "seed",
}
"""Which field of a scenario each option of a simulation sets."""


def scenario_fields(**options: object) -> dict[str, object]:
    """What options of a simulation say, by field; options by the names of ``FIELDS``."""
    return {FIELDS[name]: value for name, value in options.items()}


def model_names(incomplete: str) -> list[str]:
    """Names of models that begin so, for the shell's completion; reads directories, not specs."""
    return _names("model", incomplete)


def gpu_names(incomplete: str) -> list[str]:
    """Names of GPUs that begin so."""
    return _names("gpu", incomplete)


def _names(kind: str, incomplete: str) -> list[str]:
    from kvplan.specs.catalog import entries

    return [entry.name for entry in entries(kind) if entry.name.startswith(incomplete.casefold())]
