"""Nodes of other coins than Bitcoin's: the names of their methods, and the form of their blocks.

Coins name these classes.  The public names are those of electrumx.server.daemon, which
exports them, too.

Runs in: the event loop.
"""

import asyncio
import datetime
from collections.abc import Iterable, Sequence
from struct import Struct
from struct import error as struct_error
from typing import Any

import aiohttp

from electrumx.lib.errors import DeserializeError
from electrumx.lib.hash import hex_str_to_hash
from electrumx.lib.tx import DeserializerDecred
from electrumx.lib.util import pack_varint, unpack_le_uint16_from, unpack_le_uint32_from
from electrumx.server.daemon.client import Daemon, DaemonError
from electrumx.server.daemon.mempool_listing import Listing, listing_of
from electrumx.server.daemon.responses import checked_hashes, is_int, unexpected

__all__ = [
    "DashDaemon",
    "DecredDaemon",
    "FakeEstimateFeeDaemon",
    "FakeEstimateLegacyRPCDaemon",
    "LegacyRPCDaemon",
    "PreLegacyRPCDaemon",
    "SmartCashDaemon",
    "ZcoinMtpDaemon",
]


class DashDaemon(Daemon):
    """Nodes with masternodes.  Parameters and results pass through."""

    MASTERNODE_BROADCAST = "masternodebroadcast"
    MASTERNODE_LIST = "masternodelist"

    async def masternode_broadcast(self, params: Sequence[Any]) -> Any:
        """Pass on a masternode's announcement."""
        return await self._send_single(self.MASTERNODE_BROADCAST, params)

    async def masternode_list(self, params: Sequence[Any]) -> Any:
        """Return the node's list of masternodes."""
        return await self._send_single(self.MASTERNODE_LIST, params)

    async def protx(self, params: Sequence[Any]) -> Any:
        """Call one of the commands about registered masternodes."""
        return await self._send_single("protx", params)


class SmartCashDaemon(DashDaemon):
    """SmartCash calls them smartnodes, and pays rewards; it has no protx."""

    MASTERNODE_BROADCAST = "smartnodebroadcast"
    MASTERNODE_LIST = "smartnodelist"

    async def smartrewards(self, params: Sequence[Any]) -> Any:
        """Return the node's information on rewards."""
        return await self._send_single("smartrewards", params)


class ZcoinMtpDaemon(DashDaemon):
    """Zcoin calls them znodes, and sends a proof with each header that is not kept."""

    MASTERNODE_BROADCAST = "znodebroadcast"
    MASTERNODE_LIST = "znodelist"

    # Bit of the version of a block mined with Merkle tree proofs, and where these are.
    VERSION_MTP = 0x1000
    PROOF_START, PROOF_END = 180, 180 + 198_864

    async def raw_blocks(self, hex_hashes: Iterable[str]) -> list[bytes]:
        """Return raw blocks without their proofs."""
        return [self.without_proof(block) for block in await super().raw_blocks(hex_hashes)]

    @classmethod
    def without_proof(cls, block: bytes) -> bytes:
        """Return a raw block without its proof, if it has one."""
        if len(block) < 4 or not unpack_le_uint32_from(block)[0] & cls.VERSION_MTP:
            return block
        return block[: cls.PROOF_START] + block[cls.PROOF_END :]


class FakeEstimateFeeDaemon(Daemon):
    """Nodes that estimate no fees: the coin has constants, in coins per kilobyte."""

    async def estimatefee(self, block_count: int, estimate_mode: str | None = None) -> float:
        """Return the coin's constant, whatever the target and the mode."""
        fee: float = self.coin.ESTIMATE_FEE  # type: ignore[attr-defined]  # of such coins
        return fee

    async def relayfee(self) -> float:
        """Return the coin's constant."""
        fee: float = self.coin.RELAY_FEE  # type: ignore[attr-defined]  # of such coins
        return fee


class LegacyRPCDaemon(Daemon):
    """Nodes that give blocks as JSON only, from which this assembles the raw blocks."""

    READS_RAW_BLOCKS = False
    _header = Struct("<I32s32sIII")

    async def raw_blocks(self, hex_hashes: Iterable[str]) -> list[bytes]:
        """Return the blocks with the given hashes, in the same order.

        Raises DaemonError if the node lacks a transaction, or if its reply cannot be a block.
        """
        blocks = await self._send_vector("getblock", ((h,) for h in hex_hashes))
        return [await self.make_raw_block(block) for block in blocks]

    async def make_raw_block(self, block: Any) -> bytes:
        """Return the bytes of a block that the node gave as JSON."""
        try:
            header = self._pack_header(block)
            txids = block["tx"] if block["height"] > 0 else []
        except (LookupError, TypeError, ValueError, AttributeError, struct_error) as e:
            raise unexpected("getblock") from e
        txids = checked_hashes("getblock", txids)
        raw_txs = await self.getrawtransactions(txids, replace_errs=False) if txids else []
        return header + pack_varint(len(txids)) + b"".join([raw_tx or b"" for raw_tx in raw_txs])

    def _pack_header(self, block: Any) -> bytes:
        return self._header.pack(
            # Nodes may state a version as a negative number.
            block["version"] & 0xFFFFFFFF,
            hex_str_to_hash(block.get("previousblockhash") or "00" * 32),
            hex_str_to_hash(block["merkleroot"]),
            self.timestamp_safe(block["time"]),
            int(block["bits"], 16),
            block["nonce"],
        )

    @staticmethod
    def timestamp_safe(time: int | str) -> int:
        """Return seconds since 1970 from a number, or from a text in UTC; raises ValueError."""
        if isinstance(time, int):
            return time
        moment, _, _zone = time.rpartition(" ")
        parsed = datetime.datetime.strptime(f"{moment} +0000", "%Y-%m-%d %H:%M:%S %z")
        return int(parsed.timestamp())


