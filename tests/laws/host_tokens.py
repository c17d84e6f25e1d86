"""A slow HiCache: tokens one by one, every question answered by looking at all nodes."""

from __future__ import annotations

from kvplan.engine.content import Content
from kvplan.engine.hicache.copies import Copies, Parcel
from kvplan.engine.hicache.host import HostMemory
from kvplan.engine.hicache.index import LOAD_BACK_TOKENS, HierarchicalIndex, WritePolicy
from kvplan.engine.sglang.eviction import EvictionPolicy
from kvplan.engine.sglang.found import Found

assert LOAD_BACK_TOKENS == 10


class Piece:
    """A node."""

    def __init__(self, tokens: tuple[int, ...], parent: Piece | None, now: float) -> None:
        self.tokens = tokens
        self.parent = parent
        self.children: dict[tuple[int, ...], Piece] = {}
        self.lock_ref = self.hit_count = self.priority = 0
        self.last_access = self.creation = now
        self.on_device, self.on_host = True, False
        self.loaded_for: Piece | None = None
        self.history = self.end
        for above in self.path:
            above.history = max(above.history, self.end)

    @property
    def path(self) -> list[Piece]:
        """From the node up, without the root."""
        return [] if self.parent is None else [self, *self.parent.path]

    @property
    def start(self) -> int:
        """Tokens before it."""
        return self.end - len(self.tokens)

    @property
    def end(self) -> int:
        """Tokens down to the node's end."""
        return sum(len(piece.tokens) for piece in self.path)


