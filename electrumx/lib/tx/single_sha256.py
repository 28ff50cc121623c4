"""Transactions that are hashed once, not twice: Groestlcoin's and SmartCash's.

Their Merkle trees have two rounds, as everywhere.

Pure; runs in whatever thread parses.
"""

from electrumx.lib.hash import sha256
from electrumx.lib.header_hashes import keccak256
from electrumx.lib.tx.bitcoin import Deserializer, DeserializerSegWit


class DeserializerGroestlcoin(DeserializerSegWit):
    """Reads transactions of BIP144, hashed by one SHA-256."""

    TX_HASH_FN = staticmethod(sha256)


class DeserializerSmartCash(Deserializer):
    """Reads transactions without witness, hashed by one SHA-256."""

    TX_HASH_FN = staticmethod(sha256)

    # Hash of headers and of addresses, kept here under its old name.
    keccak = staticmethod(keccak256)
