"""A scenario: everything a simulation depends on, as a user writes it (``kvplan.scenario/1``).

``engine`` keys are the engine's own option names, so that a deployment's flags can be pasted. What kvplan
does not simulate is refused by name, never ignored.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self, get_args

from pydantic import Field, model_validator

from kvplan.scenario.schema.cache import BlockEviction, CachePart, RadixEviction
from kvplan.scenario.schema.clock import AccuracyPart, LatencyPart
from kvplan.scenario.schema.disaggregation import DisaggregationPart
from kvplan.scenario.schema.engine import AnyEngine, EnginePart, engine_kind
from kvplan.scenario.schema.names import CALLED_ELSEWHERE, NOT_SIMULATED
from kvplan.scenario.schema.parallel import ParallelPart, RoutingPart
from kvplan.scenario.schema.part import Natural, Part
from kvplan.scenario.schema.price import PricePart
from kvplan.scenario.schema.sampling import SamplingPart
from kvplan.scenario.schema.sglang import SglangPart
from kvplan.scenario.schema.speculative import SpeculativePart
from kvplan.scenario.schema.tiers import TiersPart
from kvplan.scenario.schema.workload import SloPart, WorkloadPart


class Scenario(Part):
    """One simulation, resolved from a file, flags and defaults."""

    called_elsewhere: ClassVar[Mapping[str, str]] = CALLED_ELSEWHERE
    known_elsewhere: ClassVar[Mapping[str, str]] = NOT_SIMULATED

    schema_: Literal["kvplan.scenario/1"] = Field("kvplan.scenario/1", alias="schema")
    model: str | None = None
    gpu: str | None = None
    weights_dtype: str | None = None
    parallel: ParallelPart = ParallelPart()
    routing: RoutingPart = RoutingPart()
    disaggregation: DisaggregationPart | None = None
    cache: CachePart = CachePart()
    tiers: TiersPart | None = None
    sampling: SamplingPart = SamplingPart()
    speculative: SpeculativePart | None = None
    engine: AnyEngine = EnginePart()
    latency: LatencyPart = LatencyPart()
    accuracy: AccuracyPart = AccuracyPart()
    workload: WorkloadPart
    slo: SloPart = SloPart()
    price: PricePart = PricePart()
    seed: Natural = 0

    @property
    def has_tiers(self) -> bool:
        """Whether there is memory below the device; a host tier of 0 bytes is none, so that a sweep can begin
        without."""
        tiers = self.tiers
        return self.cache.host_memory > 0 or (
            tiers is not None and (tiers.host.memory > 0 or tiers.disk is not None)
        )

    def sources(self) -> dict[str, str]:
        """What it names that may be a file that is read, in words, and its name."""
        named = {
            "the trace": self.workload.trace,
            "the model": self.model,
            "the model that drafts": self.speculative.model if self.speculative else None,
            "the GPU": self.gpu,
            "the clock": self.latency.parameters().get("name"),
        }
        return {what: name for what, name in named.items() if isinstance(name, str)}

    @model_validator(mode="before")
    @classmethod
    def _beams_are_not_published(cls, data: Any) -> Any:
        """Beams find no prefix: ``cache.prefix`` is none unless it is given."""
        if not isinstance(data, dict):
            return data
        sampling, cache = data.get("sampling"), data.get("cache") or {}
        if isinstance(sampling, dict) and sampling.get("mode") == "beam" and isinstance(cache, dict):
            return {**data, "cache": {"prefix": "none", **cache}}
        return data

    @model_validator(mode="before")
    @classmethod
    def _sglang_says_it_twice(cls, data: Any) -> Any:
        """What SGLang's options and ``cache`` both say needs to be given in one of the two places only."""
        if isinstance(data, dict) and engine_kind(data.get("engine")) == "sglang":
            cache = data.get("cache") or {}
            if isinstance(cache, dict):
                engine = dict(data["engine"])
                cache = dict(cache)
                sizes = (cache.get("block_size"), engine.get("page_size"))
                given = next((size for size in sizes if size is not None), None)
                for part, name in ((cache, "block_size"), (engine, "page_size")):
                    if part.get(name) is None:
                        part[name] = given
                if cache.get("eviction") is None:
                    # None where neither says one: what the engine takes depends on what it serves.
                    cache["eviction"] = engine.get("radix_eviction_policy")
                if "prefix" not in cache:
                    cache["prefix"] = "none" if engine.get("disable_radix_cache") else "radix"
                engine.setdefault("disable_radix_cache", cache["prefix"] == "none")
                return {**data, "cache": cache, "engine": engine}
        return data

    @model_validator(mode="after")
    def _one_cache(self) -> Self:
        engine, cache = self.engine, self.cache
        if isinstance(engine, EnginePart):
            if cache.prefix == "radix":
                raise ValueError("vLLM has no radix cache: cache.prefix is hash or none")
            if cache.eviction is None:
                raise ValueError("cache.eviction: leave it out for vLLM's own, lru")
            if cache.eviction not in get_args(BlockEviction):
                known = ", ".join(get_args(BlockEviction))
                raise ValueError(f"cache.eviction {cache.eviction} is SGLang's; blocks have {known}")
            if cache.prefix == "none" and cache.eviction != "lru":
                raise ValueError("cache.prefix: none caches nothing to evict: leave cache.eviction at lru")
            return self
        if cache.prefix == "hash":
            raise ValueError("SGLang's cache is a radix tree: cache.prefix is radix or none")
        if cache.groups is not None:
            raise ValueError("cache.groups are vLLM's; SGLang's pool has one")
        if cache.eviction is not None and cache.eviction not in get_args(RadixEviction):
            known = ", ".join(get_args(RadixEviction))
            raise ValueError(f"cache.eviction {cache.eviction} is of blocks; SGLang's radix tree has {known}")
        for ours, mine, theirs, other in (
            ("block_size", cache.block_size, "page_size", engine.page_size),
            (
                "eviction",
                cache.eviction,
                "radix_eviction_policy",
                engine.radix_eviction_policy or cache.eviction,
            ),
            ("prefix: none", cache.prefix == "none", "disable_radix_cache", engine.disable_radix_cache),
        ):
            if mine != other:
                raise ValueError(f"cache.{ours} and engine.{theirs} contradict each other ({mine}, {other})")
        if cache.blocks is not None and engine.max_total_tokens is not None:
            raise ValueError("cache.blocks and engine.max_total_tokens both give the pool; give one")
        return self

    @model_validator(mode="after")
    def _beams_find_nothing(self) -> Self:
        if self.sampling.mode == "beam" and self.cache.prefix == "hash":
            raise ValueError(
                "what beams have computed is not the answer and not cached: leave cache.prefix out, or none"
            )
        return self

    @model_validator(mode="after")
    def _enough_to_run(self) -> Self:
        pool = self.cache.blocks
        if isinstance(self.engine, SglangPart):
            pool = pool or self.engine.max_total_tokens
        missing = [name for name in ("model", "gpu") if getattr(self, name) is None]
        if pool is None and missing:
            are = "is" if len(missing) == 1 else "are"
            lists = " and ".join(f"kvplan {name}s list" for name in missing)
            raise ValueError(
                f"{' and '.join(map(repr, missing))} {are} missing: say which ({lists}), or give the number "
                "of blocks in 'cache.blocks'"
            )
        if self.latency.model != "linear" and (self.model is None or self.gpu is None):
            raise ValueError(
                f"latency model {self.latency.model!r} needs 'model' and 'gpu'; only 'linear' does without"
            )
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, with the field names a scenario file uses."""
        return self.model_dump(mode="json", by_alias=True)
