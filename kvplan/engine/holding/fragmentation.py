"""Where the memory of a pool goes that holds no token: observed at the points of the series.

Of the tokens that running requests hold room for,

* *used* are computed and kept,
* *reserved* are not used yet but will be before the request ends,
* *internal* fragmentation never will (the rest of a last block, the end of a slot);

and of the free room, *external* fragmentation is what lies outside the largest hole:
``1 - largest hole / free``. These are the categories of PagedAttention (arXiv:2309.06180, figure 2).
"""

from __future__ import annotations

from kvplan.engine.recorder import Metric

_SHARES = ("used", "reserved", "internal", "external")


class Fragmentation:
    """Shares over time. Means are over time while requests run, from each observation to the next."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._integral = dict.fromkeys(_SHARES, 0.0)
        self._peak = dict.fromkeys(_SHARES, 0.0)
        self._last: dict[str, float] | None = None
        self._since = 0.0

    def observe(self, t_s: float, room: int, used: int, reserved: int, free: int, largest_hole: int) -> None:
        """State at ``t_s``: tokens of room held, of those used and reserved; free blocks and a hole's."""
        self.until(t_s)
        if room <= 0:
            self._last = None
            return
        shares = {
            "used": used / room,
            "reserved": reserved / room,
            "internal": (room - used - reserved) / room,
            "external": 1.0 - largest_hole / free if free else 0.0,
        }
        for name, share in shares.items():
            if share > self._peak[name]:
                self._peak[name] = share
        self._last = shares

    def until(self, t_s: float) -> None:
        """The state last observed lasted until now."""
        if self._last is not None and t_s > self._since:
            seconds = t_s - self._since
            self._seconds += seconds
            for name, share in self._last.items():
                self._integral[name] += share * seconds
        self._since = t_s

    def metrics(self, *, contiguous: bool) -> list[Metric]:
        """Means and peaks; without an observation that lasted, the peaks are the means.

        Holes are of no consequence, and left out, where blocks need not lie side by side.
        """
        seconds, peak = self._seconds, self._peak
        mean = {name: self._integral[name] / seconds if seconds else peak[name] for name in _SHARES}
        held = "of the room that running requests hold"
        found = [
            Metric("used_share", mean["used"], "1", f"tokens computed and kept, {held}; mean over time"),
            Metric("reserved_share", mean["reserved"], "1", f"for tokens to come, {held}; mean over time"),
            Metric("internal_fragmentation", mean["internal"], "1", f"never used, {held}; mean over time"),
            Metric("internal_fragmentation_peak", peak["internal"], "1", "the same, largest"),
        ]
        if contiguous:
            outside = "free blocks outside the largest hole; mean over time"
            found.append(Metric("external_fragmentation", mean["external"], "1", outside))
            found.append(Metric("external_fragmentation_peak", peak["external"], "1", "the same, largest"))
        return found