class HostTokens(HierarchicalIndex):
    """The index's contract, kept by hand; only the books of the host and of the copies are the same."""

    def __init__(
        self,
        page_size: int,
        policy: EvictionPolicy,
        write: WritePolicy,
        host: HostMemory,
        copies: Copies,
    ) -> None:
        self.page_size = page_size
        self.key = policy
        self.write = write
        self.host = host
        self.copies = copies
        self.clock = 0.0
        self.root = Piece((), None, 0.0)
        self.evicted = 0
        self.twice: list[Piece] = []
        """Nodes that were seen in both memories, in that order."""
        self.writing: list[Piece] = []

    # -- questions --------------------------------------------------------------------------------------

    def pieces(self) -> list[Piece]:
        """Every node but the root."""
        found = list(self.root.children.values())
        for piece in found:
            found += piece.children.values()
        return found

    @property
    def evictable(self) -> int:
        return sum(len(piece.tokens) for piece in self.pieces() if piece.on_device and not piece.lock_ref)

    @property
    def protected(self) -> int:
        return sum(len(piece.tokens) for piece in self.pieces() if piece.on_device and piece.lock_ref)

    def device_leaves(self) -> list[Piece]:
        """Those that may leave the device."""
        return [
            piece
            for piece in self.pieces()
            if piece.on_device
            and not piece.lock_ref
            and not any(child.on_device for child in piece.children.values())
        ]

    def host_leaves(self) -> list[Piece]:
        """Those that may leave the host."""
        return [
            piece
            for piece in self.pieces()
            if not piece.on_device and not piece.lock_ref and not piece.children
        ]

    # -- walks ------------------------------------------------------------------------------------------

    def tick(self) -> float:
        self.clock += 1
        return self.clock

    def tokens(self, content: Content, length: int) -> tuple[int, ...]:
        """The first tokens, whole pages."""
        found: list[int] = []
        for end, shift in zip(content.ends, content.shifts, strict=True):
            found += range(len(found) + shift, end + shift)
        return tuple(found[: length - length % self.page_size])

    def below(self, piece: Piece, wanted: tuple[int, ...]) -> tuple[Piece | None, int]:
        """The child that shares a page with what is wanted, and how many tokens it shares."""
        for child in piece.children.values():
            alike = 0
            for mine, other in zip(child.tokens, wanted, strict=False):
                if mine != other:
                    break
                alike += 1
            alike -= alike % self.page_size
            if alike:
                return child, alike
        return None, 0

    def cut(self, child: Piece, keep: int) -> Piece:
        """Split a node."""
        upper = Piece(child.tokens[:keep], child.parent, self.tick())
        upper.creation, upper.lock_ref, upper.hit_count = child.creation, child.lock_ref, child.hit_count
        upper.priority = child.priority
        upper.history = child.history
        upper.on_device, upper.on_host, upper.loaded_for = child.on_device, child.on_host, child.loaded_for
        assert child.parent is not None
        child.parent.children[child.tokens[: self.page_size]] = upper
        child.parent = upper
        child.tokens = child.tokens[keep:]
        upper.children[child.tokens[: self.page_size]] = child
        child.last_access = self.tick()
        self.see(upper)
        return upper

    def last_on_device(self, node: Piece) -> Piece:  # type: ignore[override]
        return next((piece for piece in node.path if piece.on_device), self.root)

    def match(self, content: Content, limit: int) -> tuple[int, Piece]:
        wanted = self.tokens(content, max(limit, 0))
        if not wanted:
            return 0, self.root
        piece = self.root
        while wanted:
            child, alike = self.below(piece, wanted)
            if child is None:
                break
            whole = alike == len(child.tokens)
            piece = child if whole else self.cut(child, alike)
            wanted = wanted[alike:]
            if not whole:
                break
        now = self.tick()
        for back, seen in enumerate(piece.path):
            seen.last_access = now - back * 1e-5
        return sum(len(seen.tokens) for seen in piece.path if seen.on_device), piece

    def look(self, content: Content, limit: int) -> Found[Piece]:  # type: ignore[override]
        held, last = self.match(content, limit)
        return Found(held, self.last_on_device(last), last.end, last, last.end - held)

    def found(self, last: Piece) -> int:  # type: ignore[override]
        return last.end

    def insert(self, content: Content, length: int, priority: int, counted: int) -> int:
        return self.enter(content, length, priority, counted)[0]

    def advance(self, node, content, length, priority, counted):
        present, found = self.enter(content, length, priority, counted)
        self.unlock(node)
        self.lock(found)
        return present, found

    def conclude(self, node, content, length, prompt, priority, counted) -> int:
        present = self.insert(content, length, priority, counted)
        self.insert(content, prompt, priority + 1, max(counted, length // self.page_size * self.page_size))
        return present

    def enter(self, content: Content, length: int, priority: int, counted: int) -> tuple[int, Piece]:
        """Insert; tokens that were on the device, and the last node."""
        wanted, piece, there = self.tokens(content, length), self.root, 0
        while wanted:
            child, alike = self.below(piece, wanted)
            if child is None:
                piece = Piece(wanted, piece, self.tick())
                assert piece.parent is not None
                piece.parent.children[wanted[: self.page_size]] = piece
                alike = len(wanted)
            else:
                child.last_access = self.tick()
                piece = child if alike == len(child.tokens) else self.cut(child, alike)
                if piece.on_device:
                    there += alike
                else:
                    piece.on_device = True
                    self.see(piece)
            wanted = wanted[alike:]
            piece.priority = max(piece.priority, priority) if child is not None else priority
            if piece.end > counted and self.write != "write_back":
                piece.hit_count += 1
                if piece.hit_count >= (1 if self.write == "write_through" else 2):
                    self.copy(piece)
        return there, piece

    def lock(self, node: Piece) -> None:
        for piece in node.path:
            piece.lock_ref += 1

    def unlock(self, node: Piece) -> None:
        for piece in node.path:
            piece.lock_ref -= 1
            assert piece.lock_ref >= 0

    # -- the host ---------------------------------------------------------------------------------------

    def see(self, piece: Piece) -> None:
        """Whether a node is in both memories, for ``write_back``."""
        both = piece.on_device and piece.on_host and piece.loaded_for is None
        if both and piece not in self.twice:
            self.twice.append(piece)
        elif not both and piece in self.twice:
            self.twice.remove(piece)

    def copy(self, piece: Piece) -> None:
        """Write a node, and those above it, to the host."""
        for each in reversed(piece.path):
            if not each.on_host:
                if not self.room(len(each.tokens)):
                    return
                self.host.put(len(each.tokens))
                each.on_host = True
                self.lock(each)
                self.copies.write(_Sized(each), Parcel(len(each.tokens)))

    def room(self, tokens: int) -> bool:
        """Make room in the host."""
        short = tokens - self.host.free
        if short > 0 and self.write == "write_back":
            self.give_up_copies(short)
        while self.host.free < tokens:
            leaves = self.host_leaves()
            if not leaves:
                return False
            self.remove(min(leaves, key=self.key))
        return True

    def give_up_copies(self, short: int) -> None:
        enough = self.host.free + short
        for sparing in (True, False):
            if self.host.free >= enough:
                return
            for piece in list(self.twice):
                if self.host.free >= enough:
                    break
                if not (piece.on_device and piece.on_host):
                    self.twice.remove(piece)
                elif piece.loaded_for is None and not (sparing and piece in self.device_leaves()):
                    piece.on_host = False
                    self.host.drop(len(piece.tokens))
                    self.twice.remove(piece)

    def remove(self, piece: Piece) -> None:
        """A node is gone."""
        if piece.on_host:
            self.host.drop(len(piece.tokens))
        if piece in self.twice:
            self.twice.remove(piece)
        assert piece.parent is not None
        del piece.parent.children[piece.tokens[: self.page_size]]

    def load(self, last: Piece) -> int:
        path = [piece for piece in last.path if not piece.on_device]
        for piece in path:
            piece.on_device = True
            if self.write == "write_back":
                piece.loaded_for = last
        tokens = sum(len(piece.tokens) for piece in path)
        self.lock(last)
        self.copies.read(_Sized(last), Parcel(tokens))
        return tokens

    def settle(self) -> None:
        self.copies.flush()
        for arrived in (self.copies.writes, self.copies.loads):
            while arrived and arrived[0][0] <= self.copies.now:
                for sized in arrived.popleft()[1]:
                    self.unlock(sized.piece)
                    for piece in sized.piece.path:
                        if piece.loaded_for is sized.piece:
                            piece.loaded_for = None
                            self.see(piece)

    def evict(self, tokens: int) -> int:
        freed = 0
        while freed < tokens:
            leaves = self.device_leaves()
            if not leaves:
                break
            leaf = min(leaves, key=self.key)
            freed += len(leaf.tokens)
            if not leaf.on_host and self.write == "write_back" and self.room(len(leaf.tokens)):
                self.host.put(len(leaf.tokens))
                leaf.on_host = True
                self.copies.write_and_wait(Parcel(len(leaf.tokens)))
                self.see(leaf)
            leaf.on_device = False
            if not leaf.on_host:
                doomed = [piece for piece in self.pieces() if leaf in piece.path]
                for piece in sorted(doomed, key=lambda piece: -piece.end):
                    self.remove(piece)
        self.evicted += freed
        return freed


class _Sized:
    """A node as ``Copies`` gives it back."""

    def __init__(self, piece: Piece) -> None:
        self.piece = piece
