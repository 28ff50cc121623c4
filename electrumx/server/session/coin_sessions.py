"""Sessions of currencies with requests that Bitcoin has not, or with other headers.

The currencies' classes name these.
"""

import asyncio
from collections.abc import Awaitable
from typing import Any

from aiorpcx import RPCError

from electrumx.server.daemon.client import DaemonError
from electrumx.server.session.base import SessionBase
from electrumx.server.session.electrum import ElectrumX
from electrumx.server.session.engine.method_registry import rpc_method
from electrumx.server.session.engine.params import DAEMON_ERROR, bad_request
from electrumx.server.session.engine.prices import ITEM_COST, REQUEST_COST, masternode_diff_cost
from electrumx.server.session.methods.handler_group import HandlerGroup
from electrumx.server.session.methods.headers import HeaderMethods
from electrumx.server.session.methods.names import NameMethods
from electrumx.server.session.shared.node import Node
from electrumx.server.session.shared.state import SharedState

# From this version on clients that ask for a proof do not want the whole of a long header.
TRUNCATING_PROTOCOL = (1, 4, 1)
# Characters of an outpoint as text, with ample room.
MAX_COLLATERAL_CHARS = 200


def _words(value: object, what: str) -> str:
    """Return a value for the full node if it is plain text, otherwise raise RPCError.

    A node that cannot parse a request, because of half a surrogate pair or too many brackets, answers
    so that ``Daemon`` repeats the request, and in the end sends it to another node.
    """
    if not isinstance(value, str) or not value.isascii():
        raise bad_request(f"expected {what}")
    return value


class AuxPoWHeaderMethods(HeaderMethods):
    """Requests about the long headers of merged mining, cut for clients with a checkpoint."""

    __slots__ = ()

    def _truncates(self, proven: bool) -> bool:
        return proven and self.session.protocol_tuple >= TRUNCATING_PROTOCOL

    def presented_header(self, height: int, header: bytes, *, proven: bool) -> bytes:
        """Return a stored header, cut if it comes with a proof."""
        if not self._truncates(proven):
            return header
        coin: Any = self.shared.env.coin
        return header[: coin.TRUNCATED_HEADER_SIZE]

    async def presented_headers(self, start_height: int, headers: bytes, *, proven: bool) -> bytes:
        """Return concatenated headers, each cut if a proof comes with them."""
        if not self._truncates(proven):
            return headers
        return await asyncio.to_thread(self._cut_each, headers)

    def _cut_each(self, headers: bytes) -> bytes:
        coin: Any = self.shared.env.coin
        parts = []
        deserializer = coin.DESERIALIZER(headers)
        while deserializer.cursor < len(headers):
            header = deserializer.read_header(coin.BASIC_HEADER_SIZE)
            parts.append(header[: coin.TRUNCATED_HEADER_SIZE])
        return b"".join(parts)


class AuxPoWElectrumX(ElectrumX):
    """Merged mining: headers are long, and clients with a checkpoint need no proof of work."""

    __slots__ = ()

    handler_groups = (*ElectrumX.handler_groups[1:], AuxPoWHeaderMethods)


class NameElectrumX(AuxPoWElectrumX):
    """Names that have histories, of coins with merged mining."""

    __slots__ = ()

    HAS_NAMES = True
    handler_groups = (*AuxPoWElectrumX.handler_groups, NameMethods)


async def _masternode_status(node: Node, collateral: str) -> Any:
    """Return the node's answer to the state of a masternode; raises RPCError."""
    return await node.request("masternode_list", ["status", collateral])


def _state_of(collateral: str, answer: object) -> Any:
    return answer.get(collateral) if isinstance(answer, dict) else None


