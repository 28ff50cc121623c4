"""The fuzzer's first inputs: real and made-up blocks and transactions, cut to its length.

``python -m tests.fuzz.seeds FOLDER`` writes a folder for every target.
"""

import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from electrumx.lib.coins import Axe, Coin, Dash, LitecoinRegtest, Zcash
from electrumx.lib.tx import Tx, TxInput, TxMWEB, TxOutput, TxSegWit, TxZcashV5, TxZcashV6
from electrumx.lib.util import pack_varint
from tests import facts
from tests.fakes.chain import ChainMaker
from tests.fakes.format_chain import FORMATS
from tests.fuzz import connections, targets

Seed = tuple[str, bytes]  # the target's name, the input


def _cut(block: Any, room: int) -> bytes:
    """Return a block with its first whole transactions that fit in so many bytes."""
    kept: list[bytes] = []
    left = room - len(block.header) - 9
    for tx, _hash in block.transactions:
        raw = tx.serialize()
        left -= len(raw)
        if left < 0:
            break
        kept.append(raw)
    return bytes(block.header) + pack_varint(len(kept)) + b"".join(kept)


def _of_block(coin: type[Coin], like: type[Coin], raw: bytes, height: int) -> Iterator[Seed]:
    """Yield a block and its shortest transactions; like is the coin whose target reads it."""
    family = targets.family_of(like)
    block = coin.block(raw, height)
    cut = _cut(block, targets.MAX_LEN - 1)
    for number in targets.selectors(like, targets.BLOCK):
        yield family, bytes([number]) + cut
    txs = sorted((tx.serialize() for tx, _hash in block.transactions), key=len)
    for number in targets.selectors(like, targets.TRANSACTION):
        for tx in [*txs[:3], *txs[-1:]]:
            yield family, bytes([number]) + tx
    for tx, _hash in block.transactions[:20]:
        for txout in tx.outputs:
            yield "scripts", txout.pk_script
    if len(block.header) == 80:
        for number in range(len(targets.COMPILED_COINS)):
            yield "compiled", bytes([number]) + cut


def _of_facts() -> Iterator[Seed]:
    for block in facts.blocks():
        yield from _of_block(block.coin, block.coin, block.raw, block.height)
    for made in facts.synthetic_transactions():
        for number in targets.selectors(made.coin, targets.TRANSACTION):
            yield targets.family_of(made.coin), bytes([number]) + made.raw
        for number in range(len(targets.COMPILED_COINS)):
            yield "compiled", bytes([number]) + bytes(80) + b"\1" + made.raw
    for tx in facts.transactions():
        for output in tx.outputs:
            yield "scripts", output.script


def _generated() -> Iterator[Seed]:
    for make in FORMATS:
        chain = ChainMaker(format=make(seed=1))
        coin = chain.coin
        like = Coin.lookup_coin_class(coin.NAME, coin.__mro__[1].NET)
        # Axe's own format needs a package for its headers.
        likes = [Dash, Axe] if like is Dash else [like]
        for height, raw in enumerate(chain.chain(chain.grow(chain.genesis_hash, 12))):
            for like in likes:
                yield from _of_block(coin, like, raw, height)
        for script in chain.draws.scripts:
            yield "scripts", script
    yield from _of_litecoin()
    yield from _of_zcash()
    maker = ChainMaker(seed=1, tokens=True)
    for raw in maker.chain(maker.grow(maker.genesis_hash, 12)):
        for number in range(len(targets.COMPILED_COINS)):
            yield "compiled", bytes([number]) + raw
    for number, coin in enumerate(targets.ADDRESS_COINS):
        address = coin.P2PKH_address_from_hash160(bytes(range(20)))
        yield "addresses", bytes([2 * number]) + address.encode()
        for verbyte in (coin.P2PKH_VERBYTE, *coin.P2SH_VERBYTES):
            yield "addresses", bytes([2 * number + 1]) + verbyte + bytes(range(20))


def _of_litecoin() -> Iterator[Seed]:
    """Yield blocks with and without the integration transaction of an extension block."""
    txin, txout = TxInput(bytes(range(32)), 1, b"", 5), TxOutput(7, b"\x51" * 20)
    for tx in (
        TxSegWit(2, 0, 1, [txin], [txout, txout], [[b"w" * 70, b""]], 9),
        TxMWEB(2, 0, 8, [txin, txin], [txout], [], 9),
        TxMWEB(2, 0, 9, [txin], [txout], [[b"w" * 70]], 9),
        Tx(1, [txin], [txout], 0),
    ):
        raw = bytes(80) + pack_varint(2) + 2 * tx.serialize() + b"the extension"
        yield from _of_block(LitecoinRegtest, LitecoinRegtest, raw, 5)


def _of_zcash() -> Iterator[Seed]:
    """Yield transactions of versions 5 and 6 with shielded parts."""
    txin, txout = TxInput(bytes(range(32)), 1, b"signature", 5), TxOutput(7, b"\x51" * 20)
    for spends, outs, actions in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (2, 1, 1)):
        tail = pack_varint(spends) + bytes(96 * spends) + pack_varint(outs) + bytes(756 * outs)
        if spends or outs:
            tail += bytes(8 + 32 * bool(spends) + 256 * spends + 192 * outs + 64)
        tail += pack_varint(actions) + bytes(820 * actions)
        if actions:
            tail += bytes(41) + b"\5proof" + bytes(64 * actions + 64)
        for tx in (
            TxZcashV5(5, [txin], [txout], 9, b"rule", 8, tail),
            TxZcashV6(6, [txin], [txout], 9, b"rule", 8, tail + b"\0"),
        ):
            for number in targets.selectors(Zcash, targets.TRANSACTION):
                yield "zcash", bytes([number]) + tx.serialize()


def seeds() -> Iterator[Seed]:
    """Yield (the name of a target, an input) for all targets."""
    yield from _generated()
    yield from connections.seeds()
    yield from _of_facts()


def write(folder: Path) -> None:
    """Write every seed that is short enough to FOLDER/TARGET/."""
    for target in targets.TARGETS:
        (folder / target).mkdir(parents=True, exist_ok=True)
    for target, seed in seeds():
        if len(seed) <= targets.MAX_LEN:
            (folder / target / sha256(seed).hexdigest()[:20]).write_bytes(seed)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
