"""Strips against the same blocks one by one: who finds what, what is free, and what is evicted next."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from kvplan.engine.content import Content
from kvplan.engine.hybrid.pieces import Piece, cut_off
from kvplan.engine.hybrid.pool import SharedPool
from kvplan.engine.hybrid.strip_index import StripIndex

SIZE, BLOCKS = 2, 8
SHARED = ((0, 5),)
CONTENTS = [
    Content((*SHARED, (100, 20)), ((900, 1),)),
    Content((*SHARED, (100, 4), (200, 20)), ((900, 1),)),
    Content(((0, 30),), ((900, 1),)),
    Content(((300, 9), (350, 3), (400, 20)), ((900, 1),)),
]


def names(content: Content) -> list[int]:
    return [content.fingerprint((place + 1) * SIZE) for place in range(BLOCKS)]


NAMES = [names(content) for content in CONTENTS]


@dataclass(eq=False)
class Block:
    member: int
    name: int
    ref: int = 1


@dataclass(eq=False)
class Holder:
    content: int
    held: dict[int, list[Block]]
    pieces: list[Piece]


@dataclass
class OneByOne:
    """Tables of names, and a queue, of every block."""

    width: int
    tables: list[dict[int, list[Block]]] = field(default_factory=list)
    queue: list[Block] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tables = [{} for _ in range(self.width)]

    def find(self, name: int) -> list[Block] | None:
        found = [table[name][0] for table in self.tables if table.get(name)]
        return found if len(found) == self.width else None

    def publish(self, name: int) -> list[Block]:
        new = [Block(member, name) for member in range(self.width)]
        for block, table in zip(new, self.tables, strict=True):
            table.setdefault(name, []).append(block)
        return new

    def hold(self, block: Block) -> None:
        if not block.ref:
            self.queue.remove(block)
        block.ref += 1

    def let_go(self, entries: list[list[Block]]) -> None:
        for member in range(self.width):
            for entry in reversed(entries):
                entry[member].ref -= 1
                if not entry[member].ref:
                    self.queue.append(entry[member])

    def evict(self) -> None:
        block = self.queue.pop(0)
        self.tables[block.member][block.name].remove(block)

    def run(self, content: int, stop: int, most: int) -> tuple[int, int]:
        end = stop
        while end and self.find(NAMES[content][end - 1]) is None:
            end -= 1
        start = end
        while start and end - start < most and self.find(NAMES[content][start - 1]) is not None:
            start -= 1
        return start, end


moves = st.lists(
    st.tuples(
        st.sampled_from(["publish", "publish", "hold", "hold", "first", "release", "release", "evict"]),
        st.integers(0, 20), st.integers(0, BLOCKS), st.integers(1, BLOCKS),
    ),
    max_size=25,
)  # fmt: skip


@settings(max_examples=400)
@given(st.integers(1, 3), moves)
def test_strips_are_blocks(width: int, played: list[tuple[str, int, int, int]]) -> None:
    pool = SharedPool(10_000)
    index, model = StripIndex(SIZE, width, pool), OneByOne(width)
    holders: list[Holder] = []
    for move, number, first, second in played:
        content = number % len(CONTENTS)
        if move == "publish":
            start, stop = min(first, second), max(first, second)
            if start < stop:
                held = {place: model.publish(NAMES[content][place]) for place in range(start, stop)}
                holders.append(Holder(content, held, index.publish(CONTENTS[content], start, stop)))
        elif move == "hold":
            start, stop = index.run(CONTENTS[content], first, second)
            assert (start, stop) == model.run(content, first, second)
            tail = index.find(CONTENTS[content], start, stop)
            found = {place: model.find(NAMES[content][place]) or [] for place in range(start, stop)}
            assert tail.unheld == sum(not block.ref for entry in found.values() for block in entry)
            for entry in found.values():
                for block in entry:
                    model.hold(block)
            index.hold(tail.pieces)
            holders.append(Holder(content, found, tail.pieces))
        elif move == "evict":
            count = min(number // 4, len(model.queue))
            pool.blank = 0
            pool.evict(count)
            for _ in range(count):
                model.evict()
        elif holders:
            holder = holders[number % len(holders)]
            going = sorted(holder.held)[:1]
            if move == "release":
                going = [place for place in sorted(holder.held) if place < first]
                index.let_go(cut_off(holder.pieces, first))
            elif going:
                index.let_go_first(holder.pieces)
            model.let_go([holder.held.pop(place) for place in going])
        assert pool.cached == len(model.queue)
        holders = [holder for holder in holders if holder.held]
    for number, content in enumerate(CONTENTS):
        for stop in range(BLOCKS + 1):
            assert index.run(content, stop, BLOCKS) == model.run(number, stop, BLOCKS)
    for holder in holders:
        index.let_go(cut_off(holder.pieces, BLOCKS))
        assert not holder.pieces
    pool.evict(pool.cached)
    assert not index.lines
    assert pool.head is None
