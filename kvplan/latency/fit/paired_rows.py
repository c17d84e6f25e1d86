"""Tables that time sending tokens to experts and back side by side, as one row of dispatch tables each.

First tables of DeepEP have a row for both directions: ``op_name`` says the kernels (``normal`` or ``ll``),
and ``dispatch_transmit_us``, ``dispatch_notify_us``, ``combine_transmit_us``, ``combine_notify_us`` (or one
column ``_avg_t_us`` a direction) their times in microseconds. Tables that followed have a row for each
direction (``moe_a2a``). Machines of first tables have nodes of eight GPUs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

PHASES = ("dispatch", "combine")
"""To the experts and back."""
NODE = 8
"""GPUs of a node of HGX."""
_BACKENDS = {"normal": "deepep_ht", "ll": "deepep_ll"}
"""What later tables call the kernels."""
_NAMES = {"num_token": "num_tokens", "num_topk": "topk"}
_TIMES = ("_transmit_us", "_notify_us", "_avg_t_us")


def one_direction_a_row(frame: pd.DataFrame) -> pd.DataFrame:
    """The same measurements with a row for each direction; other tables as they are."""
    import pandas as pd

    timed = {
        phase: [f"{phase}{ending}" for ending in _TIMES if f"{phase}{ending}" in frame] for phase in PHASES
    }
    if not all(timed.values()) or not {"op_name", "node_num", *_NAMES} <= set(frame.columns):
        return frame
    paired = frame["op_name"].isin(_BACKENDS)
    rows = frame[paired].rename(columns=_NAMES)
    return pd.concat(
        [
            frame[~paired],
            *(rows.assign(
                op_name="moe_a2a", comm_backend=rows["op_name"].map(_BACKENDS), phase=phase,
                comm_dtype="default", ep_size=NODE * pd.to_numeric(rows["node_num"], errors="coerce"),
                latency_us=rows[columns].apply(pd.to_numeric, errors="coerce").sum(axis=1, skipna=False),
            )
            for phase, columns in timed.items()),
        ],
        ignore_index=True,
    )  # fmt: skip