class MasternodeMethods(HandlerGroup):
    """Requests about masternodes, which the full node answers."""

    __slots__ = ("subscribed",)

    def __init__(self, session: SessionBase, shared: SharedState) -> None:
        super().__init__(session, shared)
        #: collateral outpoints of the masternodes whose state the client has subscribed to
        self.subscribed: set[str] = set()

    @rpc_method("masternode.announce.broadcast")
    async def masternode_announce_broadcast(self, signmnb: object) -> Any:
        """Send the signed announcement of a masternode; return the node's answer."""
        _words(signmnb, "a signed masternode broadcast")
        self.account.bump_cost(REQUEST_COST)
        return await self.shared.node.request("masternode_broadcast", ["relay", signmnb])

    @rpc_method("masternode.subscribe")
    async def masternode_subscribe(self, collateral: object) -> Any:
        """Return the state of a masternode, and notify of it from now on."""
        outpoint = _words(collateral, "a collateral outpoint")
        if len(outpoint) > MAX_COLLATERAL_CHARS:
            raise bad_request("expected a collateral outpoint")
        self.account.bump_cost(REQUEST_COST)
        answer = await _masternode_status(self.shared.node, outpoint)
        if answer is None:
            return None
        if outpoint not in self.subscribed:
            self.subscribed.add(outpoint)
            self.shared.table.counts.masternodes += 1
        self.shared.fan_out.always.add(self.session)
        return _state_of(outpoint, answer)

    @rpc_method("masternode.list")
    async def masternode_list(self, payees: object) -> list[dict[str, Any]]:
        """Return all masternodes, or those that pay certain addresses."""
        if not isinstance(payees, list):
            raise bad_request("expected a list of payees")
        self.account.bump_cost(REQUEST_COST)
        try:
            masternodes: list[dict[str, Any]] = await self.shared.masternodes.get()
        except DaemonError as e:
            raise RPCError(DAEMON_ERROR, f"daemon error: {e!r}") from None
        self.account.bump_cost(len(masternodes) * ITEM_COST)
        if not payees:
            return masternodes
        wanted = {payee for payee in payees if isinstance(payee, str)}
        return [masternode for masternode in masternodes if masternode["payee"] in wanted]

    @rpc_method("protx.diff")
    async def protx_diff(self, base_height: object, height: object) -> Any:
        """Return how the list of registered masternodes changed between two heights."""
        if not isinstance(base_height, int) or not isinstance(height, int):
            raise bad_request("expected a int block heights")
        max_height = self.shared.db.db_height
        if not 1 <= base_height <= height <= max_height:
            raise bad_request(
                f"require 1 <= base_height {base_height:,d} <= height {height:,d} "
                f"<= chain height {max_height:,d}"
            )
        self.account.bump_cost(masternode_diff_cost(height - base_height))
        key = ("protx.diff", base_height, height)
        self.shared.oversized.check(key)
        result = await self.shared.node.request("protx", ("diff", base_height, height))
        return await self.session.bounded_json(key, result)

    @rpc_method("protx.info")
    async def protx_info(self, protx_hash: object) -> Any:
        """Return a registered masternode as the node has it, without what its own wallet adds."""
        _words(protx_hash, "protx hash string")
        self.account.bump_cost(REQUEST_COST)
        result = await self.shared.node.request("protx", ("info", protx_hash))
        if isinstance(result, dict):
            result.pop("wallet", None)
        return result


class DashElectrumX(ElectrumX):
    """Masternodes: their list, their states, and registered ones as the node has them."""

    __slots__ = ("mns",)

    handler_groups = (*ElectrumX.handler_groups, MasternodeMethods)

    def set_up(self) -> None:
        """Find the parts that this kind of session uses by name."""
        super().set_up()
        #: collateral outpoints of the masternodes whose state the client has subscribed to
        self.mns = self.methods.find(MasternodeMethods).subscribed

    def sub_count(self) -> int:
        """Return the number of subscriptions held."""
        return super().sub_count() + len(self.mns)

    def on_lost(self) -> None:
        """End; the client gets no more notifications."""
        super().on_lost()
        self.shared.table.counts.masternodes -= len(self.mns)
        self.mns.clear()

    def notify(self, touched: set[bytes], height_changed: bool) -> Awaitable[None] | None:
        """Notify as every session does, and then of the masternodes' states."""
        waiting = super().notify(touched, height_changed)
        return self._notify_masternodes(waiting) if self.mns else waiting

    async def _notify_masternodes(self, waiting: Awaitable[None] | None) -> None:
        if waiting is not None:
            await waiting
        for collateral in tuple(self.mns):
            try:
                answer = await _masternode_status(self.shared.node, collateral)
            except RPCError as e:
                # Other subscriptions get notifications all the same.
                self.logger.info(f"masternode {collateral} not notified: {e.message}")
                continue
            status = _state_of(collateral, answer)
            await self.send_notification("masternode.subscribe", (collateral, status))


class RewardMethods(HandlerGroup):
    """Requests about SmartCash's rewards, which the full node answers."""

    __slots__ = ()

    @rpc_method("smartrewards.current")
    async def smartrewards_current(self) -> Any:
        """Return the current rewards as the node has them."""
        self.account.bump_cost(REQUEST_COST)
        return await self.shared.node.request("smartrewards", ["current"])

    @rpc_method("smartrewards.check")
    async def smartrewards_check(self, addr: object) -> Any:
        """Return an address's rewards as the node has them."""
        _words(addr, "an address")
        self.account.bump_cost(REQUEST_COST)
        return await self.shared.node.request("smartrewards", ["check", addr])


class SmartCashElectrumX(DashElectrumX):
    """SmartCash: masternodes, and rewards."""

    __slots__ = ()

    handler_groups = (*DashElectrumX.handler_groups, RewardMethods)
