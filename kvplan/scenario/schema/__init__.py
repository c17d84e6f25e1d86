"""The schema of a scenario, one file a part."""

from kvplan.scenario.schema.cache import CachePart
from kvplan.scenario.schema.engine import EnginePart
from kvplan.scenario.schema.scenario import Scenario
from kvplan.scenario.schema.sglang import SglangPart
from kvplan.scenario.schema.workload import SloPart, WorkloadPart

__all__ = ["CachePart", "EnginePart", "Scenario", "SglangPart", "SloPart", "WorkloadPart"]
