"""Things by group, in order, and which group is the largest: each operation in constant time.

Runs on the event loop.
"""

from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Crowds(Generic[T]):
    """Members of named groups; gives the oldest member of the largest group."""

    def __init__(self) -> None:
        self._groups: dict[str, dict[T, None]] = {}
        # Names of the groups of each size; sizes without a group stay
        self._of_size: list[dict[str, None]] = [{}]
        self._largest = 0

    def __len__(self) -> int:
        return len(self._groups)

    def add(self, name: str, member: T) -> None:
        """Add a member, which is in no group yet, to a group."""
        group = self._groups.setdefault(name, {})
        group[member] = None
        self._move(name, len(group) - 1, len(group))

    def remove(self, name: str, member: T) -> None:
        """Remove a member of a group."""
        group = self._groups[name]
        del group[member]
        self._move(name, len(group) + 1, len(group))
        if not group:
            del self._groups[name]

    def _move(self, name: str, before: int, after: int) -> None:
        if after == len(self._of_size):
            self._of_size.append({})
        if before:
            del self._of_size[before][name]
        if after:
            self._of_size[after][name] = None
        if after > self._largest or not self._of_size[self._largest]:
            self._largest = after

    def oldest_of_largest(self) -> T | None:
        """Return the member that is longest in the largest group; None if there is no member."""
        if not self._largest:
            return None
        name = next(iter(self._of_size[self._largest]))
        return next(iter(self._groups[name]))
