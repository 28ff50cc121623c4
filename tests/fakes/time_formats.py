"""How coins whose transactions have, or had, a time write them: proof of stake in Peercoin's way."""

import hashlib

from electrumx.lib.hash import double_sha256
from electrumx.lib.tx import (
    MINUS_1,
    Tx,
    TxECCoin,
    TxInputTokenPayStealth,
    TxNavCoin,
    TxNavCoinSegWit,
    TxTime,
    TxTimeLast,
    TxTimeSegWit,
    TxTrezarcoin,
)
from electrumx.lib.util import pack_varbytes
from tests.fakes.formats import CoinFormat


def scrypt_hash(header):
    """The hash of proof-of-stake headers up to version 6."""
    return hashlib.scrypt(header, salt=header, n=1024, r=1, p=1, dklen=32)


class ProofOfStake(CoinFormat):
    name = "Neblio"

    def header_hash(self, header):
        return scrypt_hash(header)

    def tx(self, inputs, outputs):
        return TxTime(1, self.random.randint(0, MINUS_1), inputs, outputs, 0)

    def body(self, txs):
        return super().body(txs) + pack_varbytes(b"signature" * 8)


class TokenPay(ProofOfStake):
    name = "TokenPay"

    def inputs(self, outpoints):
        ins = super().inputs(outpoints)
        if self.random.random() < 0.5:
            script = b"\x6a\xb9" + bytes(97)
            ins.insert(0, TxInputTokenPayStealth(self.random.randbytes(33), b"\3\0\0", script, 1))
        return ins


class GravityZeroCoin(ProofOfStake):
    """A node that gives no raw blocks, and no fees."""

    name = "GravityZeroCoin"


class Exos(ProofOfStake):
    """A node that gives no raw blocks, and takes a parameter the other way round."""

    name = "EXOS"

    def header(self, prev_hash, root, height):
        return self.plain_header(prev_hash, root, 3)

    def header_hash(self, header):
        return double_sha256(header)


class Blackcoin(ProofOfStake):
    name = "Blackcoin"

    def tx(self, inputs, outputs):
        if self.random.random() < 0.5:
            return super().tx(inputs, outputs)
        return Tx(2, inputs, outputs, 0)


class Trezarcoin(ProofOfStake):
    """A comment at the end of transactions; headers are hashed by BLAKE2s with a key."""

    name = "Trezarcoin"

    def tx(self, inputs, outputs):
        version = self.random.randint(1, 2)
        comment = b"comment" if version == 2 else b""
        return TxTrezarcoin(version, self.random.randint(0, MINUS_1), inputs, outputs, 0, comment)

    def header_hash(self, header):
        key, root = header[58:80] + header[36:46], header[36:68]
        return hashlib.blake2s(header[:80] + root, digest_size=32, key=key).digest()


class Reddcoin(ProofOfStake):
    """The time at the end."""

    name = "Reddcoin"

    def tx(self, inputs, outputs):
        version = self.random.randint(1, 2)
        time = self.random.randint(0, MINUS_1) if version == 2 else 0
        return TxTimeLast(version, time, inputs, outputs, 0)

    def header_hash(self, header):
        return double_sha256(header)


class TimeByVersion(ProofOfStake):
    """Transactions of one version have no time."""

    name, without_time, header_version = "Electra", 7, 8

    def tx(self, inputs, outputs):
        if self.random.random() < 0.5:
            return super().tx(inputs, outputs)
        return Tx(self.without_time, inputs, outputs, 0)

    def header(self, prev_hash, root, height):
        return self.plain_header(prev_hash, root, self.header_version)

    def header_hash(self, header):
        return double_sha256(header)


class Simplicity(TimeByVersion):
    name, without_time, header_version = "Simplicity", 3, 2


class ECCoin(ProofOfStake):
    """The hash of a service's record at the end of some transactions."""

    name = "ECCoin"

    def tx(self, inputs, outputs):
        version = self.random.randint(1, 2)
        service = b"s" * 32 if version == 2 else b""
        return TxECCoin(version, self.random.randint(0, MINUS_1), inputs, outputs, 0, service)


class Peercoin(ProofOfStake):
    """With witnesses; and no time in the newest version."""

    name = "Peercoin"

    def tx(self, inputs, outputs):
        if self.random.random() < 0.4:
            return CoinFormat.tx(self, inputs, outputs)._replace(version=3)
        if self.random.random() < 0.5:
            return super().tx(inputs, outputs)
        return TxTimeSegWit(1, 1_500_000_000, 0, 1, inputs, outputs, self.witness(inputs), 0)

    def header_hash(self, header):
        return double_sha256(header)


class Navcoin(ProofOfStake):
    """A text at the end of transactions, with and without witness."""

    name = "Navcoin"

    def tx(self, inputs, outputs):
        version = self.random.randint(1, 2)
        text = b"text" if version == 2 else b""
        if self.random.random() < 0.5:
            return TxNavCoin(version, 1_500_000_000, inputs, outputs, 0, text)
        witness = self.witness(inputs)
        return TxNavCoinSegWit(version, 1_500_000_000, 0, 1, inputs, outputs, witness, 0, text)

    def hashed(self, tx):
        if isinstance(tx, TxNavCoinSegWit):
            tx = TxNavCoin(tx.version, tx.time, tx.inputs, tx.outputs, tx.locktime, tx.str_d_zeel)
        return tx.serialize()

    def header(self, prev_hash, root, height):
        return self.plain_header(prev_hash, root, 7)

    def header_hash(self, header):
        return double_sha256(header)
