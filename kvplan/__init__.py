"""kvplan: how much memory a model's KV cache takes, what fits, and what happens to it under traffic.

The public interface, imported on first use:

* models and hardware: ``load_model``, ``load_gpu``, ``load_link``, ``resolve_model``
* sizes: ``size_model``, ``fit_model``, ``Parallel``, ``kv_format``
* traffic: ``Request``, ``open_trace``, ``synthesize``
* simulation: ``load_scenario``, ``Run``, ``EngineConfig``, ``make_engine``, ``Recorder``, ``LatencyModel``,
  ``StepBatch``
* results: ``Result``, ``load_result``, ``render_html``, ``render_markdown``
* errors: ``KvplanError`` and its children in ``kvplan.errors``
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "EngineConfig": "kvplan.engine.config",
    "KvplanError": "kvplan.errors",
    "LatencyModel": "kvplan.engine.protocols",
    "Parallel": "kvplan.sizing.parallel",
    "Recorder": "kvplan.engine.recorder",
    "Request": "kvplan.traces.request",
    "Result": "kvplan.reporting.result",
    "Run": "kvplan.scenario.run",
    "StepBatch": "kvplan.engine.protocols",
    "fit_model": "kvplan.sizing.capacity",
    "kv_format": "kvplan.specs.formats",
    "load_gpu": "kvplan.specs.catalog",
    "load_link": "kvplan.specs.catalog",
    "load_model": "kvplan.specs.catalog",
    "load_result": "kvplan.reporting.loading",
    "load_scenario": "kvplan.scenario.load",
    "make_engine": "kvplan.engine.engine",
    "open_trace": "kvplan.traces.trace",
    "render_html": "kvplan.reporting.html",
    "render_markdown": "kvplan.reporting.markdown",
    "resolve_model": "kvplan.specs.resolve",
    "size_model": "kvplan.sizing.size",
    "synthesize": "kvplan.traces.synthesize",
}

__all__ = [
    "EngineConfig", "KvplanError", "LatencyModel", "Parallel", "Recorder", "Request", "Result", "Run",
    "StepBatch", "fit_model", "kv_format", "load_gpu", "load_link", "load_model", "load_result",
    "load_scenario", "make_engine", "open_trace", "render_html", "render_markdown", "resolve_model",
    "size_model", "synthesize",
]  # fmt: skip

if TYPE_CHECKING:
    from kvplan.engine.config import EngineConfig
    from kvplan.engine.engine import make_engine
    from kvplan.engine.protocols import LatencyModel, StepBatch
    from kvplan.engine.recorder import Recorder
    from kvplan.errors import KvplanError
    from kvplan.reporting.html import render_html
    from kvplan.reporting.loading import load_result
    from kvplan.reporting.markdown import render_markdown
    from kvplan.reporting.result import Result
    from kvplan.scenario.load import load_scenario
    from kvplan.scenario.run import Run
    from kvplan.sizing.capacity import fit_model
    from kvplan.sizing.parallel import Parallel
    from kvplan.sizing.size import size_model
    from kvplan.specs.catalog import load_gpu, load_link, load_model
    from kvplan.specs.formats import kv_format
    from kvplan.specs.resolve import resolve_model
    from kvplan.traces.request import Request
    from kvplan.traces.synthesize import synthesize
    from kvplan.traces.trace import open_trace


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'kvplan' has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
