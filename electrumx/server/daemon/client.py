"""The node: the calls that the server makes, and the checks of their replies.

Owns the last height received, and replies cached for a while. Knows nothing of the callers, nor of
blocks and transactions beyond their hex. Parts have the longer calls: of blocks ``block_requests``,
of transactions ``tx_requests``, of fees ``fees``. ``jsonrpc`` sends requests, repeats them and moves
them to another node; ``node_http`` has the HTTP session.

Runs in: the event loop. Parsing of big bodies and of long hex goes to worker threads.

A JSON-RPC error, or a reply whose *result* does not have the documented form, becomes a
DaemonError. Nothing else leaves this module.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import aiohttp

from electrumx.lib.coins import Coin
from electrumx.lib.log_text import printable
from electrumx.lib.util import class_logger
from electrumx.server.daemon.block_requests import BlockRequests
from electrumx.server.daemon.call_record import CallRecord
from electrumx.server.daemon.fees import FeeQueries
from electrumx.server.daemon.info_cache import InfoCache
from electrumx.server.daemon.jsonrpc import NodeRPC, pulse
from electrumx.server.daemon.logins import LoginFiles
from electrumx.server.daemon.mempool_listing import Listing, listing_of, parse_reply
from electrumx.server.daemon.method_calls import MethodCalls
from electrumx.server.daemon.node_http import ClosedHTTP, OpenHTTP, ReplacedHTTP
from electrumx.server.daemon.responses import (
    BoundedResponse,
    DaemonError,
    Reading,
    ResponseTooLargeError,
    checked_hashes,
    is_int,
    parse_json,
    reply_limit,
    unexpected,
)
from electrumx.server.daemon.rest import RestBlocks
from electrumx.server.daemon.retry import (
    MalformedReplyError,
    ParseErrorReply,
    ServiceRefusedError,
    WarmingUpError,
)
from electrumx.server.daemon.start_checks import StartChecks
from electrumx.server.daemon.tx_requests import TX_LIMIT, TxRequests

__all__ = [
    "BoundedResponse",
    "Daemon",
    "DaemonError",
    "MalformedReplyError",
    "ParseErrorReply",
    "ResponseTooLargeError",
    "ServiceRefusedError",
    "WarmingUpError",
]

# Seconds for which an answer stays cached: of getnetworkinfo, which depends on the node's settings, and
# of getmempoolinfo, whose minimum fee moves while the mempool is full.
INFO_CACHE_SECS = 60.0
MEMPOOL_INFO_CACHE_SECS = 1.0


_Self = TypeVar("_Self", bound="Daemon")

# Heights take four bytes in the database.
MAX_HEIGHT = 1 << 32


def _parse_listing(body: bytearray) -> Any:
    return parse_reply(body, parse_json)


_AS_LISTING = Reading(_parse_listing, reply_limit("getrawmempool"))


class Daemon:
    """The node, or several of them of which one is in use.

    coin:        for its sanitize_url() and parameters
    url:         comma-separated URLs with user and password; use begins with the first
    max_workqueue: most HTTP requests in flight (bitcoind's own queue is 16; a batch is one)
    init_retry, max_retry: first and longest wait between attempts, in seconds
    login_files: the cookie or password files of URLs without a password
    spool_folder: where files without names receive large blocks

    Use as an async context manager, which opens and closes the HTTP session.
    Three events are pulses, set and cleared at once, so that waiting for one means waiting for the next
    time: height_changed when a polled height differs from the one before, tip_changed when
    notify_tip reports that the node has another tip, url_changed when
    another URL is in use.
    """

    #: whether the node has blocks as they are, hence perhaps over REST
    READS_RAW_BLOCKS = True
    #: the code of the error of a node that is starting
    WARMING_UP = -28
    RESPONSE_CLASS = BoundedResponse
    # Of one HTTP exchange from connecting to the last byte of the body.
    TIMEOUT_SECS = 300.0
    # To fetch blocks by, where the node has REST.
    REST_CONNECTIONS = 4

    def __init__(
        self,
        coin: type[Coin],
        url: str,
        *,
        max_workqueue: int = 10,
        init_retry: float = 0.25,
        max_retry: float = 4.0,
        login_files: LoginFiles | None = None,
        spool_folder: str | None = None,
    ) -> None:
        self.coin = coin
        self.logger = class_logger(__name__, self.__class__.__name__)
        #: sends the requests
        self.rpc = NodeRPC(
            self.logger,
            coin,
            url,
            max_workqueue=max_workqueue,
            init_retry=init_retry,
            max_retry=max_retry,
            login_files=login_files,
            warming_up=self.WARMING_UP,
            check_node=self.check_node,
        )
        self.height_changed = asyncio.Event()
        self.tip_changed = asyncio.Event()
        self._height: int | None = None
        # One place is left for other requests.
        connections = min(self.REST_CONNECTIONS, max_workqueue - 1)
        rest = RestBlocks(
            self.logger, self.rpc.workqueue_semaphore, self.rpc.budget, connections, spool_folder
        )
        self._calls = MethodCalls(self.rpc)
        self._blocks = BlockRequests(self.rpc, self._calls, rest)
        self._txs = TxRequests(self.rpc, self._calls)
        self._network_info = InfoCache(INFO_CACHE_SECS)
        self._mempool_info = InfoCache(MEMPOOL_INFO_CACHE_SECS)
        self._fees = FeeQueries(
            self._calls, network_info=self.getnetworkinfo, mempool_info=self.getmempoolinfo
        )
        self._checks = StartChecks(coin, self.rpc, self, self.logger)

    async def __aenter__(self: _Self) -> _Self:
        http = OpenHTTP(
            connector=self.connector(),
            response_class=self.RESPONSE_CLASS,
            timeout_secs=self.TIMEOUT_SECS,
            endpoint=self.rpc.endpoint,
            budget=self.rpc.budget,
        )
        self.rpc.use(http)
        return self

    async def __aexit__(self, *_exc_info: object) -> None:
        self._blocks.close()
        await self.rpc.http.close()
        self.rpc.use(ClosedHTTP())

    def connector(self) -> aiohttp.BaseConnector | None:
        """Return the connector for the HTTP session.

        None means aiohttp's default, which verifies nodes over https by the certificates
        that the system trusts.  Another connector decides that by its ``ssl``: a context, or False.
        """
        return None

    @property
    def session(self) -> Any:
        """The HTTP session, None while it is not open; another one may take its place."""
        return self.rpc.http.session

    @session.setter
    def session(self, session: Any) -> None:
        self.rpc.use(ClosedHTTP() if session is None else ReplacedHTTP(session))

    # -- The nodes

    @property
    def urls(self) -> list[str]:
        """The URLs of all nodes, with their credentials."""
        return self.rpc.urls

    @property
    def url_changed(self) -> asyncio.Event:
        """Set and cleared at once when another URL is in use."""
        return self.rpc.url_changed

    @property
    def calls(self) -> CallRecord:
        """Contact with the node, counts and durations of calls."""
        return self.rpc.calls

    def set_url(self, url: str, login_files: LoginFiles | None = None) -> None:
        """Replace the list of nodes by the comma-separated url and use its first.

        ``login_files`` has their logins, where a URL has none.  Raises OperatorError (CoinError) if
        any of them is bad; then nothing changes.
        """
        self.rpc.set_url(url, login_files)

    def current_url(self) -> str:
        """Return the URL in use, with its credentials."""
        return self.rpc.current_url()

    def logged_url(self, url: str | None = None) -> str:
        """Return url (default: the one in use) without scheme and credentials, for people."""
        return self.rpc.logged_url(url)

    def failover(self) -> bool:
        """Use the next URL that is not left out; return False if there is no other."""
        return self.rpc.failover()

    # -- Asking

    async def _send_single(
        self, method: str, params: Sequence[Any] = (), reading: Reading | None = None
    ) -> Any:
        """Call method; return its result. Raises DaemonError with the node's error object."""
        return await self.rpc.send_single(method, params, reading)

    async def _send_vector(
        self,
        method: str,
        params_iterable: Iterable[Sequence[Any]],
        replace_errs: bool = False,
        reading: Reading | None = None,
    ) -> list[Any]:
        """Call method once for each item, in one HTTP request: see ``NodeRPC.send_vector``."""
        return await self.rpc.send_vector(method, params_iterable, replace_errs, reading)

    async def call_aside(
        self, url: str, method: str, params: Sequence[Any], timeout_secs: float
    ) -> Any:
        """Call method at url once, for calls that wait at the node: see ``NodeRPC.call_aside``."""
        return await self.rpc.call_aside(url, method, params, timeout_secs)

    async def knows_method(self, method: str) -> bool:
        """Return whether the node in use has a method, and allows the call, asked again each time."""
        return await self._calls.knows(method)

    async def _send_for_dict(self, method: str, params: Sequence[Any] = ()) -> dict[str, Any]:
        return await self._calls.send_for_dict(method, params)

    # -- Calls

    async def height(self) -> int:
        """Request the node's height, and cache it."""
        height = await self._send_single("getblockcount")
        if not is_int(height) or not 0 <= height < MAX_HEIGHT:
            raise unexpected("getblockcount")
        self._set_height(height)
        return int(height)

    def _set_height(self, height: int) -> None:
        if height != self._height:
            self._height = height
            pulse(self.height_changed)

    async def notify_tip(self) -> None:
        """Take note that the node has another tip than before: ask for its height."""
        try:
            await self.height()
        except DaemonError as e:
            self.logger.info(f"ignoring daemon error: {printable(e)}")
        pulse(self.tip_changed)

    def cached_height(self) -> int | None:
        """Return the height last received, None before the first time."""
        return self._height

    async def block_hex_hashes(self, first: int, count: int) -> list[str]:
        """Return the hex hashes of count blocks from height first."""
        return await self._blocks.block_hex_hashes(first, count)

    async def deserialised_block(self, hex_hash: str) -> dict[str, Any]:
        """Return the node's JSON form of a block, with the hashes of its transactions."""
        return await self._blocks.deserialised_block(hex_hash)

    def has_rest(self) -> bool:
        """Return whether blocks come over REST, as far as known: each by itself."""
        return self._blocks.has_rest()

    async def raw_blocks(self, hex_hashes: Iterable[str]) -> list[bytes]:
        """Return the raw blocks, in order, maybe the first only: see ``BlockRequests.raw_blocks``."""
        return await self._blocks.raw_blocks(hex_hashes)

    async def mempool_hashes(self) -> list[str]:
        """Return the hex hashes of the transactions in the node's mempool."""
        hashes = await self._send_single("getrawmempool")
        return checked_hashes("getrawmempool", hashes)

    async def mempool_listing(self) -> Listing:
        """Return the same as mempool_hashes, binary, without stalling the loop if it is long.

        Texts that are no hash are left out.
        """
        listing = await self._send_single("getrawmempool", reading=_AS_LISTING)
        if isinstance(listing, Listing):
            return listing
        hashes = checked_hashes("getrawmempool", listing)
        return await asyncio.to_thread(listing_of, hashes)

    async def estimatefee(self, block_count: int, estimate_mode: str | None = None) -> float:
        """Return the fee, in coins per kilobyte, to confirm within block_count blocks.

        -1 if the node has no estimate. The node gets estimate_mode unless it is None.
        """
        return await self._fees.estimate(block_count, estimate_mode)

    async def getnetworkinfo(self) -> dict[str, Any]:
        """Return the node's getnetworkinfo, up to 60 seconds old."""
        return await self._network_info.get(lambda: self._send_for_dict("getnetworkinfo"))

    async def getmempoolinfo(self) -> dict[str, Any]:
        """Return the node's getmempoolinfo, up to a second old."""
        return await self._mempool_info.get(lambda: self._send_for_dict("getmempoolinfo"))

    async def relayfee(self) -> float:
        """Return the least fee, in coins per kilobyte, for the node to relay a transaction."""
        return await self._fees.relay()

    async def mempool_fees(self) -> dict[str, float]:
        """Return the fee rates, in coins per 1000 virtual bytes, that the node's mempool demands.

        ``mempoolminfee`` to enter it now, ``minrelaytxfee`` to enter it when there is room, and
        ``incrementalrelayfee`` by how much a replacement must pay more.  Values that a
        node does not state derive from the others.
        """
        return await self._fees.of_mempool(self.relayfee)

    async def getrawtransaction(
        self, hex_hash: str, verbose: bool = False, *, max_bytes: int = TX_LIMIT
    ) -> Any:
        """Return the transaction as hex, or the node's JSON form of it if verbose.

        Raises ReplyTooLargeError for an answer of more than ``max_bytes``; hex that came in a
        batch may be longer.
        """
        if verbose:
            return await self._txs.verbose_tx(hex_hash, max_bytes)
        return await self.raw_tx(hex_hash, max_bytes)

    def raw_tx(self, hex_hash: str, max_bytes: int = TX_LIMIT) -> "asyncio.Future[str]":
        """Return a future of the transaction as hex: see ``TxRequests.raw_tx``."""
        return self._txs.raw_tx(hex_hash, max_bytes)

    async def getrawtransactions(
        self, hex_hashes: Iterable[str], replace_errs: bool = True
    ) -> list[bytes | None]:
        """Return the raw transactions with the given hashes, in the same order.

        Those the node does not know, or answers without hex, are None if replace_errs; otherwise
        they raise DaemonError.
        """
        if replace_errs:
            return await self._txs.raw_txs_or_none(hex_hashes)
        return list(await self._txs.raw_txs(hex_hashes))

    async def broadcast_transaction(self, raw_tx: str) -> str:
        """Give a transaction, in hex, to the network; return its hex hash."""
        tx_hash = await self._send_single("sendrawtransaction", (raw_tx,))
        if not isinstance(tx_hash, str):
            raise unexpected("sendrawtransaction")
        return tx_hash

    async def submitpackage(self, raw_txs: Sequence[str]) -> dict[str, Any]:
        """Give a package of transactions, in hex and child last, to the network."""
        return await self._send_for_dict("submitpackage", (list(raw_txs),))

    async def testmempoolaccept(self, raw_txs: Sequence[str]) -> list[dict[str, Any]]:
        """Return, for each transaction in hex, whether the node's mempool would take it."""
        results = await self._send_single("testmempoolaccept", (list(raw_txs),))
        if not isinstance(results, list) or not all(isinstance(item, dict) for item in results):
            raise unexpected("testmempoolaccept")
        return results

    async def gettxspendingprevout(self, txid: str, txout_idx: int) -> dict[str, Any]:
        """Return txid, vout and, if that output is spent, spendingtxid (and blockhash)."""
        outpoint = {"txid": txid, "vout": txout_idx}
        params = ([outpoint], {"mempool_only": False})
        results = await self._send_single("gettxspendingprevout", params)
        if not isinstance(results, list) or not results or not isinstance(results[0], dict):
            raise unexpected("gettxspendingprevout")
        return dict(results[0])

    async def getblockheader(self, hex_hash: str) -> dict[str, Any]:
        """Return the node's JSON form of a block's header."""
        return await self._send_for_dict("getblockheader", (hex_hash, True))

    async def gettxoutsetinfo(self, hex_hash: str | None = None) -> dict[str, Any]:
        """Return the number and sum of the node's unspent outputs, which can take it minutes.

        They are those at its tip, or at the block ``hex_hash``, which needs its coinstatsindex.
        """
        # No hash of the set, which takes longest; nodes before 0.21 know only the slow form.
        params = ("none",) if hex_hash is None else ("none", hex_hash)
        try:
            return await self._send_for_dict("gettxoutsetinfo", params)
        except DaemonError:
            if hex_hash is not None:
                raise
            return await self._send_for_dict("gettxoutsetinfo")

    async def sync_target(self) -> int | None:
        """Return the height of the chain that the node itself still downloads.

        None if it has all of it, and for a node that does not answer this call.
        """
        info = await self._chain_info()
        headers, blocks = info.get("headers"), info.get("blocks")
        if info.get("initialblockdownload") is not True:
            return None
        if not (is_int(headers) and is_int(blocks) and 0 <= blocks < headers < MAX_HEIGHT):
            return None
        return int(headers)

    async def size_on_disk(self) -> int | None:
        """Return the bytes of the blocks that the node keeps; None if it does not say."""
        nbytes = (await self._chain_info()).get("size_on_disk")
        # A file system has fewer; and more would not be a number of bytes.
        return int(nbytes) if is_int(nbytes) and 0 <= nbytes < 1 << 63 else None

    async def _chain_info(self) -> dict[str, Any]:
        """Return the node's answer to a call that old nodes do not have, {} after an error."""
        try:
            return await self._send_for_dict("getblockchaininfo")
        except DaemonError as e:
            self.logger.debug(f"ignoring daemon error: {printable(e)}")
            return {}

    async def getindexinfo(self) -> dict[str, Any]:
        """Return the indexes that the node keeps: name to a dict with "synced"."""
        return await self._send_for_dict("getindexinfo")

    # -- Checks at start

    async def check_at_start(self) -> None:
        """Wait for the node, and raise OperatorError if it is none for this coin.

        If there are several, leave out the unusable ones.  A wrong password shows here,
        in the log.
        """
        await self._checks.find_node()
        if self.READS_RAW_BLOCKS:
            await self._blocks.try_rest(self.coin.GENESIS_HASH)

    async def check_node(self, url: str) -> None:
        """Raise OperatorError if the node at url is none for this coin."""
        await self._checks.check_node(url)

    async def check_chain(self) -> None:
        """Raise OperatorError if the node's first block is not the coin's."""
        await self._checks.check_chain()

    async def check_version(self) -> None:
        """Raise OperatorError if the node is older than the coin's minimum, if it has one."""
        await self._checks.check_version()

    async def check_indexes(self) -> None:
        """Raise OperatorError if the node does not keep an index that we depend on.

        A node without the information counts as keeping it; an unfinished index only warns.
        """
        await self._checks.check_indexes()
