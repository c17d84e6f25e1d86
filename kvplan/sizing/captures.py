"""How large the batches are of which vLLM captures CUDA graphs.

Checked by running its own start-up functions (0.9 to 0.33): 1, 2, 4, then multiples of 8 to 256 and of 16 up
to twice the sequences of a step, 512 at most, 1,024 on data-center Blackwell from 0.28 on, and no more than a
step has tokens. Before 0.11.1 multiples of 8 all the way, before 0.10 up to 512 whatever the sequences.
gpt-oss is captured up to 1,024 (0.11.0: 992). Sizes between the multiples came later: all tokens of a step,
all its sequences, sequences with their drafts.
"""

from __future__ import annotations

Version = tuple[int, int, int]

BY_SEQUENCES = (0, 10, 0)
"""Captures no more than twice the sequences of a step."""
WHOLE_STEPS = (0, 11, 0)
"""Captures steps of decodes as a whole, too, attention included."""
COARSE = (0, 11, 1)
"""Captures multiples of 16 above 256."""
COUNTS_DRAFTS = (0, 13, 0)
"""A sequence that decodes has its drafts, too, in the step."""
ALL_TOKENS = (0, 20, 1)
"""Captures a step with all its tokens."""
LARGE_STEPS = (0, 28, 0)
"""Captures up to 1,024 tokens on data-center Blackwell."""
WHOLE_DRAFTS = (0, 29, 0)
"""Captures batches of whole sequences with their drafts."""
ALL_SEQUENCES = (0, 31, 0)
"""Captures a decode of all sequences of a step."""

MANY, MOST = 512, 1024

GPT_OSS = ("gpt-oss", "gpt_oss")
"""The family, as the registry and as a configuration call it."""


def largest_batch(
    version: Version, capability: int, family: str | None, sequences: int, decode_tokens: int
) -> int:
    """Tokens of the largest batch that would be captured if a step had no limit of its own.

    Args:
        capability: the GPU's major compute capability; family: the model's.
        decode_tokens: of one sequence in a step: one, and its drafts.
    """
    if family in GPT_OSS:
        return 992 if version == WHOLE_STEPS else MOST
    if version < BY_SEQUENCES:
        return MANY
    most = MOST if capability == 10 and version >= LARGE_STEPS else MANY
    return min(2 * sequences * (decode_tokens if version >= COUNTS_DRAFTS else 1), most)


def captured_tokens(
    version: Version, largest: int, tokens: int, sequences: int, decode_tokens: int
) -> tuple[int, ...]:
    """Tokens of every batch captured, rising.

    Args:
        largest: what :func:`largest_batch` says; tokens, sequences: the limits of a step.
    """
    reach = min(largest, tokens)
    sizes = {1, 2, 4, *_multiples(version, reach, largest)}
    if tokens == reach and version >= ALL_TOKENS:
        sizes.add(tokens)
    if decode_tokens > 1 and version >= WHOLE_DRAFTS:
        most = MANY if largest <= MANY else MOST
        sizes |= {decode_tokens * batch for batch in (*_multiples(version, min(sequences, most)), 1, 2, 4)}
        sizes.add(decode_tokens * min(sequences, most))
    elif decode_tokens == 1 and version >= ALL_SEQUENCES:
        sizes.add(sequences)
    return tuple(sorted(size for size in sizes if size <= reach))


def _multiples(version: Version, reach: int, largest: int = 0) -> list[int]:
    if version < COARSE and largest <= MANY:  # gpt-oss had the later rule first
        return list(range(8, reach + 1, 8))
    return [*range(8, min(reach, 255) + 1, 8), *range(256, reach + 1, 16)]
