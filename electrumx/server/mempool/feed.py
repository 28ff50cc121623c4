"""Receives by ZMQ which transactions enter and leave the node's mempool.

Optional: the operator sets the addresses at which nodes publish ``rawtx``, ``sequence`` or both.
``rawtx`` has the transactions that enter the mempool, and those of each new block; ``sequence``, of
Bitcoin Core from 0.21 on, the hashes of those that enter and of those that leave it otherwise
than by a block.  Each message goes to the mempool as a report of a single transaction; the
mempool applies reports in batches.

ZMQ publishers drop messages rather than wait for a slow subscriber, but number them.  After a gap in
the numbers, and after a start, a refresh lists the mempool.  Polling continues in any case.

Runs in: the event loop.  Each address has a socket of its own, as each publisher has its own numbers.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

from electrumx.lib.coins import Coin
from electrumx.lib.tasks import run_together
from electrumx.lib.util import class_logger
from electrumx.server.daemon.zmq_subscription import close_subscription, open_subscription

VARIABLE = "ZMQ_MEMPOOL_ADDRESS"
HASH_LEN = 32
RAW_TX, SEQUENCE = b"rawtx", b"sequence"
ENTERED, LEFT = b"A", b"R"
#: bytes of a message, and messages that wait, at most
MAX_MESSAGE_BYTES = 32_000_000
MAX_MESSAGES = 10_000
#: a thread hashes larger transactions
INLINE_BYTES = 10_000
#: seconds of silence before opening a socket again: libzmq gives a connection up for good
#: when something other than a publisher answers, or after a message that is too long
RENEW_SECS = 600.0
#: seconds between two listings of the mempool because of lost messages
LISTING_SECS = 1.0
#: messages in a time slice: about a millisecond
MESSAGES_AT_ONCE = 50
NUMBERS = 1 << 32


class Mempool(Protocol):
    """The receiver of reports."""

    def entered(self, tx_hash: bytes, raw: bytes | None = None) -> None:
        """Take note that the node has another transaction in its mempool."""

    def left(self, tx_hash: bytes) -> None:
        """Take note that the node removed a transaction that no block confirmed."""

    def refresh_soon(self) -> None:
        """Have the node's mempool listed."""


class MempoolFeed:
    """Subscribes to the messages that nodes publish of their mempools.

    Raises OperatorError if there are addresses but no pyzmq, or if it refuses one.
    """

    def __init__(self, coin: type[Coin], mempool: Mempool, addresses: Sequence[str]) -> None:
        self.logger = class_logger(__name__, self.__class__.__name__)
        self._coin = coin
        self._mempool = mempool
        self._addresses = list(addresses)
        self._listing: asyncio.TimerHandle | None = None
        self._listed_at = float("-inf")
        for address in self._addresses:
            # Without topics: a publisher would take them for those of the socket that follows.
            close_subscription(*_open(address, topics=()))

    async def run(self) -> None:
        """Follow all addresses until cancelled."""
        if self._addresses:
            await run_together(*(self._follow(address) for address in self._addresses))

    async def _follow(self, address: str) -> None:
        heard = False
        while True:
            heard = await self._follow_socket(address, heard)

    async def _follow_socket(self, address: str, heard: bool) -> bool:
        """Follow until there is silence; ``heard`` and the result: whether there ever was none."""
        context, socket = _open(address)
        numbers: dict[bytes, int] = {}
        try:
            count = 0
            while await socket.poll(RENEW_SECS * 1000):
                message = await socket.recv_multipart()
                if len(message) != 3 or message[0] not in (RAW_TX, SEQUENCE):
                    continue
                if not heard:
                    heard = True
                    self.logger.info(f"a daemon publishes its mempool by ZMQ at {address}")
                topic, body, number = message
                self._check_number(numbers, topic, number)
                await self._report(topic, body)
                count += 1
                if count % MESSAGES_AT_ONCE == 0:
                    await asyncio.sleep(0)
            return heard
        finally:
            close_subscription(context, socket)

    def _check_number(self, numbers: dict[bytes, int], topic: bytes, raw_number: bytes) -> None:
        """Have the mempool listed if this message of a topic is not the next one."""
        number = int.from_bytes(raw_number, "little")
        expected = numbers.get(topic)
        numbers[topic] = (number + 1) % NUMBERS
        if number == expected:
            return
        if expected is not None:
            self.logger.info(f"ZMQ messages were lost: listing the daemon's mempool ({number:,d})")
        self._list_soon()

    def _list_soon(self) -> None:
        """Have the mempool listed, not too often."""
        if self._listing is not None:
            return
        loop = asyncio.get_running_loop()
        delay = max(0.0, self._listed_at + LISTING_SECS - loop.time())
        self._listing = loop.call_later(delay, self._list)

    def _list(self) -> None:
        self._listing = None
        self._listed_at = asyncio.get_running_loop().time()
        self._mempool.refresh_soon()

    async def _report(self, topic: bytes, body: bytes) -> None:
        if topic == RAW_TX:
            if len(body) <= INLINE_BYTES:
                tx_hash = self._hash(body)
            else:
                tx_hash = await asyncio.to_thread(self._hash, body)
            if tx_hash is not None:
                self._mempool.entered(tx_hash, body)
            return
        # The hash is as displayed.
        tx_hash, label = body[HASH_LEN - 1 :: -1], body[HASH_LEN : HASH_LEN + 1]
        if label == ENTERED:
            self._mempool.entered(tx_hash)
        elif label == LEFT:
            self._mempool.left(tx_hash)

    def _hash(self, raw_tx: bytes) -> bytes | None:
        """Return the hash of a transaction, None if it is none.  Runs in: the loop or a thread."""
        try:
            _tx, tx_hash = self._coin.DESERIALIZER(raw_tx).read_tx_and_hash()
        except Exception as e:  # whatever a coin's parser raises, the next listing has it
            self.logger.debug(f"skipping a published transaction: {e!r}")
            return None
        return bytes(tx_hash)


def _open(address: str, topics: Sequence[bytes] = (RAW_TX, SEQUENCE)) -> tuple[Any, Any]:
    """Return a context, and a socket that is, or will be, connected to an address."""
    return open_subscription(
        VARIABLE,
        [address],
        topics,
        max_messages=MAX_MESSAGES,
        max_bytes=MAX_MESSAGE_BYTES,
    )
