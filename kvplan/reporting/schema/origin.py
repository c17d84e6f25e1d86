"""Where a result comes from: the trace, what was assumed, the files read, the command."""

from typing import Annotated

from pydantic import Field

from kvplan.reporting.schema.part import Count, Part, Scalar


class Trace(Part):
    """What was replayed, with every row accounted for."""

    name: str
    format: str
    rows_read: Count
    requests: Count
    dropped: dict[str, Count]
    notes: list[str]
    reuse_known: bool


class Assumption(Part):
    """A value that was not given but chosen or derived, and why."""

    name: str
    value: Scalar
    source: str


class Input(Part):
    """A file the run read."""

    path: str
    bytes: Count
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Provenance(Part):
    """What is needed to run it again."""

    command: str
    seed: int
    inputs: list[Input]
    versions: dict[str, str]
