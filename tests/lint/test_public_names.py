"""The names that third-party code imports from ElectrumX 1.15 are still there."""

import ast
import importlib
import inspect

import pytest

from electrumx.lib import coins
from tests.conftest import REPOSITORY

NAMES = {
    "electrumx": "version version_short Controller Env",
    "electrumx.lib.hash": (
        "HASHX_LEN sha256 double_sha256 ripemd160 hash160 hmac_sha512 hash_to_hex_str "
        "hex_str_to_hash Base58Error Base58"
    ),
    "electrumx.lib.util": (
        "ConnectionLogger CompactFormatter make_logger class_logger cachedproperty formatted_time "
        "deep_getsizeof subclasses chunks resolve_limit bytes_to_int int_to_bytes "
        "increment_byte_string LogicalFile open_file open_truncate address_string protocol_tuple "
        "version_string protocol_version unpack_le_int32_from unpack_le_int64_from "
        "unpack_le_uint16_from unpack_le_uint32_from unpack_le_uint64_from unpack_be_uint16_from "
        "unpack_be_uint32_from unpack_le_uint32 unpack_le_uint64 unpack_be_uint32 pack_le_int32 "
        "pack_le_int64 pack_le_uint16 pack_le_uint32 pack_le_uint64 pack_be_uint16 pack_be_uint32 "
        "pack_byte hex_to_bytes pack_varint pack_varbytes struct_le_i struct_le_q struct_le_H "
        "struct_le_I struct_le_Q struct_be_H struct_be_I structB"
    ),
    "electrumx.lib.merkle": "Merkle MerkleCache",
    "electrumx.lib.enum": "EnumError Enumeration",
    "electrumx.lib.script": (
        "ScriptError OpCodes is_unspendable_legacy is_unspendable_genesis ScriptPubKey Script "
        "_match_ops"
    ),
    "electrumx.lib.tx": (
        "ZERO MINUS_1 Tx TxInput TxOutput TxSegWit TxJoinSplit TxTime TxTimeSegWit TxTrezarcoin "
        "TxInputTokenPay TxInputTokenPayStealth TxInputDcr TxOutputDcr TxDcr TxBitcoinDiamond "
        "TxBitcoinDiamondSegWit Deserializer DeserializerSegWit DeserializerAuxPow "
        "DeserializerAuxPowSegWit DeserializerEquihash DeserializerEquihashSegWit "
        "DeserializerZcash DeserializerTxTime DeserializerTxTimeSegWit "
        "DeserializerTxTimeSegWitNavCoin DeserializerTrezarcoin DeserializerReddcoin "
        "DeserializerEmercoin DeserializerElectra DeserializerSimplicity DeserializerECCoin "
        "DeserializerBitcoinAtom DeserializerGroestlcoin DeserializerSmartCash "
        "DeserializerTokenPay DeserializerZcoin DeserializerDecred DeserializerBitcoinDiamond "
        "DeserializerBitcoinDiamondSegWit DeserializerXaya DeserializerPrimecoin "
        "SkipTxDeserialize"
    ),
    "electrumx.lib.tx_dash": (
        "DeserializerDash DashTx DashProRegTx DashProUpServTx DashProUpRegTx DashProUpRevTx "
        "DashCbTx DashSubTxRegister DashSubTxTopup DashSubTxResetKey DashSubTxCloseAccount "
        "TxOutPoint"
    ),
    "electrumx.lib.tx_axe": "DeserializerAxe AxeTx AxeProRegTx TxOutPoint",
    "electrumx.lib.coins": (
        "Block CoinError Coin AuxPowMixin EquihashMixin ScryptMixin KomodoMixin BitcoinMixin "
        "BitcoinTestnetMixin NameMixin NameIndexMixin PrimeChainPowMixin Bitcoin BitcoinSegwit "
        "BitcoinCash BitcoinSV Litecoin Dogecoin Namecoin Dash Zcash UFO Odin Pac Pivx Bitg tBitg "
        "Ixcoin Batacoin Digitalcoin Cannacoin Europecoin Aryacoin Donu"
    ),
    "electrumx.lib.peer": "Peer",
    "electrumx.lib.text": "sessions_lines groups_lines peers_lines",
    "electrumx.lib.env_base": "EnvBase",
    "electrumx.lib.server_base": "ServerBase",
    "electrumx.server.env": "Env ServiceError",
    "electrumx.server.controller": "Controller Notifications",
    "electrumx.server.daemon": (
        "DaemonError WarmingUpError ServiceRefusedError Daemon DashDaemon SmartCashDaemon "
        "ZcoinMtpDaemon DecredDaemon FakeEstimateFeeDaemon LegacyRPCDaemon PreLegacyRPCDaemon "
        "FakeEstimateLegacyRPCDaemon"
    ),
    "electrumx.server.db": "DB FlushData UTXO",
    "electrumx.server.history": "History",
    "electrumx.server.storage": "db_class Storage LevelDB RocksDB",
    "electrumx.server.block_processor": (
        "ChainError Prefetcher BlockProcessor DecredBlockProcessor NameIndexBlockProcessor "
        "LTORBlockProcessor"
    ),
    "electrumx.server.mempool": "MemPool MemPoolAPI MemPoolTx MemPoolTxSummary DBSyncError",
    "electrumx.server.peers": (
        "PeerManager PeerSession BadPeerError assert_good PEER_GOOD PEER_STALE PEER_NEVER "
        "PEER_BAD STALE_SECS WAKEUP_SECS PEER_ADD_PAUSE"
    ),
    "electrumx.server.session": (
        "BAD_REQUEST DAEMON_ERROR scripthash_to_hashX non_negative_integer assert_boolean "
        "assert_tx_hash SessionGroup SessionReferences SessionManager SessionBase ElectrumX "
        "LocalRPC DashElectrumX SmartCashElectrumX AuxPoWElectrumX"
    ),
}


