"""The options of simulations, which ``simulate``, ``sweep`` and ``plan`` share, and the fields that they set.

Commands name their parameters as ``FIELDS`` does.
"""

from collections.abc import Mapping
from typing import Annotated

import typer

from kvplan.cli.options import gpu_names, model_names

ScenarioFile = Annotated[
    str | None,
    typer.Argument(
        metavar="SCENARIO", help="Scenario file (YAML); - reads standard input.", show_default=False
    ),
]
Model = Annotated[
    str | None,
    typer.Option("--model", autocompletion=model_names, help="Model name, spec or config.json."),
]
Gpu = Annotated[str | None, typer.Option("--gpu", autocompletion=gpu_names, help="GPU name.")]
Pp = Annotated[int | None, typer.Option("--pp", metavar="N", help="Pipeline-parallel stages.")]
Tp = Annotated[int | None, typer.Option("--tp", metavar="N", help="Tensor-parallel GPUs.")]
Dtype = Annotated[str | None, typer.Option("--dtype", "--kv-dtype", help="KV number format.")]
WeightsDtype = Annotated[
    str | None, typer.Option("--weights-dtype", help="Weight format: bf16, fp8, awq, nvfp4 ...")
]
Context = Annotated[
    str | None, typer.Option("--ctx", "--context", help="Longest request the engine takes: 32k, 131072.")
]
Utilization = Annotated[
    float | None,
    typer.Option(
        "--utilization", metavar="X", help="gpu_memory_utilization, or SGLang's mem_fraction_static."
    ),
]
MaxNumSeqs = Annotated[int | None, typer.Option("--max-num-seqs", metavar="N", help="Sequences of one step.")]
MaxNumBatchedTokens = Annotated[
    int | None, typer.Option("--max-num-batched-tokens", metavar="N", help="Tokens of one step.")
]
Blocks = Annotated[int | None, typer.Option("--blocks", metavar="N", help="Blocks instead of what fits.")]
BlockSize = Annotated[int | None, typer.Option("--block-size", metavar="N", help="Tokens per block.")]
Engine = Annotated[str | None, typer.Option("--engine", help="vllm or sglang.")]
Trace = Annotated[str | None, typer.Option("--trace", help="Trace file to replay.")]
Synthesize = Annotated[
    str | None, typer.Option("--synthesize", help="Synthetic workload: chat, rag, agentic ...")
]
Limit = Annotated[int | None, typer.Option("--limit", "-n", help="Replay or generate so many requests.")]
Rate = Annotated[str | None, typer.Option("--rate", help="Synthetic requests per second.")]
MaxInFlight = Annotated[
    int | None, typer.Option("--max-in-flight", help="Closed loop: requests in flight at most.")
]
Latency = Annotated[str | None, typer.Option("--latency", help="Clock: roofline, profile, fitted or linear.")]
Price = Annotated[
    str | None, typer.Option("--price", help="Rent of a GPU for an hour: 2.5, or h100-sxm=2.5,l40s=1.1.")
]
Seed = Annotated[int | None, typer.Option("--seed", min=0, metavar="N", help="Seed of every random stream.")]

Jobs = Annotated[
    int | None,
    typer.Option("--jobs", "-j", min=1, metavar="N", help="Simulations at a time. Default: one a CPU."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]

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
    "price": "price.gpu_hour",
    "seed": "seed",
}
"""Which field of a scenario each option of a simulation sets."""


def fields(parameters: Mapping[str, object]) -> dict[str, object]:
    """What a command's parameters (its ``locals()``, before anything else) say, by field."""
    return {field: parameters[name] for name, field in FIELDS.items() if name in parameters}
