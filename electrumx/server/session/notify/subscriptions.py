"""Who is subscribed to which script: by script for all sessions, and by session.

A subscription to a script that nobody else has takes about 140 bytes: an entry of the index with
its key (100), and 32 bytes in the record of its session.  What a block touched is looked up in the
index, so it costs nothing to have many sessions that it does not concern.  On the event loop.

Scripts go by hashX, the first bytes of their hash.  Two script hashes that share those, or two
spellings of one, are one subscription: the last spelling is the one that counts.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from electrumx.lib.hash import HASHX_LEN, hash_to_hex_str, hex_str_to_hash
from electrumx.server.db import wire_rows

HASH_LEN = 32
# A session with more scripts keeps a table of where their records are; others search.
SEARCHED_RECORDS = 500
# So many entries are looked up, or removed, in one go: about a millisecond.
AT_ONCE = 2_000


class ScriptIndex:
    """The sessions that are subscribed to each script."""

    def __init__(self) -> None:
        # A session, or a set of them: most often there is one.
        self._sessions: dict[bytes, Any] = {}

    def __len__(self) -> int:
        """Return the number of different scripts."""
        return len(self._sessions)

    def add(self, hashX: bytes, session: Any) -> None:
        """Note a subscription."""
        found = self._sessions.setdefault(hashX, session)
        if found is session:
            return
        if type(found) is set:
            found.add(session)
        else:
            self._sessions[hashX] = {found, session}

    def discard(self, hashX: bytes, session: Any) -> None:
        """Forget a subscription, if there is one."""
        found = self._sessions.get(hashX)
        if found is session:
            del self._sessions[hashX]
        elif type(found) is set:
            found.discard(session)
            if len(found) == 1:
                self._sessions[hashX] = found.pop()

    def has(self, hashX: bytes, session: Any) -> bool:
        """Say if a session is subscribed."""
        found = self._sessions.get(hashX)
        return found is session or (type(found) is set and session in found)

    async def concerned(self, touched: set[bytes]) -> dict[Any, list[bytes]]:
        """Return {session: its scripts among those touched}; others have their turn meanwhile."""
        result: dict[Any, list[bytes]] = {}
        index = self._sessions
        for number, hashX in enumerate(index.keys() & touched, start=1):
            found = index.get(hashX)
            if type(found) is set:
                for session in found:
                    result.setdefault(session, []).append(hashX)
            elif found in result:
                result[found].append(hashX)
            elif found is not None:
                result[found] = [hashX]
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
        return result


class SessionScripts:
    """The scripts that one session is subscribed to."""

    __slots__ = ("_index", "_places", "_records", "_session", "_spellings")

    def __init__(self, index: ScriptIndex, session: Any) -> None:
        self._index = index
        self._session = session
        # Script hashes, in natural order of bytes, one behind the other, in no order
        self._records = bytearray()
        # hashX -> where its record begins, if there are many
        self._places: dict[bytes, int] | None = None
        # hashX -> how the client wrote it, if not in lower-case hex
        self._spellings: dict[bytes, str] | None = None

    def __len__(self) -> int:
        """Return the number of scripts."""
        return len(self._records) // HASH_LEN

    def __contains__(self, hashX: bytes) -> bool:
        """Say if there is a subscription."""
        return self._index.has(hashX, self._session)

    def _find(self, hashX: bytes) -> int:
        """Return where a record begins, -1 if there is none."""
        if self._places is not None:
            return self._places.get(hashX, -1)
        place = self._records.find(hashX)
        while place % HASH_LEN and place >= 0:
            # Within or across records, by chance or by a client's design
            place = self._records.find(hashX, place + 1)
        return place

    def get(self, hashX: bytes) -> str | None:
        """Return the script hash as the client last wrote it, None without subscription."""
        if self._spellings is not None and hashX in self._spellings:
            return self._spellings[hashX]
        place = self._find(hashX) if self._index.has(hashX, self._session) else -1
        if place < 0:
            return None
        return hash_to_hex_str(bytes(self._records[place : place + HASH_LEN]))

    def render(
        self,
        parts: tuple[bytes, bytes, bytes],
        hashXs: Sequence[bytes],
        statuses: list[str | None],
    ) -> bytes | None:
        """Return what ``wire_rows.render_statuses`` makes of own scripts.

        None if a client has spelled one in its own way, or if one is not there.
        """
        places = list(map(self._find, hashXs))
        if self._spellings or -1 in places:
            return None
        return wire_rows.render_statuses(parts, self._records, places, statuses)

    def add(self, hashX: bytes, script_hash: str) -> bool:
        """Subscribe, and say if that is new.

        ``script_hash`` is hex of 32 bytes, whose first are ``hashX``.
        """
        if self._session is None:
            return True  # a request that outlived its session
        raw = hex_str_to_hash(script_hash)
        place = self._find(hashX) if self._index.has(hashX, self._session) else -1
        if place >= 0:
            self._records[place : place + HASH_LEN] = raw
        else:
            if self._places is not None:
                self._places[hashX] = len(self._records)
            self._records += raw
            self._index.add(hashX, self._session)
            if self._places is None and len(self) > SEARCHED_RECORDS:
                self._places = {
                    bytes(self._records[at : at + HASHX_LEN]): at
                    for at in range(0, len(self._records), HASH_LEN)
                }
        if hash_to_hex_str(raw) != script_hash:
            if self._spellings is None:
                self._spellings = {}
            self._spellings[hashX] = script_hash
        elif self._spellings is not None:
            self._spellings.pop(hashX, None)
        return place < 0

    def discard(self, hashX: bytes) -> str | None:
        """End a subscription; return its script hash if there was one."""
        script_hash = self.get(hashX)
        if script_hash is None:
            return None
        self._index.discard(hashX, self._session)
        if self._spellings is not None:
            self._spellings.pop(hashX, None)
        place = self._find(hashX)
        last = self._records[-HASH_LEN:]
        del self._records[-HASH_LEN:]
        if self._places is not None:
            del self._places[hashX]
        if place < len(self._records):
            self._records[place : place + HASH_LEN] = last
            if self._places is not None:
                self._places[bytes(last[:HASHX_LEN])] = place
        return script_hash

    def end(self) -> None:
        """End all subscriptions for good; of many, in slices between which others have their turn.

        Session and subscriptions hold each other until then.
        """
        records, self._records = bytes(self._records), bytearray()
        session, self._session = self._session, None
        self._places = self._spellings = None
        _forget(self._index, session, records, 0)


def _forget(index: ScriptIndex, session: Any, records: bytes, start: int) -> None:
    end = min(len(records), start + AT_ONCE * HASH_LEN)
    for at in range(start, end, HASH_LEN):
        index.discard(records[at : at + HASHX_LEN], session)
    if end < len(records):
        asyncio.get_running_loop().call_soon(_forget, index, session, records, end)
