"""The feed-forward part of a layer: dense or a mixture of experts. Read by weights and by the roofline."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from kvplan.specs.base import Count, Frozen, Natural


class DenseMlp(Frozen):
    """Up and down projections, and a gate projection when ``gated``."""

    kind: Literal["dense"] = "dense"
    intermediate_size: Count
    gated: bool = True
    bias: bool = False


class MoeMlp(Frozen):
    """``experts`` routed experts of which ``experts_per_token`` run, plus shared experts that always run.

    ``intermediate_size`` is that of one routed expert, ``shared_intermediate_size`` that of all shared
    experts together (0 = none). ``latent_size`` is the width the routed experts work in when it is not the
    hidden size (down- and up-projections around them are counted). ``dense`` runs beside the experts.
    ``layers_per_set`` layers share the weights of their routed experts and router, where they have none of
    their own.
    """

    kind: Literal["moe"] = "moe"
    experts: Count
    experts_per_token: Count
    intermediate_size: Count
    shared_intermediate_size: Natural = 0
    shared_gate: bool = False
    gated: bool = True
    bias: bool = False
    latent_size: Count | None = None
    dense: DenseMlp | None = None
    layers_per_set: Count = 1

    @model_validator(mode="after")
    def _enough_experts(self) -> Self:
        if self.experts_per_token > self.experts:
            raise ValueError(f"experts_per_token {self.experts_per_token} exceeds experts {self.experts}")
        return self


Mlp = Annotated[DenseMlp | MoeMlp, Field(discriminator="kind")]
