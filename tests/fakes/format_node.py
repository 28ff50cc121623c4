"""The fake node for other coins' chains: their hashes, and the calls of their nodes only.

It parses nothing: blocks and transactions are looked up among what a ChainMaker made.
"""

from electrumx.lib.hash import hash_to_hex_str
from tests.fakes.fake_node import FakeNode
from tests.fakes.formats import Decred
from tests.fakes.time_formats import Exos, GravityZeroCoin, TokenPay

# Whose nodes know no raw blocks.
LEGACY = (GravityZeroCoin, TokenPay, Exos)


class FormatNode(FakeNode):
    """Serves the chain that ends with a block, and the unconfirmed transactions on top of it."""

    def __init__(self, chain, tip):
        self.chain = chain
        self.by_raw = {}
        self.txs = {}
        super().__init__(block_hash=self._block_hash)
        self.set_tip(tip)
        self.overrides = {
            f"{name}list": lambda *_params: {"aa-0": "ENABLED"}
            for name in ("masternode", "smartnode", "znode")
        } | {
            "smartrewards": lambda *params: {"asked": list(params)},
            "protx": lambda *params: {"asked": list(params), "wallet": "the node's own"},
        }
        if isinstance(chain.format, LEGACY):
            self.overrides["estimatesmartfee"] = None

    def set_tip(self, tip, unconfirmed=()):
        """Make a block the tip; blocks that are no longer in the chain are still known."""
        blocks = self.chain.blocks.made(tip)
        for block in blocks:
            self.by_raw[block.raw] = block
            self.txs.update((tx.tx_hash, tx) for tx in block.txs)
        same = sum(1 for old, new in zip(self.blocks, blocks, strict=False) if old == new.raw)
        self.fork(same, [block.raw for block in blocks[same:]])
        self.txs.update((tx.tx_hash, tx) for tx in unconfirmed)
        self.mempool = {tx.tx_hash: tx.raw for tx in unconfirmed}

    def _block_hash(self, raw):
        return self.chain.format.header_hash(self.by_raw[raw].header)

    def block_txs(self, raw):
        return self.by_raw[raw].txs

    def rpc_getrawtransaction(self, hex_hash, verbose=0):
        return self.find_tx(hex_hash)[0].hex()

    def rpc_getblock(self, hex_hash, verbose=True):
        form = self.chain.format
        _height, raw = self.find_block(hex_hash)
        if isinstance(form, LEGACY):
            return self._as_json(hex_hash, raw)
        if not verbose:
            whole = form.whole_genesis if raw == form.indexed_genesis else raw
            return form.on_wire(whole).hex()
        info = self._header_info(hex_hash)
        block = self.by_raw[raw]
        hashes = [hash_to_hex_str(tx.tx_hash) for tx in block.txs]
        if not isinstance(form, Decred):
            return {**info, "tx": hashes}
        return {**info, "tx": hashes[: block.regular], "stx": hashes[block.regular :]}

    def _as_json(self, hex_hash, raw):
        header = self.by_raw[raw].header
        version, time, bits, nonce = [
            int.from_bytes(header[at : at + 4], "little") for at in (0, 68, 72, 76)
        ]
        return {
            **self._header_info(hex_hash),
            "version": version,
            "merkleroot": hash_to_hex_str(header[36:68]),
            "time": time,
            "bits": f"{bits:08x}",
            "nonce": nonce,
            "tx": [hash_to_hex_str(tx.tx_hash) for tx in self.by_raw[raw].txs],
        }

    def _header_info(self, hex_hash):
        info = super()._header_info(hex_hash)
        if isinstance(self.chain.format, Decred):
            _height, raw = self.find_block(hex_hash)
            info["votebits"] = int.from_bytes(raw[100:102], "little")
        return info

    def rpc_estimatefee(self, _blocks):
        return 0.0003
