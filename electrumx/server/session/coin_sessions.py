"""Sessions of coins that offer clients more than Bitcoin, or show them headers otherwise.

Coins name these classes.
"""

import asyncio
from typing import Any

from aiorpcx import RPCError

from electrumx.server.session.electrum import ElectrumX
from electrumx.server.session.engine.method_registry import rpc_method
from electrumx.server.session.engine.params import bad_request

# From this version on clients that ask for a proof do not want the whole of a long header.
TRUNCATING_PROTOCOL = (1, 4, 1)
# Characters of an outpoint as text, with ample room.
MAX_COLLATERAL_CHARS = 200


def _require_words(value: Any, what: str) -> None:
    """Refuse what is to be passed on to the node if it is no plain text.

    A node that cannot parse a request, for half a character in it, or too many brackets, says so in
    a way that has it repeated, and another node asked in the end.
    """
    if not isinstance(value, str) or not value.isascii():
        raise bad_request(f"expected {what}")


class AuxPoWElectrumX(ElectrumX):
    """Merged mining: headers are long, and clients with a checkpoint need no proof of work."""

    def _truncates(self, proven: bool) -> bool:
        return proven and self.protocol_tuple >= TRUNCATING_PROTOCOL

    def presented_header(self, height: int, header: bytes, *, proven: bool) -> bytes:
        """Return a stored header, cut if it comes with a proof."""
        if not self._truncates(proven):
            return header
        return header[: self.coin.TRUNCATED_HEADER_SIZE]

    async def presented_headers(self, start_height: int, headers: bytes, *, proven: bool) -> bytes:
        """Return concatenated headers, each cut if a proof comes with them."""
        if not self._truncates(proven):
            return headers
        return await asyncio.to_thread(self._cut_each, headers)

    def _cut_each(self, headers: bytes) -> bytes:
        coin = self.coin
        parts = []
        deserializer = coin.DESERIALIZER(headers)
        while deserializer.cursor < len(headers):
            header = deserializer.read_header(coin.BASIC_HEADER_SIZE)
            parts.append(header[: coin.TRUNCATED_HEADER_SIZE])
        return b"".join(parts)


class DashElectrumX(ElectrumX):
    """Masternodes: their list, their states, and what the node tells of registered ones."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        # Collateral outpoints of the masternodes whose state the client wants to hear of
        self.mns: set[str] = set()

    def sub_count(self) -> int:
        """Return the number of subscriptions held."""
        return super().sub_count() + len(self.mns)

    def notify(self, touched: set[bytes], height_changed: bool) -> Any:
        """Notify as every session does, and then of the masternodes' states."""
        waiting = super().notify(touched, height_changed)
        return self._notify_masternodes(waiting) if self.mns else waiting

    async def _notify_masternodes(self, waiting: Any) -> None:
        if waiting is not None:
            await waiting
        for collateral in tuple(self.mns):
            try:
                status = await self._status(collateral)
            except RPCError as e:
                # Other subscriptions are none the worse for it.
                self.logger.info(f"masternode {collateral} not notified: {e.message}")
                continue
            await self.send_notification("masternode.subscribe", (collateral, status))

    async def _status(self, collateral: str) -> Any:
        result = await self.shared.node.request("masternode_list", ["status", collateral])
        return result.get(collateral) if isinstance(result, dict) else None

    @rpc_method("masternode.announce.broadcast")
    async def masternode_announce_broadcast(self, signmnb: Any) -> Any:
        """Pass on the signed announcement of a masternode; return the node's answer."""
        _require_words(signmnb, "a signed masternode broadcast")
        self.bump_cost(1.0)
        return await self.shared.node.request("masternode_broadcast", ["relay", signmnb])

    @rpc_method("masternode.subscribe")
    async def masternode_subscribe(self, collateral: Any) -> Any:
        """Return the state of a masternode, and notify of it from now on."""
        _require_words(collateral, "a collateral outpoint")
        if len(collateral) > MAX_COLLATERAL_CHARS:
            raise bad_request("expected a collateral outpoint")
        self.bump_cost(1.0)
        result = await self.shared.node.request("masternode_list", ["status", collateral])
        if result is None:
            return None
        self.mns.add(collateral)
        self.shared.fan_out.always.add(self)
        return result.get(collateral) if isinstance(result, dict) else None

    @rpc_method("masternode.list")
    async def masternode_list(self, payees: Any) -> list[dict[str, Any]]:
        """Return all masternodes, or those that pay certain addresses."""
        if not isinstance(payees, list):
            raise bad_request("expected a list of payees")
        self.bump_cost(1.0)
        masternodes = await self.shared.masternodes.get()
        self.bump_cost(len(masternodes) / 50)
        if not payees:
            return masternodes
        wanted = {payee for payee in payees if isinstance(payee, str)}
        return [masternode for masternode in masternodes if masternode["payee"] in wanted]

    @rpc_method("protx.diff")
    async def protx_diff(self, base_height: Any, height: Any) -> Any:
        """Return how the list of registered masternodes changed between two heights."""
        if not isinstance(base_height, int) or not isinstance(height, int):
            raise bad_request("expected a int block heights")
        max_height = self.db.db_height
        if not 1 <= base_height <= height <= max_height:
            raise bad_request(
                f"require 1 <= base_height {base_height:,d} <= height {height:,d} "
                f"<= chain height {max_height:,d}"
            )
        self.bump_cost(1.0 + (height - base_height) / 100)
        key = ("protx.diff", base_height, height)
        self.shared.oversized.check(key)
        result = await self.shared.node.request("protx", ("diff", base_height, height))
        return await self.bounded_json(key, result)

    @rpc_method("protx.info")
    async def protx_info(self, protx_hash: Any) -> Any:
        """Return what the node tells of a registered masternode, without its own wallet's part."""
        _require_words(protx_hash, "protx hash string")
        self.bump_cost(1.0)
        result = await self.shared.node.request("protx", ("info", protx_hash))
        if isinstance(result, dict):
            result.pop("wallet", None)
        return result


class SmartCashElectrumX(DashElectrumX):
    """SmartCash: rewards besides."""

    @rpc_method("smartrewards.current")
    async def smartrewards_current(self) -> Any:
        """Return what the node tells of the current rewards."""
        self.bump_cost(1.0)
        return await self.shared.node.request("smartrewards", ["current"])

    @rpc_method("smartrewards.check")
    async def smartrewards_check(self, addr: Any) -> Any:
        """Return what the node tells of an address's rewards."""
        _require_words(addr, "an address")
        self.bump_cost(1.0)
        return await self.shared.node.request("smartrewards", ["check", addr])
