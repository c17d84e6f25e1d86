"""What became of drafts, as every report shows it."""

from __future__ import annotations

from kvplan.engine.recorder import Metric
from kvplan.engine.speculation.drafted import Drafted

SECTION = "speculative decoding"


def metrics(found: Drafted) -> list[Metric]:
    """The section of a result."""
    steps, proposed, accepted = found.steps, found.proposed_tokens, found.accepted_tokens
    return [
        Metric("steps", steps, "requests", "had drafts verified, added up over all steps"),
        Metric("proposed", proposed, "tokens", "drafts verified"),
        Metric("accepted", accepted, "tokens", "drafts that stood"),
        Metric("acceptance_rate", _share(accepted, proposed), "1", "of all drafts"),
        Metric(
            "acceptance_length", 1.0 + accepted / steps if steps else None, "tokens",
            "of a verification, the sampled one included",
        ),
        *(
            Metric(f"acceptance_rate_{position + 1}", _share(stood, steps), "1",
                   f"of the steps, that had draft {position + 1} stand")
            for position, stood in enumerate(found.stood)
        ),
    ]  # fmt: skip


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
