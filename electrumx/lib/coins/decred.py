"""Decred: two trees of transactions in a block, a hash of its own, votes on blocks."""

from functools import partial
from struct import Struct

from electrumx.lib.coins.base import Coin
from electrumx.lib.coins.mixins import DECRED_DAEMON, DECRED_PROCESSOR, EmptyGenesisMixin
from electrumx.lib.hash import Base58
from electrumx.lib.header_hashes import blake256
from electrumx.lib.tx import DeserializerDecred


class Decred(EmptyGenesisMixin, Coin):
    NAME = "Decred"
    SHORTNAME = "DCR"
    NET = "mainnet"
    P2PKH_VERBYTE = bytes.fromhex("073f")
    P2SH_VERBYTES = [bytes.fromhex("071a")]
    WIF_BYTE = bytes.fromhex("22de")
    XPUB_VERBYTES = bytes.fromhex("02fda926")
    XPRV_VERBYTES = bytes.fromhex("02fda4e8")
    ENCODE_CHECK = staticmethod(partial(Base58.encode_check, hash_fn=DeserializerDecred.blake256d))
    DECODE_CHECK = staticmethod(partial(Base58.decode_check, hash_fn=DeserializerDecred.blake256d))
    GENESIS_HASH = "298e5cc3d985bfe7f81dc135f360abe089edd4396b86d2de66b0cef42b21d980"
    BASIC_HEADER_SIZE = 180
    HEADER_VALUES = [
        "version",
        "prev_block_hash",
        "merkle_root",
        "stake_root",
        "vote_bits",
        "final_state",
        "voters",
        "fresh_stake",
        "revocations",
        "pool_size",
        "bits",
        "sbits",
        "block_height",
        "size",
        "timestamp",
        "nonce",
        "extra_data",
        "stake_version",
    ]
    HEADER_UNPACK = Struct("<i32s32s32sH6sHBBIIQIIII32sI").unpack_from
    HEADER_HASH = blake256
    DESERIALIZER = DeserializerDecred
    DAEMON = DECRED_DAEMON
    BLOCK_PROCESSOR = DECRED_PROCESSOR
    REORG_LIMIT = 1000
    TX_COUNT = 4_629_388
    TX_COUNT_HEIGHT = 260_628
    TX_PER_BLOCK = 17
    RPC_PORT = 9109


class DecredTestnet(Decred):
    SHORTNAME = "tDCR"
    NET = "testnet"
    P2PKH_VERBYTE = bytes.fromhex("0f21")
    P2SH_VERBYTES = [bytes.fromhex("0efc")]
    WIF_BYTE = bytes.fromhex("230e")
    XPUB_VERBYTES = bytes.fromhex("043587d1")
    XPRV_VERBYTES = bytes.fromhex("04358397")
    ENCODE_CHECK = staticmethod(partial(Base58.encode_check, hash_fn=DeserializerDecred.blake256d))
    DECODE_CHECK = staticmethod(partial(Base58.decode_check, hash_fn=DeserializerDecred.blake256d))
    GENESIS_HASH = "a649dce53918caf422e9c711c858837e08d626ecfcd198969b24f7b634a49bac"
    HEADER_UNPACK = Struct("<i32s32s32sH6sHBBIIQIIII32sI").unpack_from
    TX_COUNT = 217_380_620
    TX_COUNT_HEIGHT = 464_000
    TX_PER_BLOCK = 1800
    RPC_PORT = 19109
