"""The interface that the mempool needs of the node, the database and the notifications.

The mempool is below them; its owner implements this interface.  Runs on the event loop.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from electrumx.server.daemon.mempool_listing import Listing, listing_of
from electrumx.server.mempool.index import HashXValue, Prevout
from electrumx.server.notifications import Confirmed


class MemPoolAPI(ABC):
    """The calls that the mempool makes to the node and to the database."""

    @abstractmethod
    async def height(self) -> int:
        """Ask the node for its height."""

    @abstractmethod
    def cached_height(self) -> int | None:
        """Return the node's height last received, None if never."""

    @abstractmethod
    def db_height(self) -> int:
        """Return the height of the database on disk."""

    @abstractmethod
    async def mempool_hashes(self) -> list[str]:
        """Return the hex hashes of the transactions in the node's mempool."""

    async def mempool_listing(self) -> Listing:
        """Return the same as mempool_hashes, in a form that is quicker to make."""
        return await asyncio.to_thread(listing_of, await self.mempool_hashes())

    @abstractmethod
    async def raw_transactions(self, hex_hashes: Sequence[str]) -> Iterable[bytes | None]:
        """Return the raw transactions in order, None for those the node does not have."""

    @abstractmethod
    async def lookup_utxos(self, prevouts: Sequence[Prevout]) -> Sequence[HashXValue | None]:
        """Return hashX and value for each outpoint in order, None if not an unspent output."""

    @abstractmethod
    async def on_mempool(self, touched: set[bytes], height: int) -> None:
        """Take the hashXs touched by a refresh at this height; the set is then the callee's."""

    async def on_mempool_partial(self, touched: set[bytes], height: int) -> None:
        """Do as on_mempool, of a mempool that lacks some of the node's transactions."""
        await self.on_mempool(touched, height)

    async def daemon_tip_hash(self) -> bytes | None:
        """Ask the node for the hash of its tip; None means no comparison of tips."""
        return None

    def db_tip(self) -> bytes | None:
        """Return the hash of the database's tip; None means no comparison of tips."""
        return None

    def confirmed_after(self, tip: bytes) -> Confirmed | None:
        """Return the committed step from this tip to the next, None if unknown."""
        return None

    def processed_after(self, tip: bytes) -> Confirmed | None:
        """Return the next confirmed blocks beyond this tip, committed or not; None if not known."""
        return None

    async def wait_for_processed_block(self) -> None:
        """Return when blocks will be committed next; by default it never does."""
        await asyncio.get_running_loop().create_future()

    async def wait_for_daemon_height_change(self) -> None:
        """Return when the node's height has changed; by default it never does."""
        await asyncio.get_running_loop().create_future()

    async def wait_for_db_height_change(self) -> None:
        """Return when the database has moved to another block; by default it never does."""
        await asyncio.get_running_loop().create_future()
