"""Merkle trees as Bitcoin builds them, and a cache of one level of a growing tree.

``Merkle`` is pure. ``MerkleCache`` owns one level, part way up, of the tree over a long list of
hashes that grows at its end and is sometimes cut back (block hashes). A branch then needs only the
leaves of one segment, and that level: about two square roots of the length instead of all of it.
The cache keeps the last used trees below and above that level whole: clients ask for the same
checkpoint, and for neighbouring blocks. Such a proof takes 10 us instead of 2.4 ms (900,000 blocks).

``MerkleCache`` runs in the event loop, but any thread may call ``truncate``, at any moment, also
while a query awaits leaves. Each truncation starts a new *generation*; the cache drops leaves read
in an older one and reads them again, so leaves of an abandoned chain never enter the level. All
hashes are 32 bytes in natural order.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence

from electrumx.lib.hash import double_sha256
from electrumx.lib.lru import LRUCache

#: all hashes of a tree, level by level
Levels = list[list[bytes]]

# Hashing more leaves than this takes over about 2 ms and leaves the event loop for a thread.
THREAD_LEAF_COUNT = 2000
# Trees to keep: of segments, and above them. Each has about four square roots of the length
# of hashes, 130 kB for a million.
SEGMENTS = 16
TOPS = 8


def _check_integer(name: str, value: object) -> None:
    if not isinstance(value, int):
        raise TypeError(f"{name} must be an integer")


class Merkle:
    """Roots, branches and levels of Merkle trees over a pair-hashing function.

    A level with an odd number of nodes above the root repeats its last one.
    """

    def __init__(self, hash_func: Callable[[bytes], bytes] = double_sha256) -> None:
        self.hash_func = hash_func

    def tree_depth(self, hash_count: int) -> int:
        """Return the number of levels, leaves and root included; errors as branch_length."""
        return self.branch_length(hash_count) + 1

    def branch_length(self, hash_count: int) -> int:
        """Return how many hashes prove one of hash_count leaves.

        Raises TypeError if the count is not an integer, ValueError if it is below 1.
        """
        _check_integer("hash_count", hash_count)
        if hash_count < 1:
            raise ValueError("hash_count must be at least 1")
        return (hash_count - 1).bit_length()

    def _full_length(self, hash_count: int, length: int | None) -> int:
        """Return the branch length to use: the natural one unless a greater is given."""
        natural = self.branch_length(hash_count)
        if length is None:
            return natural
        _check_integer("length", length)
        if length < natural:
            raise ValueError(f"length must be at least {natural:,d} for {hash_count:,d} hashes")
        return length

    def _level_above(self, hashes: list[bytes]) -> list[bytes]:
        """Return the next level up; an odd level gets its last hash appended, in place."""
        if len(hashes) & 1:
            hashes.append(hashes[-1])
        hash_func = self.hash_func
        pairs = iter(hashes)
        return [hash_func(left + right) for left, right in zip(pairs, pairs, strict=True)]

    def branch_and_root(
        self, hashes: Sequence[bytes], index: int, length: int | None = None
    ) -> tuple[list[bytes], bytes]:
        """Return the branch, leaf side first, of the leaf at index, and the root.

        The branch may be longer than natural: then the node at the top pairs with itself until it
        has that length. Raises TypeError, or ValueError if out of range.
        """
        _check_integer("index", index)
        if not 0 <= index < len(hashes):
            raise ValueError(f"index {index} is out of range for {len(hashes):,d} hashes")
        levels = self.levels(hashes, length)
        return branch_from_levels(levels, index), levels[-1][0]

    def levels(self, hashes: Sequence[bytes], length: int | None = None) -> list[list[bytes]]:
        """Return the leaves and every level above them, that of the root last.

        Those below the root have an even number of hashes. length and errors as in
        branch_and_root.
        """
        levels = [list(hashes)]
        for _ in range(self._full_length(len(hashes), length)):
            levels.append(self._level_above(levels[-1]))
        return levels

    def root(self, hashes: Sequence[bytes], length: int | None = None) -> bytes:
        """Return the root above hashes; length and errors as in branch_and_root."""
        level = list(hashes)
        for _ in range(self._full_length(len(level), length)):
            level = self._level_above(level)
        return level[0]

    def root_from_proof(self, hash: bytes, branch: Sequence[bytes], index: int) -> bytes:
        """Return the root that a branch proves for the leaf hash at index.

        Raises ValueError if the index is negative or too big for the branch.
        """
        if not 0 <= index < 1 << len(branch):
            raise ValueError("index out of range for branch")
        hash_func = self.hash_func
        for sibling in branch:
            hash = hash_func(sibling + hash if index & 1 else hash + sibling)
            index >>= 1
        return hash

    def level(self, hashes: Sequence[bytes], depth_higher: int) -> list[bytes]:
        """Return the level depth_higher above the leaves: one hash for each 2**depth_higher."""
        size = 1 << depth_higher
        return [
            self.root(hashes[start : start + size], depth_higher)
            for start in range(0, len(hashes), size)
        ]

    def branch_and_root_from_level(
        self, level: list[bytes], leaf_hashes: list[bytes], index: int, depth_higher: int
    ) -> tuple[list[bytes], bytes]:
        """Return branch and root from a level and the leaves below one of its hashes.

        For callers that keep a level of their own; MerkleCache keeps whole trees. The leaves are
        those of the segment that holds index, which counts from the very first leaf. Raises
        TypeError if given other than lists, ValueError if the leaves contradict the level or the
        index is out of range.
        """
        if not isinstance(level, list):
            raise TypeError("level must be a list")
        if not isinstance(leaf_hashes, list):
            raise TypeError("leaf_hashes must be a list")
        _check_integer("index", index)
        level_index = index >> depth_higher
        leaf_index = index - (level_index << depth_higher)
        leaf_branch, leaf_root = self.branch_and_root(leaf_hashes, leaf_index, depth_higher)
        level_branch, root = self.branch_and_root(level, level_index)
        # Last: by now the index is in range.
        if leaf_root != level[level_index]:
            raise ValueError("leaf hashes are inconsistent with the level")
        return leaf_branch + level_branch, root


def branch_from_levels(levels: Sequence[Sequence[bytes]], index: int) -> list[bytes]:
    """Return the branch, leaf side first, of the leaf at index, from ``Merkle.levels``."""
    return [level[(index >> depth) ^ 1] for depth, level in enumerate(levels[:-1])]


class MerkleCache:
    """One level of the tree over the hashes of a source, extended by queries for longer ones.

    ``await source_func(index, count)`` returns exactly count hashes from index, or raises.
    Attributes: ``length``, the leaves covered by ``level``, which is ``depth_higher`` above them;
    ``initialized``, set once there is a level.
    """

    def __init__(
        self, merkle: Merkle, source_func: Callable[[int, int], Awaitable[list[bytes]]]
    ) -> None:
        self.merkle = merkle
        self.source_func = source_func
        self.length = 0  # leaves
        self.depth_higher = 0  # levels above the leaves
        self.level: list[bytes] = []
        self.initialized = asyncio.Event()
        # Counts truncations. Guarded, as are length and level, because truncate may run in a
        # thread; no task holds the lock across an await.
        self._generation = 0
        self._lock = threading.Lock()
        # The least length truncated to since the present initialisation began.
        self._truncated_to: int | None = None
        # One extension at a time: many clients ask for the same new length at once.
        self._extending = asyncio.Lock()
        # (generation, first leaf, leaves) -> levels of a segment, from the leaves to its root
        self._segments: LRUCache[tuple[int, int, int], Levels] = LRUCache(SEGMENTS)
        # (generation, leaves of the tree) -> levels from the roots of the segments to the top
        self._tops: LRUCache[tuple[int, int], Levels] = LRUCache(TOPS)

    def _segment_length(self) -> int:
        return 1 << self.depth_higher

    def _leaf_start(self, index: int) -> int:
        """Return the index of the first leaf of the segment that holds index."""
        return (index >> self.depth_higher) << self.depth_higher

    def _level(self, hashes: Sequence[bytes]) -> list[bytes]:
        return self.merkle.level(hashes, self.depth_higher)

    async def _leaves(self, start: int, count: int) -> list[bytes]:
        hashes = await self.source_func(start, count)
        if len(hashes) != count:
            raise ValueError(f"merkle source gave {len(hashes):,d} of {count:,d} hashes")
        return hashes

    async def _level_of_leaves(self, start: int, count: int, depth_higher: int) -> list[bytes]:
        hashes = await self._leaves(start, count)
        if count > THREAD_LEAF_COUNT:
            return await asyncio.to_thread(self.merkle.level, hashes, depth_higher)
        return self.merkle.level(hashes, depth_higher)

    async def initialize(self, length: int) -> None:
        """Build the level over the first length leaves, at least 1, and let queries in.

        A call of truncate during the build starts it again with the remaining leaves.
        """
        with self._lock:
            self._truncated_to = None
            generation = self._generation
        while True:
            depth_higher = self.merkle.tree_depth(length) // 2
            try:
                level = await self._level_of_leaves(0, length, depth_higher)
            except Exception:
                # The source may have lost leaves between the truncation and our reading.
                if generation == self._generation:
                    raise
                level = []
            with self._lock:
                if generation == self._generation:
                    self.length, self.depth_higher, self.level = length, depth_higher, level
                    break
                generation = self._generation
                length = min(length, self._truncated_to or length)
        self.initialized.set()

    async def _extend_to(self, length: int) -> None:
        """Make the level cover at least length leaves. The cache is initialised."""
        async with self._extending:
            while length > self.length:
                with self._lock:
                    generation, start = self._generation, self._leaf_start(self.length)
                new = await self._level_of_leaves(start, length - start, self.depth_higher)
                with self._lock:
                    if generation == self._generation:
                        self.level[start >> self.depth_higher :] = new
                        self.length = length

    async def _level_for(self, length: int) -> list[bytes]:
        """Return the level over exactly length leaves, which the cache covers."""
        with self._lock:
            if length == self.length:
                return self.level.copy()
            level = self.level[: length >> self.depth_higher]
        start = self._leaf_start(length)
        if length > start:
            level += self._level(await self._leaves(start, length - start))
        return level

    def truncate(self, length: int) -> None:
        """Forget all leaves from index length on: the source has changed, or lost, them.

        Call it *after* the source has changed. Runs in: any thread. The level is cut to whole
        segments. Raises TypeError, or ValueError if the length is not positive.
        """
        _check_integer("length", length)
        if length <= 0:
            raise ValueError("length must be positive")
        with self._lock:
            # Even if the level needs no cut: an extension may be reading leaves beyond it.
            self._generation += 1
            self._truncated_to = min(length, self._truncated_to or length)
            if length < self.length:
                self.length = self._leaf_start(length)
                self.level[self.length >> self.depth_higher :] = []

    async def branch_and_root(self, length: int, index: int) -> tuple[list[bytes], bytes]:
        """Return branch and root for the leaf at index of the tree over length leaves.

        Waits until the cache is initialised. Raises TypeError or ValueError for bad arguments,
        and the errors of the source, as when it has fewer leaves.
        """
        _check_integer("length", length)
        _check_integer("index", index)
        if length <= 0:
            raise ValueError("length must be positive")
        if not 0 <= index < length:
            raise ValueError("index must be less than length, and not negative")
        await self.initialized.wait()
        while True:
            generation = self._generation
            await self._extend_to(length)
            start = self._leaf_start(index)
            count = min(self._segment_length(), length - start)
            segment = await self._segment(generation, start, count)
            top = await self._top(generation, length)
            if generation == self._generation:
                break
        # The segment of a tree with no other has its natural depth, any other one the same depth.
        if len(top) == 1:
            segment = segment[: self.merkle.tree_depth(count)]
        elif segment[-1][0] != top[0][start >> self.depth_higher]:
            raise ValueError("leaf hashes are inconsistent with the level")
        branch = branch_from_levels(segment, index - start)
        branch += branch_from_levels(top, start >> self.depth_higher)
        return branch, (top if len(top) > 1 else segment)[-1][0]

    def hashes_needed(self, length: int, index: int) -> int:
        """Return about how many hashes branch_and_root would make now, those of leaves included."""
        if not self.initialized.is_set():
            return 0
        start = self._leaf_start(index)
        count = min(self._segment_length(), length - start)
        needed = 0
        if (self._generation, start, count) not in self._segments:
            needed += 2 * count
        if (self._generation, length) not in self._tops:
            # The segments, and the leaves of the last one, which may be cut.
            needed += (length >> self.depth_higher) + 2 * (length - self._leaf_start(length))
        return needed

    async def _segment(self, generation: int, start: int, count: int) -> Levels:
        """Return the levels of the segment of count leaves from start, its depth a full one's."""
        key = (generation, start, count)
        levels = self._segments.get(key)
        if levels is None:
            levels = self.merkle.levels(await self._leaves(start, count), self.depth_higher)
            self._segments.put(key, levels, self._segments.generation)
        return levels

    async def _top(self, generation: int, length: int) -> Levels:
        """Return the levels above the segments of the tree over length leaves.

        None at all if the generation is another one by now.
        """
        key = (generation, length)
        levels = self._tops.get(key)
        if levels is None:
            level = await self._level_for(length)
            if generation != self._generation:
                return []
            levels = self.merkle.levels(level)
            self._tops.put(key, levels, self._tops.generation)
        return levels
