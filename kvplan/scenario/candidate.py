"""One kind of deployment: how many instances of it meet every objective."""

from __future__ import annotations

from typing import Any

from kvplan.errors import KvplanError
from kvplan.scenario.bracket import meets
from kvplan.scenario.outcomes import NOT_RUN, Outcome, failure
from kvplan.scenario.pools import Pool
from kvplan.scenario.schema import Scenario
from kvplan.scenario.sizes import Prices, Sizes, next_sizes


class Candidate:
    """What is known of one kind of deployment under one workload and clock.

    Args:
        scenario: of it, whatever the sizes of its pools.
        pools: of which some sizes are sought.
        most_gpus: of all instances.
        start: sizes to try first.
    """

    def __init__(
        self, scenario: Scenario, pools: tuple[Pool, ...], most_gpus: int, start: Sizes | None = None
    ) -> None:
        self.scenario, self.pools, self.most_gpus = scenario, pools, most_gpus
        self.tried: dict[Sizes, Outcome] = {}
        """Sizes to what came of them."""
        self._start = start or (1,) * len(pools)
        self.prices = Prices(
            tuple(pool.gpus for pool in pools), tuple(pool.cost for pool in pools), most_gpus
        )

    def refuse(self) -> None:
        """Note that the engine would not start, if so; whatever else is wrong simulating it tells."""
        from kvplan.scenario.hardware import would_not_start
        from kvplan.scenario.resolve import resolve_deployment

        try:
            refused = would_not_start(self.scenario, resolve_deployment(self.scenario))
        except KvplanError:
            return
        if refused is not None:
            self.tried[self._start] = failure(refused)

    def again(self) -> Candidate:
        """The same, nothing tried: for a longer workload or another clock.

        Begins at what met before, or at the most that missed, which a percentile of few requests may have
        done by chance. What cannot be simulated stays so.
        """
        shown = self.shown
        return self if shown is None else Candidate(self.scenario, self.pools, self.most_gpus, shown)

    def cost(self, sizes: Sizes) -> tuple[float, ...]:
        """By which sizes are compared: what all instances cost, then their GPUs."""
        return (self.prices.total_cost(sizes), self.prices.total_gpus(sizes), *sizes)

    @property
    def least_gpus(self) -> int:
        """Of one instance of every pool."""
        return sum(self.prices.gpus)

    @property
    def passed(self) -> Sizes | None:
        """The cheapest sizes tried that met every objective."""
        return min(filter(self.prices.allowed, self._met()), key=self.cost, default=None)

    @property
    def missed(self) -> Sizes | None:
        """The dearest sizes tried that did not, of those cheaper than what did."""
        passed = self.passed
        bad = filter(self.prices.allowed, self._missed())
        below = [sizes for sizes in bad if passed is None or self.cost(sizes) < self.cost(passed)]
        return max(below, key=self.cost, default=None)

    def _met(self) -> list[Sizes]:
        return [sizes for sizes, outcome in self.tried.items() if meets(outcome)]

    def _missed(self) -> list[Sizes]:
        return [sizes for sizes, outcome in self.tried.items() if outcome["figures"] and not meets(outcome)]

    @property
    def error(self) -> dict[str, Any] | None:
        """Why sizes cannot be simulated, which ends the search: they do not fit, or something is wrong."""
        return next((outcome["error"] for outcome in self.tried.values() if outcome["error"]), None)

    @property
    def shown(self) -> Sizes | None:
        """The sizes whose figures tell most: the answer, or the most that were tried in vain."""
        return self.passed if self.passed is not None else self.missed

    @property
    def figures(self) -> dict[str, Any] | None:
        """Of the sizes shown."""
        figures: dict[str, Any] | None = self.run["figures"]
        return figures

    @property
    def run(self) -> Outcome:
        """The outcome of the sizes shown."""
        return NOT_RUN if self.shown is None else self.tried[self.shown]

    @property
    def hopeless(self) -> bool:
        """Whether requests were turned away as too long, which they are by any number of instances."""
        return any(outcome["figures"] and outcome["figures"]["rejected"] for outcome in self.tried.values())

    def next(self) -> Sizes | None:
        """Which sizes to try next; None where the answer is known, or cannot be."""
        if self.least_gpus > self.most_gpus or self.error is not None or self.hopeless:
            return None
        return next_sizes(self._met(), self._missed(), self.prices, self._start)
