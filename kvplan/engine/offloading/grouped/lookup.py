"""What of a request the host could bring behind what the device has: as much as all groups can."""

from __future__ import annotations

from collections.abc import Sequence

from kvplan.engine.offloading.grouped.chunk import ABSENT, IDLE, PENDING, Key
from kvplan.engine.offloading.grouped.host import HostChunks
from kvplan.engine.offloading.grouped.layout import GroupLayout, in_order_of_look_up
from kvplan.engine.offloading.grouped.offloaded import Offloaded
from kvplan.engine.remote.scheduler import LATER


class LookUp:
    """Groups ask one after the other, each may shorten what those before it found.

    Args:
        groups: of the cache; host: what is there.

    Attributes:
        state_chunk: loads end on multiples of so many tokens, as recurrent states do; 0 without states.
    """

    def __init__(self, groups: Sequence[GroupLayout], host: HostChunks) -> None:
        self.groups = groups
        self.host = host
        full, self.windows = in_order_of_look_up(groups)
        self.order = [*full, *self.windows]
        self.state_chunk = next((group.chunk_tokens for group in groups if group.hands_on), 0)

    def loadable(self, known: Offloaded, start: int, known_tokens: int) -> int:
        """Tokens after the first ``start``, at least one chunk of every group; ``LATER``; or 0.

        ``LATER`` where a chunk that counts is being written, or another request loads one of those it would
        load.
        """
        limit = known_tokens
        if self.windows:
            # The last token is computed again, and windows and states have to end before it.
            limit -= 1
            if self.state_chunk:
                limit -= limit % self.state_chunk
        found, waits = 0, False
        dropped: set[int] = set()
        """Groups with layers that draft whose last chunk is left out at this length."""
        turn: Sequence[GroupLayout] = self.order
        while turn:
            again: Sequence[GroupLayout] = ()
            window_asked = False
            for group in turn:
                size = group.chunk_tokens
                known_chunks = known_tokens // size
                limit = min(limit, known_chunks * size)
                if limit - start < size:
                    return 0
                drop = group.drafts and group.index not in dropped
                first, stop = start // size, min(-(-limit // size) + drop, known_chunks)
                hits = self._hits(known, group, first, stop, min(limit, (stop - drop) * size), drop=drop)
                if hits == 0:
                    return 0
                if hits == LATER:
                    waits = True
                else:
                    limit = min(limit, (first + hits - drop) * size)
                    if drop:
                        dropped.add(group.index)
                if limit - start < size:
                    return 0
                if limit - start < found:
                    # What those before it found was for a longer one.
                    if not group.drafts:
                        dropped.clear()
                    if waits:
                        waits, again = False, self.order
                    elif window_asked and not again:
                        again = self.windows
                window_asked |= group.window_chunks is not None
                found = limit - start
            turn = again
        if waits or (self.host.read and self._is_read(known, start, start + found)):
            return LATER
        return found

    def _hits(
        self, known: Offloaded, group: GroupLayout, first: int, stop: int, end: int, *, drop: bool
    ) -> int:
        """Chunks from ``first`` on that the group can serve of those up to ``stop``; ``LATER``.

        ``drop``: counted with the last one, which will be left out.
        """
        keys = known.chunks(group, stop)
        window = group.window_chunks
        if window is None:
            return self._run(keys, first, stop)
        wider = group.window_before(end)
        assert wider is not None
        return self._window(keys, first, stop, window + drop, wider + drop)

    def _run(self, keys: Sequence[Key], first: int, stop: int) -> int:
        readers, pending = self.host.readers, False
        place = first
        while place < stop:
            state = readers(keys[place])
            if state == ABSENT:
                break
            pending |= state == PENDING
            place += 1
        return LATER if pending else place - first

    def _window(self, keys: Sequence[Key], first: int, stop: int, window: int, wider: int) -> int:
        """The right-most run of ``window`` chunks (``wider``: if it ends the last); or one from ``first``."""
        readers = self.host.readers
        run, pending, wanted = 0, False, wider
        for place in range(stop - 1, first - 1, -1):
            state = readers(keys[place])
            if state == ABSENT:
                run, pending, wanted = 0, False, window
            else:
                run += 1
                pending |= state == PENDING
            if run == wanted:
                return LATER if pending else place - first + wanted
        return LATER if pending else run

    def _is_read(self, known: Offloaded, start: int, end: int) -> bool:
        """Whether another request loads something that is to be loaded."""
        for group in self.groups:
            size = group.chunk_tokens
            stop = -(-end // size)
            first = start // size
            window = group.window_before(end)
            if window is not None:
                first = max(first, stop - window)
            keys = known.chunks(group, stop)
            if any(self.host.readers(key) > IDLE for key in keys[first:stop]):
                return True
        return False
