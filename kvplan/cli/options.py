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


class PrefixCache(StrEnum):
    """vLLM's prefix cache, as ``cache.prefix`` calls it."""

    hash = "hash"
    none = "none"


FormatOption = Annotated[
    OutputFormat,
    typer.Option(
        "--format",
        "-f",
        metavar="FORM",
        case_sensitive=False,
        help="How to print the answer: table, json, csv or md.",
        show_default=True,
    ),
]

SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of every random stream.")]


def model_names(incomplete: str) -> list[str]:
    """Names of models that begin so, for the shell's completion; reads directories, not specs."""
    return _names("model", incomplete)


def gpu_names(incomplete: str) -> list[str]:
    """Names of GPUs that begin so."""
    return _names("gpu", incomplete)


def _names(kind: str, incomplete: str) -> list[str]:
    from kvplan.specs.catalog import entries

    return [entry.name for entry in entries(kind) if entry.name.startswith(incomplete.casefold())]


ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        autocompletion=model_names,
        help="Name, alias, Hugging Face id, config.json, its directory, a spec file, or -.",
    ),
]

DpAttentionOption = Annotated[
    bool,
    typer.Option("--dp-attention", help="Deal sequences over the TP ranks instead of splitting heads."),
]

AttentionRanksOption = Annotated[
    int | None,
    typer.Option(
        "--attention-ranks", min=1, metavar="N", help="Deal sequences over N groups of the TP ranks."
    ),
]
