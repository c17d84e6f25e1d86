"""The version of an engine."""

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

from kvplan.errors import UsageError


def _as_written(value: object) -> object:
    """A version without quotes is a number to YAML, in which 0.10 and 0.1 are one."""
    if isinstance(value, (int, float)):
        raise ValueError(
            f"a version is text, and YAML reads this one as the number {value}: put it in quotes"
        )
    return value


def _is_one(version: str) -> str:
    """Refused here, as a run on a given pool would not look at it."""
    from kvplan.sizing.serving import parse_version

    try:
        parse_version(version)
    except UsageError as exc:
        raise ValueError(f"{exc.message}: {exc.hint}") from None
    return version


Version = Annotated[str, BeforeValidator(_as_written), AfterValidator(_is_one)]
