"""What a cache keeps beside its tokens, in the host: recurrent states, or sliding windows."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

from kvplan.engine.content import BlockKey, Content
from kvplan.engine.hicache.copies import NOTHING, Parcel
from kvplan.engine.hicache.host import HostMemory
from kvplan.engine.hicache.index import HierarchicalIndex
from kvplan.engine.hicache.node import HOST_MARKS, MIXED_IN, HostedNode

BESIDE_MARKS = (*HOST_MARKS, "beside_on_host", "writing")
"""Attributes of a ``BesideNode``, for the classes that mix it in."""


class BesideNode(HostedNode):
    """A node that may have more than tokens, each on the device, in the host, or in both; the more may be
    nowhere. It is on the device only where the tokens are; in the host it may be without them.

    Mixed into a node that has these marks.

    Attributes:
        beside_on_host: whether the host has it.
        writing: the node with whose copy to the host something of this one is under way.
    """

    __slots__ = MIXED_IN

    children: dict[BlockKey, BesideNode]  # type: ignore[assignment]
    parent: BesideNode | None
    beside_on_host: bool
    writing: BesideNode | None

    def __init__(
        self, content: Content, start: int, end: int, parent: HostedNode | None, key: BlockKey, now: float
    ) -> None:
        super().__init__(content, start, end, parent, key, now)
        self.beside_on_host = False
        self.writing = None

    @property
    @abstractmethod
    def beside_on_device(self) -> bool:
        """Whether the device has it."""


class HostBeside(HostMemory):
    """The host's pool beside that of tokens, counted as that one is, and the order in which things leave it.

    In the order is what only the host has.
    """

    __slots__ = ()

    @abstractmethod
    def enter(self, node: BesideNode) -> None:
        """A node's is only in the host now."""

    @abstractmethod
    def leave(self, node: BesideNode) -> None:
        """A node's does not go any more, or is gone."""

    @abstractmethod
    def next_out(self) -> BesideNode | None:
        """Whose goes next; None: nobody's may."""


class BesideIndex(HierarchicalIndex):
    """A radix cache that goes on in the host with what it keeps beside its tokens.

    Attributes:
        host_beside: the host's pool for that.
    """

    host_beside: HostBeside

    # -- what a kind of cache says ----------------------------------------------------------------------

    @abstractmethod
    def _units(self, node: BesideNode) -> int:
        """What a node's takes of the host's pool."""

    @abstractmethod
    def _unsaved(self, node: BesideNode) -> list[BesideNode]:
        """Nodes of which the host lacks what travels with the copy of one, last first."""

    @abstractmethod
    def _needed(self, last: BesideNode) -> Iterable[BesideNode]:
        """Nodes whose must be on the device to use a prefix up to a node, last first."""

    @abstractmethod
    def _parcel(self, tokens: int, units: int) -> Parcel:
        """What travels: tokens, and so many units of the host's pool."""

    # -- to the host ------------------------------------------------------------------------------------

    def _send(self, node: HostedNode) -> bool:
        """As the base class; what is on its way already is not sent again."""
        assert isinstance(node, BesideNode)
        carried = self._unsaved(node)
        parcel = self._store(node)
        if parcel is None:
            return False
        if parcel != NOTHING:
            for each in (*carried, node):
                each.writing = node
            self._hold_for_write(node)
            self.copies.write(node, parcel)
        return True

    def _landed(self, node: HostedNode) -> None:
        """As the base class; pieces that were cut off meanwhile have arrived, too."""
        assert isinstance(node, BesideNode)
        piece: BesideNode | None = node
        while piece is not None:
            if piece.writing is node:
                piece.writing = None
            piece = piece.parent
        super()._landed(node)

    def _store(self, node: HostedNode) -> Parcel | None:
        """As the base class, with what lies beside."""
        assert isinstance(node, BesideNode)
        memory, tokens, carried = self.host_beside, 0 if node.on_host else node.tokens, self._unsaved(node)
        if tokens and not self._has_room(tokens):
            return None
        units = sum(map(self._units, carried))
        if units > memory.free:
            self._evict_beside(units)
            if units > memory.free:
                return None
        if tokens:
            self.host.put(tokens)
            node.on_host = True
        if units:
            memory.put(units)
        for each in carried:
            each.beside_on_host = True
        return self._parcel(tokens, units)

    def _evict_beside(self, units: int) -> None:
        """Things leave the host's pool until so many units went or nothing is left; where nothing hangs
        below, the tokens of their node go, too."""
        while units > 0:
            node = self.host_beside.next_out()
            if node is None:
                return
            units -= self._units(node)
            if node.ticket and not node.on_device:
                self._forget(node)
            else:
                self._drop_from_host(node)

    def _drop_from_host(self, node: BesideNode) -> None:
        self.host_beside.leave(node)
        self.host_beside.drop(self._units(node))
        node.beside_on_host = False

    def _forget(self, node: HostedNode) -> None:
        """As the base class, with what lies beside."""
        assert isinstance(node, BesideNode)
        if node.beside_on_host:
            self._drop_from_host(node)
        super()._forget(node)

    def _save_first(self, node: BesideNode) -> None:
        """``write_back``: what leaves the device from amidst the tree is copied with its tokens, if the host
        has neither."""
        if self.duplicates is None or node.on_host or node.beside_on_host:
            return
        units = sum(map(self._units, self._unsaved(node)))
        if units > self.host_beside.free:
            self._evict_beside(units)
        self._save(node)

    # -- from the host ----------------------------------------------------------------------------------

    def pin(self, node: HostedNode) -> None:
        """As the base class, with what the load needs."""
        assert isinstance(node, BesideNode)
        super().pin(node)
        for each in self._needed(node):
            if not each.beside_on_device:
                self.host_beside.leave(each)

    def unpin(self, node: HostedNode) -> None:
        """As the base class; what was not loaded after all goes last."""
        assert isinstance(node, BesideNode)
        super().unpin(node)
        for each in self._needed(node):
            if each.beside_on_host and not each.beside_on_device:
                self.host_beside.enter(each)

    def _loaded(self, last: HostedNode) -> None:
        """As the base class."""
        super()._loaded(last)
        self.unpin(last)

    def _split(self, child: HostedNode, position: int) -> HostedNode:  # type: ignore[override]
        """As the base class; both parts are on their way."""
        upper = super()._split(child, position)
        assert isinstance(child, BesideNode)
        assert isinstance(upper, BesideNode)
        upper.writing = child.writing
        return upper
