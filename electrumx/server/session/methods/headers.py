"""blockchain.block.* and blockchain.headers.*: raw headers, and proofs that they are in the chain."""

import asyncio
from functools import partial
from typing import Any

from electrumx.lib.hash import hash_to_hex_str
from electrumx.server.db.wire_rows import hexlify
from electrumx.server.session.base import SessionBase
from electrumx.server.session.engine.json_result import EncodedJSON
from electrumx.server.session.engine.method_registry import rpc_method
from electrumx.server.session.engine.params import bad_request, non_negative_integer
from electrumx.server.session.engine.prices import (
    HEADER_COST,
    PROOF_COST,
    header_proof_cost,
    headers_cost,
)
from electrumx.server.session.methods.handler_group import HandlerGroup
from electrumx.server.session.shared.state import SharedState
from electrumx.server.session.shared.tip_consistency import TipChangedError

MAX_HEADERS = 2016
# From this version on headers are a list.
LISTING_PROTOCOL = (1, 6)


class HeaderMethods(HandlerGroup):
    """Requests about block headers."""

    __slots__ = ("is_subscribed",)

    def __init__(self, session: SessionBase, shared: SharedState) -> None:
        super().__init__(session, shared)
        #: whether the client gets notifications of new headers
        self.is_subscribed = False

    def presented_header(self, height: int, header: bytes, *, proven: bool) -> bytes:
        """Return a stored header as this client is to see it; coins with long headers cut them."""
        return header

    async def presented_headers(self, start_height: int, headers: bytes, *, proven: bool) -> bytes:
        """Return concatenated stored headers as this client is to see them."""
        return headers

    async def _header_or_error(self, height: int) -> bytes:
        header: bytes | None = None
        if height <= self.shared.db.db_height:
            header = await self.shared.blocks.header(height)
        elif height == 0:
            header = self.shared.stage.genesis_header
        if header is None:
            if self.shared.tip.is_height_known(height):
                raise TipChangedError
            raise bad_request(f"height {height:,d} out of range")
        return header

    async def _merkle_proof(self, cp_height: int, height: int) -> dict[str, Any]:
        """Return the proof that the header at a height is below the root at ``cp_height``."""
        max_height = self.shared.db.db_height
        if not height <= cp_height <= max_height:
            if max_height < cp_height and self.shared.tip.is_height_known(cp_height):
                raise TipChangedError
            raise bad_request(
                f"require header height {height:,d} <= cp_height {cp_height:,d} "
                f"<= chain height {max_height:,d}"
            )
        hashes = self.shared.db.header_proof_hashes(cp_height + 1, height)
        self.account.bump_cost(header_proof_cost(hashes))
        prove = self.shared.db.header_branch_and_root
        if self.shared.stage.is_indexing:
            # The cache of proofs comes once there are all headers.
            self.account.bump_cost(header_proof_cost(2 * (cp_height + 1)))
            prove = self.shared.db.header_branch_and_root_uncached
        branch, root = await prove(cp_height + 1, height)
        return {
            "branch": [hash_to_hex_str(item) for item in branch],
            "root": hash_to_hex_str(root),
        }

    @rpc_method("blockchain.block.header")
    def block_header(self, height: object, cp_height: object = 0) -> Any:
        """Return a raw header in hex; with a checkpoint height, also a proof."""
        height = non_negative_integer(height)
        cp_height = non_negative_integer(cp_height)
        if cp_height == 0:
            self.account.bump_cost(HEADER_COST)
            header = self.shared.db.cached_header(height)
            if header is not None and self.shared.tip.is_block_known(height):
                return self.presented_header(height, header, proven=False).hex()
        else:
            self.account.bump_cost(HEADER_COST + PROOF_COST)
        compute = partial(self.header_with_proof, height, cp_height)
        return self.shared.tip.retry_at_known_blocks(
            max(height, cp_height), compute, self.account.bump_cost
        )

    async def header_with_proof(self, height: int, cp_height: int) -> str | dict[str, Any]:
        """Return a raw header in hex, with a proof unless ``cp_height`` is 0; raise RPCError."""
        header = await self._header_or_error(height)
        text = self.presented_header(height, header, proven=cp_height != 0).hex()
        if cp_height == 0:
            return text
        return {"header": text, **await self._merkle_proof(cp_height, height)}

    @rpc_method("blockchain.block.headers")
    async def block_headers(
        self, start_height: object, count: object, cp_height: object = 0
    ) -> Any:
        """Return up to 2,016 headers; with a checkpoint, also a proof of the last."""
        start_height = non_negative_integer(start_height)
        count = non_negative_integer(count)
        cp_height = non_negative_integer(cp_height)
        self.account.bump_cost(headers_cost(count))
        count = min(count, MAX_HEADERS)
        compute = partial(self._block_headers, start_height, count, cp_height)
        top = max(start_height + count - 1, cp_height)
        return await self.shared.tip.retry_at_known_blocks(top, compute, self.account.bump_cost)

    async def _block_headers(self, start_height: int, count: int, cp_height: int) -> Any:
        headers, count = await self._read_headers(start_height, count)
        proven = bool(count and cp_height)
        if self.session.protocol_tuple >= LISTING_PROTOCOL:
            return await self._listed_headers(start_height, headers, count, cp_height)
        presented = await self.presented_headers(start_height, headers, proven=proven)
        if not proven:
            return EncodedJSON(
                b'{"hex":"%b","count":%d,"max":%d}' % (hexlify(presented), count, MAX_HEADERS)
            )
        self.account.bump_cost(PROOF_COST)
        proof = await self._merkle_proof(cp_height, start_height + count - 1)
        return {"hex": presented.hex(), "count": count, "max": MAX_HEADERS, **proof}

    def _list_headers(
        self, start_height: int, headers: bytes, count: int, *, proven: bool
    ) -> list[str]:
        # A single one may be of a block that is not in the database.
        parts = [headers] if count == 1 else self.shared.db.split_headers(start_height, headers)
        return [
            self.presented_header(height, header, proven=proven).hex()
            for height, header in enumerate(parts, start=start_height)
        ]

    async def _listed_headers(
        self, start_height: int, headers: bytes, count: int, cp_height: int
    ) -> dict[str, Any]:
        """Return joined headers as a list of hex, with a proof of the last if wanted."""
        proven = bool(count and cp_height)
        list_all = partial(self._list_headers, start_height, headers, count, proven=proven)
        # Where they vary in length, the lengths come from a file.
        is_static = self.shared.env.coin.STATIC_BLOCK_HEADERS
        listed = list_all() if is_static else await asyncio.to_thread(list_all)
        result: dict[str, Any] = {"headers": listed, "count": count, "max": MAX_HEADERS}
        if proven:
            self.account.bump_cost(PROOF_COST)
            result.update(await self._merkle_proof(cp_height, start_height + count - 1))
        return result

    async def _read_headers(self, start_height: int, count: int) -> tuple[bytes, int]:
        genesis_header = self.shared.stage.genesis_header
        if start_height > self.shared.db.db_height:
            if genesis_header is not None and start_height == 0 and count:
                return genesis_header, 1
            headers, found = b"", 0
        else:
            headers, found = await self.shared.db.read_headers(start_height, count)
        if found < count and self.shared.tip.is_height_known(start_height + found):
            raise TipChangedError
        return headers, found

    @rpc_method("blockchain.headers.subscribe")
    def headers_subscribe(self, /, *_surplus: object, **_named: object) -> dict[str, Any]:
        """Return the tip's header and height, and notify of each new one.

        Clients of protocol 1.3 passed whether they want the header raw, and some still do.
        """
        self.account.bump_cost(HEADER_COST)
        if not self.is_subscribed:
            self.is_subscribed = True
            self.shared.table.counts.headers += 1
        result: dict[str, Any] = self.shared.header.result
        return result

    def end(self) -> None:
        """End the subscription: the session has ended."""
        if self.is_subscribed:
            self.is_subscribed = False
            self.shared.table.counts.headers -= 1
