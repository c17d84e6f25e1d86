"""What is asked for, and how fast it should be served."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from kvplan.errors import UnknownName, UsageError
from kvplan.scenario.schema.part import Number, Part, Positive, Rate, Scale, Seconds, by
from kvplan.units import parse_seconds, parse_tokens


def _lengths(text: str) -> int | str:
    """A number of tokens; a distribution is checked, and kept as it was written."""
    if ":" not in text:
        return parse_tokens(text)
    from kvplan.traces.lengths import parse_lengths

    try:
        parse_lengths(text)
    except UsageError as exc:
        raise UsageError("; ".join(filter(None, (exc.message, exc.hint)))) from exc
    return text


TokenLengths = Annotated[
    Annotated[int, Field(strict=True, ge=1, le=1 << 40)] | Annotated[str, Field(max_length=200)],
    by(_lengths),
]
"""So many tokens each, or a distribution (``uniform:100-200``; ``kvplan.traces.lengths.parse_lengths``)."""

Made = Annotated[int, Field(strict=True, ge=1, le=1 << 28)]
"""Requests that a synthetic workload can have (``kvplan.traces.synthesize``)."""
BlockTokens = Annotated[int, Field(strict=True, ge=1, le=1 << 20)]
"""Tokens that a block id of a trace may stand for (``kvplan.traces.formats.contract``)."""


def _known_format(name: str) -> str:
    if name != "auto":
        from kvplan.traces import formats

        try:
            formats.get(name)
        except UnknownName as exc:
            raise ValueError(str(exc).replace("\n  hint:", ";")) from exc
    return name


TraceFormat = Annotated[str, AfterValidator(_known_format)]

OF_SYNTHETIC = ("requests", "prompt_tokens", "output_tokens", "arrivals", "burstiness")
OF_TRACES = ("limit", "format", "time_scale", "block_size", "smooth", "sort", "clamp_outputs")


class WorkloadPart(Part):
    """Requests: a trace file or a named synthetic workload, never both."""

    trace: str | None = None
    format: TraceFormat = "auto"
    limit: Positive | None = None
    time_scale: Scale = 1.0
    rate_scale: Scale = 1.0
    block_size: BlockTokens | None = None
    smooth: bool = False
    sort: Literal["window", "full"] = "window"
    clamp_outputs: bool = False
    synthesize: str | None = None
    requests: Made | None = None
    rate: Rate | None = None
    arrivals: Literal["poisson", "gamma", "weibull", "constant"] = "poisson"
    burstiness: Scale = 1.0
    prompt_tokens: TokenLengths | None = None
    output_tokens: TokenLengths | None = None
    max_in_flight: Positive | None = None
    turns: Literal["timed", "answered"] = "timed"
    max_sessions: Positive | None = None
    timeout_s: Seconds | None = None
    first_token_timeout_s: Seconds | None = None
    retries: Annotated[int, Field(strict=True, ge=0, le=100)] = 0
    retry_after_s: Annotated[Number, by(parse_seconds), Field(ge=0, le=86_400)] = 1.0

    @property
    def gives_up(self) -> bool:
        """Whether any client may."""
        return self.timeout_s is not None or self.first_token_timeout_s is not None

    @property
    def reads_once(self) -> bool:
        """Whether the trace comes through a pipe, so that nothing can read it a second time."""
        from kvplan.traces.source import read_once

        return self.trace is not None and read_once(self.trace)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.trace is None and self.synthesize is None:
            raise ValueError("a workload needs either 'trace' or 'synthesize'")
        if self.trace is not None and self.synthesize is not None:
            raise ValueError("'trace' and 'synthesize' exclude each other: give one of them")
        if self.burstiness != 1.0 and self.arrivals not in ("gamma", "weibull"):
            raise ValueError(
                "'burstiness' is the shape of 'arrivals: gamma' (or weibull), which must be said"
            )
        if self.max_sessions is not None and self.turns != "answered":
            raise ValueError("'max_sessions' needs 'turns: answered': timed turns do not wait for a session")
        self._check_patience()
        if self.trace is not None:
            synthetic = [name for name in OF_SYNTHETIC if self._chosen(name)]
            if synthetic:
                raise ValueError(f"{synthetic[0]!r} belongs to 'synthesize', not to a trace (use 'limit')")
        else:
            read = [name for name in OF_TRACES if self._chosen(name)]
            if read:
                instead = " (use 'requests')" if read[0] == "limit" else ""
                raise ValueError(f"{read[0]!r} belongs to a trace, not to 'synthesize'{instead}")
        return self

    def _check_patience(self) -> None:
        """Fields about giving up that would change nothing are mistakes.

        Raises:
            ValueError: there is one.
        """
        answer_s, first_token_s = self.timeout_s, self.first_token_timeout_s
        if answer_s is not None and first_token_s is not None and first_token_s >= answer_s:
            raise ValueError("'first_token_timeout_s' changes nothing unless it is less than 'timeout_s'")
        if self.retries and not self.gives_up:
            raise ValueError("'retries' needs 'timeout_s' or 'first_token_timeout_s': nobody gives up")
        if self._chosen("retry_after_s") and not self.retries:
            raise ValueError("'retry_after_s' needs 'retries'")

    def _chosen(self, name: str) -> bool:
        """Whether a field is not what it would be anyway."""
        return bool(getattr(self, name) != type(self).model_fields[name].default)


class SloPart(Part):
    """Limits; missing one makes ``kvplan simulate`` exit with 3."""

    ttft_p50_s: Seconds | None = None
    ttft_p90_s: Seconds | None = None
    ttft_p99_s: Seconds | None = None
    tpot_p50_s: Seconds | None = None
    tpot_p90_s: Seconds | None = None
    tpot_p99_s: Seconds | None = None
    e2e_p50_s: Seconds | None = None
    e2e_p90_s: Seconds | None = None
    e2e_p99_s: Seconds | None = None

    @property
    def limits(self) -> dict[str, float]:
        """Those that are set, by name, in seconds."""
        return {name: limit for name, limit in self.model_dump().items() if limit is not None}
