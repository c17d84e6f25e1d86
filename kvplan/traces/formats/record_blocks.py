"""What the prompts of rows contain: block ids or token ids, where rows have them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from kvplan.errors import DataError
from kvplan.traces.accounting import Accounting
from kvplan.traces.formats.contract import BROKEN, MAX_BLOCK_SIZE, ReadOptions
from kvplan.traces.formats.granularity import SIZES
from kvplan.traces.formats.record_columns import Columns, cell_of
from kvplan.traces.formats.record_rows import Row
from kvplan.traces.request import TokenRuns, runs_of
from kvplan.traces.settings import setting
from kvplan.traces.tokenspace import BlockIds, unknown_run

LEAST_BLOCK = 8
"""Blocks of fewer tokens are not in use; every number of ids fits one of some size."""

FITTING = 0.9
"""Share of the rows that a size of blocks must fit."""


class Contents:
    """Lengths and contents of prompts.

    Args:
        sample: the first rows, which settle how many tokens a block has.
        number: a cell as a number; raises ``ValueError``.

    Raises:
        DataError: there are block ids, and how many tokens they are cannot be told.
    """

    def __init__(
        self, columns: Columns, sample: Sequence[Row], options: ReadOptions, accounting: Accounting,
        number: Callable[[Any], float], name: str,
    ) -> None:  # fmt: skip
        self._columns = columns
        self._accounting = accounting
        self._number = number
        self._texts: dict[str, int] = {}
        self._blocks: BlockIds | None = None
        if columns.blocks is None:
            return
        size = options.block_size or self._said(sample) or self._fitting(sample, name)
        if size is not None:
            self._blocks = BlockIds(size)
            accounting.block_size = size
            accounting.note(f"contents from {columns.blocks!r}, blocks of {size:,} tokens")

    def prompt_tokens(self, cells: Mapping[str, Any]) -> int:
        """Tokens of a row's prompt.

        Raises:
            ValueError: not a whole number.
        """
        columns = self._columns
        if columns.prompt is None:
            ids = _ids(cell_of(cells, columns.tokens))
            if ids is None:
                raise ValueError(columns.tokens)
            return len(ids)
        total = self._number(cells.get(columns.prompt))
        for name in columns.added:
            total += self._number(cells.get(name) or 0)
        if not abs(total) < 1e18 or total != int(total):
            raise ValueError(total)
        return int(total)

    def prompt(self, cells: Mapping[str, Any], tokens: int, index: int) -> tuple[TokenRuns, str]:
        """(content, why the row cannot be used): one of them is empty."""
        columns = self._columns
        if columns.tokens is not None and (exact := _ids(cells.get(columns.tokens))) is not None:
            if len(exact) != tokens:
                return (), f"{columns.tokens} are not as many as the prompt's tokens"
            if not all(isinstance(token, int) and 0 <= token < 1 << 40 for token in exact):
                return (), f"{columns.tokens} are not whole numbers from 0"
            return runs_of(exact), ""
        ids = _ids(cell_of(cells, columns.blocks))
        if self._blocks is None or ids is None:
            self._accounting.without_ids += 1
            return (unknown_run(index, tokens),), ""
        if all(isinstance(h, str) for h in ids):
            ids = [self._texts.setdefault(h, len(self._texts)) for h in ids]
        elif not all(isinstance(h, int) and not isinstance(h, bool) for h in ids):
            return (), "block ids are neither whole numbers nor texts"
        content = self._blocks.runs(ids, tokens, index)
        if content is None:
            size = self._blocks.block_size
            return (), f"number of {columns.blocks} is not the prompt's tokens / {size} rounded up or down"
        return content, ""

    def _said(self, sample: Sequence[Row]) -> int | None:
        """The size of blocks that rows say."""
        for row in sample:
            try:
                size = int(self._number(cell_of(row.cells, self._columns.size)))
            except (ValueError, OverflowError):
                continue
            if 1 <= size <= MAX_BLOCK_SIZE:
                return size
        return None

    def _fitting(self, sample: Sequence[Row], name: str) -> int | None:
        """The one size of blocks that nine rows in ten have as many ids for as tokens; None without ids."""
        counted = []
        for row in sample:
            ids = _ids(cell_of(row.cells, self._columns.blocks))
            if ids:
                try:
                    counted.append((len(ids), self.prompt_tokens(row.cells)))
                except ValueError:
                    continue
        if not counted:
            return None
        fits = [
            size for size in SIZES
            if size >= LEAST_BLOCK
            and sum(ids in (tokens // size, -(-tokens // size)) for ids, tokens in counted)
            >= FITTING * len(counted)
        ]  # fmt: skip
        if len(fits) == 1:
            return fits[0]
        raise DataError(
            f"how many tokens a block of {self._columns.blocks} has cannot be told", where=f"{name}:1",
            hint=f"say it: {setting('block_size', fits[0] if fits else 16)}",
        )  # fmt: skip


def _ids(cell: Any) -> list[Any] | None:
    """Ids of a cell: a list, or a text of one; None where there are none."""
    if isinstance(cell, list):
        return cell
    if not isinstance(cell, str) or not cell.strip():
        return None
    text = cell.strip()
    if text[:1] == "[":
        try:
            found = msgspec.json.decode(text)
        except BROKEN:
            found = text.strip("[]").replace(",", " ").split()
        return found if isinstance(found, list) else None
    parts = text.replace(",", " ").replace(";", " ").split()
    return [int(part) if part.isdecimal() and len(part) < 20 else part for part in parts]