class PreLegacyRPCDaemon(LegacyRPCDaemon):
    """Nodes that also take a boolean as the second parameter of getblock."""

    async def deserialised_block(self, hex_hash: str) -> dict[str, Any]:
        """Return the node's JSON form of a block."""
        return await self._send_for_dict("getblock", (hex_hash, False))


class FakeEstimateLegacyRPCDaemon(LegacyRPCDaemon, FakeEstimateFeeDaemon):
    """Nodes that neither give raw blocks nor estimate fees."""


class DecredDaemon(Daemon):
    """Decred: a block's regular transactions are valid only if the next block approves them.

    So indexing the last block waits for its successor: the reported height is one less,
    and the transactions of the last block count as unconfirmed.
    """

    HEADER_SIZE = 180
    VOTE_BITS_AT = 100
    APPROVED = 1  # bit of the vote bits

    def connector(self) -> aiohttp.BaseConnector | None:
        """Return a connector for nodes with certificates that they signed themselves."""
        return aiohttp.TCPConnector(ssl=False)

    def _set_height(self, height: int) -> None:
        self._tip_height = height
        super()._set_height(height - 1 if height > 0 else height)

    async def height(self) -> int:
        """Request the node's height; return, and cache, one less."""
        await super().height()
        height = self.cached_height()
        assert height is not None
        return height

    async def raw_blocks(self, hex_hashes: Iterable[str]) -> list[bytes]:
        """Return the blocks with the given hashes, without disapproved transactions."""
        hex_hashes = list(hex_hashes)
        blocks = await super().raw_blocks(hex_hashes)
        if any(len(block) < self.HEADER_SIZE for block in blocks):
            raise unexpected("getblock")
        result = []
        # They may be the first ones only.
        for n, (hex_hash, block) in enumerate(zip(hex_hashes, blocks, strict=False)):
            following = blocks[n + 1] if n + 1 < len(blocks) else b""
            if following[4:36] == hex_str_to_hash(hex_hash):
                (votes,) = unpack_le_uint16_from(following, self.VOTE_BITS_AT)
            else:
                votes = await self._votes_on(hex_hash)
            if not votes & self.APPROVED:
                self.logger.info(f"block {hex_hash} is invalidated")
                block = await asyncio.to_thread(self.without_regular_txs, block)
            result.append(block)
        return result

    async def _votes_on(self, hex_hash: str) -> int:
        """Return the vote bits of the block that follows on another."""
        next_hash = (await self.getblockheader(hex_hash)).get("nextblockhash")
        if not isinstance(next_hash, str) or not next_hash:
            message = f"Could not find next block for {hex_hash}"
            raise DaemonError({"code": -1, "message": message})
        votes = (await self.getblockheader(next_hash)).get("votebits")
        if not is_int(votes):
            raise unexpected("getblockheader")
        return int(votes or 0)

    @classmethod
    def without_regular_txs(cls, block: bytes) -> bytes:
        """Return a raw block with an empty regular tree; DaemonError if it does not parse."""
        deserializer = DeserializerDecred(block, start=cls.HEADER_SIZE)
        try:
            deserializer.read_tx_tree()
        except DeserializeError as e:
            raise unexpected("getblock") from e
        return block[: cls.HEADER_SIZE] + b"\0" + block[deserializer.cursor :]

    async def mempool_listing(self) -> Listing:
        """Return the same as mempool_hashes, binary."""
        return await asyncio.to_thread(listing_of, await self.mempool_hashes())

    async def mempool_hashes(self) -> list[str]:
        """Return the hashes of the mempool, and of the last block without its coinbase."""
        hashes = await super().mempool_hashes()
        await self.height()
        if self._tip_height <= 0:
            return hashes
        (tip,) = await self.block_hex_hashes(self._tip_height, 1)
        block = await self.deserialised_block(tip)
        regular = checked_hashes("getblock", block.get("tx") or [])
        stake = checked_hashes("getblock", block.get("stx") or [])
        return hashes + regular[1:] + stake
