"""Options that several commands share, so that they are spelled and explained the same everywhere."""

from __future__ import annotations

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

SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of every random stream.")]
