"""Subscriptions to scripts: an index from script to sessions, and the scripts of each session.

A subscription to a script without other subscribers takes about 140 bytes: an entry of the index
with its key (100), and 32 bytes in the record of its session.  The fan-out looks up the scripts that a
block touches in the index, so sessions that the block does not concern cost nothing.

The key of a script is its hashX, the first bytes of its hash.  Two script hashes with the same first
bytes, or two spellings of one, are one subscription: the last spelling counts.

Runs on the event loop.
"""

import asyncio
from collections.abc import Sequence

from electrumx.lib.hash import HASHX_LEN, hash_to_hex_str, hex_str_to_hash
from electrumx.server.db import wire_rows
from electrumx.server.session.notify.subscriber import Subscriber

HASH_LEN = 32
# A session with more scripts keeps a table of where their records are; others search.
SEARCHED_RECORDS = 500
# Entries looked up, or removed, before yielding to the event loop: about a millisecond.
AT_ONCE = 2_000


class ScriptIndex:
    """The sessions subscribed to each script."""

    def __init__(self) -> None:
        # A session, or a set of them: most often there is one.
        self._sessions: dict[bytes, Subscriber | set[Subscriber]] = {}
        #: pairs of a script and a session
        self.subscription_count = 0

    def __len__(self) -> int:
        """Return the number of different scripts."""
        return len(self._sessions)

    def add(self, hashX: bytes, session: Subscriber) -> bool:
        """Add a subscription; return whether it is new."""
        sessions = self._sessions
        found = sessions.get(hashX)
        if found is None:
            sessions[hashX] = session
        elif isinstance(found, set):
            if session in found:
                return False
            found.add(session)
        elif found is session:
            return False
        else:
            sessions[hashX] = {found, session}
        self.subscription_count += 1
        return True

    def discard(self, hashX: bytes, session: Subscriber) -> None:
        """Remove a subscription, if it exists."""
        found = self._sessions.get(hashX)
        if found is session:
            del self._sessions[hashX]
        elif isinstance(found, set) and session in found:
            found.discard(session)
            if len(found) == 1:
                self._sessions[hashX] = found.pop()
        else:
            return
        self.subscription_count -= 1

    def has(self, hashX: bytes, session: Subscriber) -> bool:
        """Return whether a session is subscribed to a script."""
        found = self._sessions.get(hashX)
        return found is session or (isinstance(found, set) and session in found)

    async def concerned(self, touched: set[bytes]) -> dict[Subscriber, list[bytes]]:
        """Return {session: its scripts among those touched}; yield to the event loop now and then."""
        result: dict[Subscriber, list[bytes]] = {}
        index = self._sessions
        for number, hashX in enumerate(index.keys() & touched, start=1):
            found = index.get(hashX)
            if isinstance(found, set):
                for session in found:
                    result.setdefault(session, []).append(hashX)
            elif found in result:
                result[found].append(hashX)
            elif found is not None:
                result[found] = [hashX]
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
        return result


# Of sessions without subscriptions, of which there may be thousands; it stays empty.
_NO_RECORDS = bytearray()


class SessionScripts:
    """The subscribed scripts of one session."""

    __slots__ = ("_index", "_places", "_records", "_session", "_spellings")

    def __init__(self, index: ScriptIndex, session: Subscriber) -> None:
        self._index = index
        self._session: Subscriber | None = session
        # Script hashes in natural byte order, joined, in no order
        self._records = _NO_RECORDS
        # hashX -> start of its record, if there are many
        self._places: dict[bytes, int] | None = None
        # hashX -> the client's spelling, if not in lower-case hex
        self._spellings: dict[bytes, str] | None = None

    def __len__(self) -> int:
        """Return the number of scripts."""
        return len(self._records) // HASH_LEN

    def __contains__(self, hashX: bytes) -> bool:
        """Return whether the session is subscribed to a script."""
        session = self._session
        return session is not None and self._index.has(hashX, session)

    def _find(self, hashX: bytes) -> int:
        """Return the start of a record, -1 if it is missing."""
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
        place = self._find(hashX) if hashX in self else -1
        if place < 0:
            return None
        return hash_to_hex_str(bytes(self._records[place : place + HASH_LEN]))

    def render(
        self,
        parts: tuple[bytes, bytes, bytes],
        hashXs: Sequence[bytes],
        statuses: list[str | None],
    ) -> bytes | None:
        """Return ``wire_rows.render_statuses`` of own scripts.

        None if the client has spelled one in its own way, or if one is missing.
        """
        places = list(map(self._find, hashXs))
        if self._spellings or -1 in places:
            return None
        return wire_rows.render_statuses(parts, self._records, places, statuses)

    def add(self, hashX: bytes, script_hash: str) -> bool:
        """Subscribe to a script; return whether the subscription is new.

        ``script_hash`` is hex of 32 bytes, whose first are ``hashX``.
        """
        session = self._session
        if session is None:
            return True  # a request that outlived its session
        raw = hex_str_to_hash(script_hash)
        if self._records is _NO_RECORDS:
            self._records = bytearray()
        is_new = self._index.add(hashX, session)
        if not is_new:
            place = self._find(hashX)
            self._records[place : place + HASH_LEN] = raw
        else:
            if self._places is not None:
                self._places[hashX] = len(self._records)
            self._records += raw
            if self._places is None and len(self._records) > SEARCHED_RECORDS * HASH_LEN:
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
        return is_new

    def discard(self, hashX: bytes) -> str | None:
        """End a subscription; return its script hash, None if it did not exist."""
        script_hash, session = self.get(hashX), self._session
        if script_hash is None or session is None:
            return None
        self._index.discard(hashX, session)
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
        """End all subscriptions, in time slices if there are many; there can be no new ones after it.

        Session and subscriptions refer to each other until then.
        """
        records, self._records = bytes(self._records), _NO_RECORDS
        session, self._session = self._session, None
        self._places = self._spellings = None
        if session is not None:
            _forget(self._index, session, records, 0)


def _forget(index: ScriptIndex, session: Subscriber, records: bytes, start: int) -> None:
    end = min(len(records), start + AT_ONCE * HASH_LEN)
    for at in range(start, end, HASH_LEN):
        index.discard(records[at : at + HASHX_LEN], session)
    if end < len(records):
        asyncio.get_running_loop().call_soon(_forget, index, session, records, end)
