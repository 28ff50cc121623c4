"""The oracle for chains that were made in other coins' formats: nothing is parsed for it."""

from tests.fakes.formats import Decred
from tests.integration.oracle import Oracle, Output, ParsedTx, Spend, scripthash_of, sha256d


class MadeOracle(Oracle):
    """The results of a correct server when a MadeBlock is the tip.

    unconfirmed are the MadeTxs of the mempool.
    """

    def __init__(self, chain, tip, unconfirmed=()):
        self.chain, self.format = chain, chain.format
        blocks = chain.blocks.made(tip)
        mempool = list(unconfirmed)
        if isinstance(self.format, Decred):
            # The contents of the last block are not certain before it has a successor.
            last = blocks.pop()
            mempool += last.txs[1:] if last.regular else last.txs
            self.void_heights = {
                block.height
                for block, child in zip(blocks, [*blocks[1:], last], strict=True)
                if not child.header[100] & 1
            }
        self.blocks = blocks
        self._mempool_txs = mempool
        self.spendable_genesis = self.format.spendable_genesis
        super().__init__(None)

    def _tip_height(self):
        return len(self.blocks) - 1

    def _parsed(self, tx):
        spends = [Spend(tx_hash[::-1].hex(), index) for tx_hash, index in tx.spends]
        outputs = [Output(value, self.format.owner_of(script)) for value, script in tx.outputs]
        return ParsedTx(tx.tx_hash[::-1].hex(), spends, outputs)

    def _index_chain(self):
        self.names = {}
        for block in self.blocks:
            self.headers.append(block.header.hex())
            txs = block.txs
            if isinstance(self.format, Decred) and block.height in self.void_heights:
                txs = txs[block.regular :]
            for tx in txs:
                names = {self.format.name_in(script) for _value, script in tx.outputs} - {None}
                self.names[tx.tx_hash[::-1].hex()] = names
            self._index_txs(block.height, [self._parsed(tx) for tx in txs])

    def _looked_up_by(self, tx):
        names = self.names.get(tx.txid, ())
        return [scripthash_of(self.format.name_script(name)) for name in sorted(names)]

    def _index_mempool(self):
        for tx in self._mempool_txs:
            parsed = self._parsed(tx)
            self.mempool[parsed.txid] = parsed

    def header_proof(self, height, cp_height):
        """The branch and the root that prove a header to who knows the root up to another."""
        level = [
            self.format.header_hash(bytes.fromhex(header))
            for header in self.headers[: cp_height + 1]
        ]
        branch = []
        while len(level) > 1:
            if len(level) % 2:
                level.append(level[-1])
            branch.append(level[height ^ 1][::-1].hex())
            level = [sha256d(level[n] + level[n + 1]) for n in range(0, len(level), 2)]
            height //= 2
        return {"branch": branch, "root": level[0][::-1].hex()}
