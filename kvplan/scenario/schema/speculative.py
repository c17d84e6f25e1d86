"""Speculative decoding."""

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import AliasChoices, Field, model_validator

from kvplan.scenario.schema.part import Number, Part

Rate = Annotated[Number, Field(ge=0, le=1)]


class SpeculativePart(Part):
    """Drafts that every step verifies, under the names of vLLM's ``--speculative-config``.

    In SGLang ``tokens`` is ``--speculative-num-steps``, one draft behind the other.

    ``model``: the layers of ``eagle``, or the ``draft_model``; ``mtp`` has the model's own, ``ngram`` none.
    How many drafts stand is the workload's: ``acceptance`` is the chance of a draft that stands behind
    accepted ones, or the rate of every position as vLLM logs them; ``acceptance_length`` the mean tokens of
    a verification instead, which SGLang logs as ``accept len``.
    """

    method: Literal["mtp", "eagle", "draft_model", "ngram"] = "mtp"
    tokens: Annotated[
        int,
        Field(strict=True, ge=1, le=64, validation_alias=AliasChoices("tokens", "num_speculative_tokens")),
    ] = 1
    model: str | None = None
    acceptance: Rate | Annotated[list[Rate], Field(min_length=1, max_length=64)] | None = None
    acceptance_length: Annotated[Number, Field(ge=1, le=65)] | None = None

    @model_validator(mode="after")
    def _acceptance_is_said_once(self) -> Self:
        if (self.acceptance is None) == (self.acceptance_length is None):
            raise ValueError(
                "say how many drafts are accepted, once: acceptance_length is what vLLM logs as 'Mean "
                "acceptance length' and SGLang as 'accept len', acceptance vLLM's 'Per-position acceptance "
                "rate', or one chance for all"
            )
        rates = self.acceptance
        if isinstance(rates, list):
            if len(rates) != self.tokens:
                raise ValueError(f"{len(rates)} acceptance rates for {self.tokens} drafts: give one for each")
            if any(later > first for first, later in pairwise(rates)):
                raise ValueError(
                    "acceptance rates rise, but a draft is accepted only where all before it are"
                )
        if self.acceptance_length is not None and self.acceptance_length > self.tokens + 1:
            raise ValueError(
                f"{self.tokens} drafts and the sampled token cannot yield {self.acceptance_length:g} tokens"
            )
        return self

    @model_validator(mode="after")
    def _who_drafts(self) -> Self:
        needed = self.method in ("eagle", "draft_model")
        if needed and self.model is None:
            raise ValueError(f"{self.method} needs a model: the one that drafts, or its config.json")
        if not needed and self.model is not None:
            raise ValueError(
                f"{self.method} has no model of its own: leave it out, or say eagle or draft_model"
            )
        return self
