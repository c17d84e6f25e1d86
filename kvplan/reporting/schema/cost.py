"""What a run's GPUs cost."""

from typing import Annotated

from pydantic import AfterValidator, Field

from kvplan.reporting.schema.part import Amount, Part
from kvplan.units import currency_name


class Cost(Part):
    """The rent of all ``gpus`` for the makespan, idle or not, in ``currency``; where a price was given.

    ``per_million_tokens`` counts prompts and answers of requests that finished; ``None`` where there are
    no such tokens.
    """

    currency: Annotated[str, AfterValidator(currency_name)]
    gpus: Annotated[int, Field(ge=1)]
    per_hour: Amount
    total: Amount
    per_million_output_tokens: Amount | None
    per_million_tokens: Amount | None
