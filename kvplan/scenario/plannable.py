"""What a plan can be made of: checked before anything is simulated, as a simulation takes its time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kvplan.errors import UnknownName, UsageError
from kvplan.scenario.rent import rent_of
from kvplan.scenario.schema import Scenario
from kvplan.specs.catalog import load_gpu
from kvplan.specs.resolve import resolve_model

COMPARED_UNDER = ("workload", "slo", "price", "latency", "accuracy", "seed")
"""Parts of the scenario that ask something of a deployment, or measure it, and are none of its choices."""


def check_fields(varied: Sequence[str]) -> None:
    """Fields that candidates may differ in.

    Raises:
        UsageError: the number of replicas, which is sought; what candidates are compared under: the cheapest
            would be the one of which the least is asked.
    """
    for key in varied:
        if "parallel.replicas".startswith(key):
            raise UsageError(
                "a plan seeks the number of replicas itself",
                where=f"--vary {key}", hint="leave parallel.replicas out",
            )  # fmt: skip
        if key.partition(".")[0] in COMPARED_UNDER:
            raise UsageError(
                "a plan compares deployments under the same workload, objectives, prices and clock",
                where=f"--vary {key}",
                hint="make one plan for each, with --set",
            )


def check_scenarios(known: Sequence[Scenario]) -> None:
    """Candidates that can be compared, of which all names are known.

    Raises:
        UsageError: no objective; pools of instances; a GPU twice, or without a price where others have one.
        UnknownName: no such GPU or model.
    """
    if not known[0].slo.limits:
        raise UsageError(
            "nothing says what is good enough: the cheapest deployment is one that meets every objective",
            where="slo", hint="say for example --set slo.ttft_p99_s=1 --set slo.tpot_p99_s=0.05",
        )  # fmt: skip
    if any(scenario.disaggregation is not None for scenario in known):
        raise UsageError(
            "a plan seeks a number of replicas, and pools of prefill and decode instances have none",
            where="disaggregation",
            hint="list sizes of the pools: kvplan sweep --vary disaggregation.decode.instances=1,2,4",
        )
    _check_gpus(known[0], dict.fromkeys(item.gpu for item in known if item.gpu is not None))
    for model in dict.fromkeys(item.model for item in known if item.model is not None):
        if model == "-":
            raise UsageError(
                "a plan reads its model once a simulation, and standard input can be read once",
                where="model", hint="save the model to a file",
            )  # fmt: skip
        resolve_model(model)


def _check_gpus(first: Scenario, called: Iterable[str]) -> None:
    names: dict[str, str] = {}
    for text in called:
        name = _own_name(text)
        if name in names:
            raise UsageError(
                f"{names[name]} and {text} are the same GPU", where="gpu", hint="give every GPU once"
            )
        names[name] = text
        rent_of(first.price, {name: 1})


def _own_name(called: str) -> str:
    try:
        return load_gpu(called).name
    except UnknownName as exc:
        exc.where = "gpu"
        raise
