"""Running a scenario: deployment, clock, workload, engine, and the ``kvplan.result/1`` they produce."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from kvplan.engine.engine import make_engine
from kvplan.engine.recorder import Recorder, RequestRow
from kvplan.errors import KvplanError, UsageError
from kvplan.latency.build import Clock, build_latency
from kvplan.provenance import provenance
from kvplan.scenario.deployment import Deployment, resolve_deployment
from kvplan.scenario.schema import Scenario
from kvplan.scenario.summary import latency_objects, series_object, slo_objects, throughput_object
from kvplan.scenario.workload import Workload, open_workload
from kvplan.sizing.capacity import capacity_curve
from kvplan.sizing.fit import bill_terms
from kvplan.sizing.size import size_model
from kvplan.specs.formats import check_fits, kv_format
from kvplan.traces.request import Request

CURVE_FORMATS = ("bf16", "fp8", "int4")
"""KV formats whose capacity the report shows beside the deployment's own."""


class Run:
    """One simulation, from a scenario to a result.

    Args:
        scenario: what to simulate.
        engine: ``fast`` (the default) or ``reference`` (block by block, for audits).
    """

    def __init__(self, scenario: Scenario, *, engine: str = "fast") -> None:
        self.scenario = scenario
        self.deployment: Deployment = resolve_deployment(scenario)
        self.clock: Clock = self._clock()
        self.workload: Workload = open_workload(scenario.workload, scenario.seed)
        self.recorder = Recorder()
        self.interruption: str | None = None
        self._engine_name = engine

    def _clock(self) -> Clock:
        deployment, fit = self.deployment, self.deployment.fit
        return build_latency(
            {"model": self.scenario.latency.model, **self.scenario.latency.parameters()},
            model=deployment.model,
            gpu=deployment.gpu,
            parallel=deployment.parallel,
            kv_format=None if fit is None else fit.kv_format,
            weights_format=None if fit is None else fit.weights_format,
            block_size=deployment.config.block_size,
        )

    def execute(
        self,
        *,
        on_request: Callable[[RequestRow], None] | None = None,
        on_decision: Callable[[str], None] | None = None,
        on_progress: Callable[[int, float], None] | None = None,
    ) -> None:
        """Simulate; results so far are kept when the user interrupts or a model misbehaves.

        ``on_progress`` is called now and then with requests taken in and simulated seconds.

        Raises:
            KvplanError: the run failed; ``result()`` still tells what was done until then.
        """
        self.recorder = Recorder(on_request=on_request, on_decision=on_decision)
        engine = make_engine(self._engine_name, self.deployment.config, self.clock.model, self.recorder)
        requests: Iterable[Request] = self.workload.requests()
        if on_progress is not None:
            requests = _reporting(requests, on_progress)
        try:
            engine.run(requests)
        except KeyboardInterrupt:
            self.interruption = "interrupted by the user"
        except KvplanError as exc:
            self.interruption = exc.message
            raise
        finally:
            engine.close()

    def result(self, command: Sequence[str]) -> dict[str, Any]:
        """The ``kvplan.result/1`` document."""
        recorder, deployment, scenario = self.recorder, self.deployment, self.scenario
        latency, distributions = latency_objects(recorder)
        config = deployment.config
        return {
            "schema": "kvplan.result/1",
            "complete": self.interruption is None,
            "scenario": scenario.to_dict(),
            "model": self._model(),
            "gpu": self._gpu(),
            "memory": self._memory(),
            "pool": {
                "num_blocks": config.num_blocks,
                "usable_blocks": config.usable_blocks,
                "block_size": config.block_size,
            },
            "capacity": self._capacity(),
            "totals": recorder.totals.to_dict(),
            "latency": latency,
            "throughput": throughput_object(recorder),
            "distributions": distributions,
            "series": series_object(recorder),
            "slo": slo_objects(scenario.slo, latency),
            "accuracy": self.clock.accuracy(),
            "trace": self.workload.to_dict(recorder.totals.requests),
            "assumptions": [asdict(item) for item in (*deployment.assumptions, *self.clock.assumptions)],
            "warnings": self._warnings(),
            "provenance": provenance(command, scenario.seed, self.workload.inputs()),
        }

    def _model(self) -> dict[str, Any] | None:
        model, fit = self.deployment.model, self.deployment.fit
        if model is None:
            return None
        form = None if fit is None else fit.kv_format
        report = size_model(
            model, context_tokens=self.deployment.config.max_model_len, kv=form or self.scenario.cache.dtype
        )
        kinds = ", ".join(f"{row.count} x {row.kind}" for row in report.rows)
        return {
            "name": model.name,
            "summary": f"{model.num_layers} layers: {kinds}",
            "kv_bytes_per_token": report.kv_bytes_per_token,
            "state_bytes_per_sequence": report.state_bytes_per_sequence,
            "weights_bytes": None if fit is None else fit.weights_bytes,
            "kv_dtype": report.request.form.name,
        }

    def _gpu(self) -> dict[str, Any] | None:
        gpu = self.deployment.gpu
        if gpu is None:
            return None
        return {
            "name": gpu.name,
            "memory_bytes": gpu.usable_memory_bytes,
            "bandwidth_bytes_per_s": gpu.bandwidth_bytes_per_s,
            "count": self.deployment.parallel.gpus,
        }

    def _memory(self) -> dict[str, Any] | None:
        fit = self.deployment.fit
        if fit is None:
            return None
        lines = {term.name: term for term in bill_terms(fit)}
        bill = [
            {"name": name, "bytes": int(lines[name].value), "formula": lines[name].formula,
             "source": lines[name].source}
            for name in ("weights", "activations", "cuda_graphs", "runtime", "kv_pool")
            if name in lines and lines[name].value > 0
        ]  # fmt: skip
        total = fit.binding.bill.total_bytes
        unused = total - sum(int(item["bytes"]) for item in bill)
        if unused > 0:
            why = "left outside gpu_memory_utilization"
            bill.append({"name": "unused", "bytes": unused, "formula": why, "source": "kvplan"})
        return {
            "bill": bill,
            "total_bytes": total,
            "num_blocks": fit.num_blocks,
            "block_size": fit.block_size,
            "kv_tokens": fit.kv_tokens,
            "max_concurrency": float(fit.max_concurrency),
            "max_concurrency_context": fit.max_model_len,
        }

    def _capacity(self) -> list[dict[str, Any]] | None:
        deployment, fit = self.deployment, self.deployment.fit
        if deployment.model is None or deployment.gpu is None or fit is None:
            return None
        engine = self.scenario.engine
        formats = list(dict.fromkeys((fit.kv_format.name, *CURVE_FORMATS)))
        curves = capacity_curve(
            deployment.model,
            deployment.gpu,
            kv_dtypes=[name for name in formats if _usable(name, deployment)],
            parallel=deployment.parallel,
            weights_dtype=self.scenario.weights_dtype,
            version=engine.version,
            utilization=engine.gpu_memory_utilization,
            max_num_batched_tokens=engine.max_num_batched_tokens,
            max_num_seqs=engine.max_num_seqs,
            block_size=self.scenario.cache.block_size,
            cuda_graphs=not engine.enforce_eager,
            async_scheduling=engine.async_scheduling,
        )
        return [
            {"dtype": name, "points": [{"context_tokens": c, "max_concurrency": n} for c, n in points]}
            for name, points in curves
        ]

    def _warnings(self) -> list[str]:
        found = list(self.deployment.warnings)
        if self.interruption is not None:
            found.append(f"stopped early: {self.interruption}")
        found.extend(self.clock.warnings)
        for reason, count in sorted(self.recorder.rejections.items()):
            found.append(f"{count:,} requests rejected by the front end: {reason}")
        return found


def _usable(name: str, deployment: Deployment) -> bool:
    """Whether a format applies to every attention layer of the model (a latent-only one may not)."""
    assert deployment.model is not None
    try:
        for group in deployment.model.groups():
            if group.block.attention is not None:
                check_fits(kv_format(name), group.block.attention)
    except UsageError:
        return False
    return True


def _reporting(requests: Iterable[Request], report: Callable[[int, float], None]) -> Iterator[Request]:
    for count, request in enumerate(requests):
        if count % 256 == 0:
            report(count, request.arrival_s)
        yield request
