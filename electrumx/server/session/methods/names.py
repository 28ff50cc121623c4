"""blockchain.name.*: proofs of the values of names, for coins whose names have histories."""

import json
from functools import partial
from inspect import isawaitable
from typing import Any

from electrumx.lib.hash import hash_to_hex_str
from electrumx.server.db import wire_rows
from electrumx.server.session.engine.method_registry import rpc_method
from electrumx.server.session.engine.params import non_negative_integer, scripthash_to_hashX
from electrumx.server.session.engine.prices import HEADER_COST, PROOF_COST, REQUEST_COST
from electrumx.server.session.methods.handler_group import HandlerGroup
from electrumx.server.session.methods.headers import HeaderMethods
from electrumx.server.session.methods.transaction import TransactionMethods

# Transactions in a proof at most: a client with a recent checkpoint needs one or two.
MAX_PROOFS = 100


class NameMethods(HandlerGroup):
    """Requests about names."""

    __slots__ = ()

    @rpc_method("blockchain.name.get_value_proof", since=(1, 4, 3))
    async def name_get_value_proof(
        self, scripthash: object, cp_height: object = 0
    ) -> dict[str, Any]:
        """Return the transactions of a name, the newest first, with proofs, down to a checkpoint.

        They end, as well, where the name had expired before the next newer one.
        """
        hashX = scripthash_to_hashX(scripthash)
        assert isinstance(scripthash, str)  # as it is a hash
        compute = partial(self._value_proofs, hashX, non_negative_integer(cp_height))
        return {
            scripthash: await self.shared.tip.retry_at_stable_tip(compute, self.account.bump_cost)
        }

    async def _value_proofs(self, hashX: bytes, cp_height: int) -> list[dict[str, Any]]:
        history, cost = await self.shared.scripts.histories.read(hashX)
        self.account.bump_cost(cost)
        assert history.entries is not None
        newest = history.entries[-MAX_PROOFS * wire_rows.HISTORY_ENTRY_LEN :]
        coin: Any = self.shared.env.coin
        expiry = coin.NAME_EXPIRY_BLOCKS
        headers = self.session.methods.find(HeaderMethods)
        proofs: list[dict[str, Any]] = []
        last_height: int | None = None
        for tx_hash, height in reversed(wire_rows.entries_of(newest)):
            if expiry is not None and last_height is not None and height < last_height - expiry:
                break
            last_height = height
            proofs.append(await self._value_proof(hash_to_hex_str(tx_hash), height))
            if height <= cp_height:
                self.account.bump_cost(HEADER_COST + PROOF_COST)
                proofs[-1]["header"] = await headers.header_with_proof(height, cp_height)
                break
        return proofs

    async def _value_proof(self, txid: str, height: int) -> dict[str, Any]:
        """Return a transaction of a block in hex, and its merkle proof."""
        self.account.bump_cost(REQUEST_COST)
        raw_tx = await self.shared.node.request("getrawtransaction", txid)
        merkle = self.session.methods.find(TransactionMethods).transaction_merkle(txid, height)
        merkle = json.loads(await merkle if isawaitable(merkle) else merkle)
        del merkle["block_height"]
        return {"height": height, "tx": raw_tx, "tx_merkle": merkle}