@pytest.mark.parametrize("module", NAMES)
def test_every_name_can_be_imported(module):
    found = importlib.import_module(module)
    assert [name for name in NAMES[module].split() if not hasattr(found, name)] == []


def test_a_coin_has_its_class_methods():
    names = [
        "lookup_coin_class",
        "sanitize_url",
        "max_fetch_blocks",
        "genesis_block",
        "hashX_from_script",
        "lookup_xverbytes",
        "address_to_hashX",
        "P2PKH_address_from_hash160",
        "P2PKH_address_from_pubkey",
        "P2SH_address_from_hash160",
        "hash160_to_P2PKH_script",
        "hash160_to_P2PKH_hashX",
        "pay_to_address_script",
        "privkey_WIF",
        "header_hash",
        "header_prevhash",
        "static_header_offset",
        "static_header_len",
        "block_header",
        "block",
        "decimal_value",
        "warn_old_client_on_tx_broadcast",
    ]
    assert [name for name in names if not callable(getattr(coins.Bitcoin, name, None))] == []


def test_bitcoin_is_the_main_network():
    assert inspect.isclass(coins.Bitcoin)
    assert coins.Bitcoin is coins.Coin.lookup_coin_class("Bitcoin", "mainnet")


def test_the_named_pushes_of_a_prefix_are_opcodes_with_their_data():
    script = bytes.fromhex("520361626304ffffffff0164") + bytes.fromhex("6d6d") + b"\x51"
    fields, rest = coins.Namecoin.interpret_name_prefix(script, coins.Namecoin.NAME_SHAPES)
    assert fields == {"name": (3, b"abc")}
    assert rest == b"\x51"
    assert coins.Namecoin.interpret_name_prefix(b"\x51", coins.Namecoin.NAME_SHAPES) == (
        None,
        b"\x51",
    )


NAMES_OF_IMPORTERS = {name for names in NAMES.values() for name in names.split()}


def defined_in_compat():
    tree = ast.parse((REPOSITORY / "electrumx/lib/compat.py").read_text())
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield node.targets[0].id


def test_the_compat_module_has_promised_names_only():
    assert set(defined_in_compat()) - {"T"} <= NAMES_OF_IMPORTERS


def test_nothing_in_the_package_uses_a_name_of_the_compat_module():
    names = set(defined_in_compat()) - {"T"}
    for path in sorted((REPOSITORY / "electrumx").rglob("*.py")):
        if path.name == "compat.py":
            continue
        tree = ast.parse(path.read_text())
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        used |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert not used & names, path
