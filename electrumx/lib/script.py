"""Output scripts: opcodes, parsing into operations, known templates, unspendable tests.

Pure functions that any thread may call.  The index needs only the unspendable tests: it files every
other output under the hash of its whole script, whatever the script is.
"""

from collections.abc import Callable, Sequence
from struct import error as struct_error
from typing import Any, Final, NamedTuple, Union

from electrumx.lib.enum import Enumeration
from electrumx.lib.errors import ElectrumXError
from electrumx.lib.util import (
    pack_byte,
    pack_le_uint16,
    pack_le_uint32,
    unpack_le_uint16_from,
    unpack_le_uint32_from,
)

# An opcode up to OP_PUSHDATA4 is (opcode, the data it pushes), any other the plain number.
Op = Union[int, tuple[int, bytes]]


class ScriptError(ElectrumXError):
    """A script cannot be parsed."""


# In the order of their numbers, which have no gap from OP_PUSHDATA1 on.
_OPCODE_NAMES_FROM_76 = """
OP_PUSHDATA1
OP_PUSHDATA2 OP_PUSHDATA4 OP_1NEGATE OP_RESERVED OP_1 OP_2 OP_3 OP_4 OP_5 OP_6 OP_7 OP_8
OP_9 OP_10 OP_11 OP_12 OP_13 OP_14 OP_15 OP_16 OP_NOP OP_VER OP_IF OP_NOTIF OP_VERIF
OP_VERNOTIF OP_ELSE OP_ENDIF OP_VERIFY OP_RETURN OP_TOALTSTACK OP_FROMALTSTACK OP_2DROP
OP_2DUP OP_3DUP OP_2OVER OP_2ROT OP_2SWAP OP_IFDUP OP_DEPTH OP_DROP OP_DUP OP_NIP OP_OVER
OP_PICK OP_ROLL OP_ROT OP_SWAP OP_TUCK OP_CAT OP_SUBSTR OP_LEFT OP_RIGHT OP_SIZE OP_INVERT
OP_AND OP_OR OP_XOR OP_EQUAL OP_EQUALVERIFY OP_RESERVED1 OP_RESERVED2 OP_1ADD OP_1SUB
OP_2MUL OP_2DIV OP_NEGATE OP_ABS OP_NOT OP_0NOTEQUAL OP_ADD OP_SUB OP_MUL OP_DIV OP_MOD
OP_LSHIFT OP_RSHIFT OP_BOOLAND OP_BOOLOR OP_NUMEQUAL OP_NUMEQUALVERIFY OP_NUMNOTEQUAL
OP_LESSTHAN OP_GREATERTHAN OP_LESSTHANOREQUAL OP_GREATERTHANOREQUAL OP_MIN OP_MAX OP_WITHIN
OP_RIPEMD160 OP_SHA1 OP_SHA256 OP_HASH160 OP_HASH256 OP_CODESEPARATOR OP_CHECKSIG
OP_CHECKSIGVERIFY OP_CHECKMULTISIG OP_CHECKMULTISIGVERIFY OP_NOP1 OP_CHECKLOCKTIMEVERIFY
OP_CHECKSEQUENCEVERIFY
"""

OpCodes = Enumeration(
    "Opcodes", [("OP_0", 0), *zip(_OPCODE_NAMES_FROM_76.split(), range(76, 256), strict=False)]
)

# Read once: attribute look-up on an Enumeration is a Python call.
_OP_PUSHDATA1: Final = OpCodes.OP_PUSHDATA1
_OP_PUSHDATA2: Final = OpCodes.OP_PUSHDATA2
_OP_PUSHDATA4: Final = OpCodes.OP_PUSHDATA4
_OP_RETURN: Final = OpCodes.OP_RETURN

# In a template, any push of data.
_ANY_PUSH: Final = -1


def is_unspendable_legacy(script: bytes) -> bool:
    """Return True if script begins with OP_RETURN or OP_FALSE OP_RETURN."""
    return script[:1] == b"\x6a" or script[:2] == b"\x00\x6a"


def is_unspendable_genesis(script: bytes) -> bool:
    """Return True if script begins with OP_FALSE OP_RETURN.

    Since Bitcoin SV's Genesis upgrade a lone OP_RETURN ends a script without failing it.
    """
    return script[:2] == b"\x00\x6a"


def _match_ops(ops: Sequence[Op], pattern: Sequence[int]) -> bool:
    """Return True if ops are those of pattern, in which -1 stands for any push."""
    if len(ops) != len(pattern):
        return False
    return all(
        isinstance(op, tuple) if wanted == _ANY_PUSH else op == wanted
        for op, wanted in zip(ops, pattern, strict=True)
    )


class ScriptPubKey:
    """The templates of output scripts that have Base58 addresses."""

    TO_ADDRESS_OPS: Final = (
        OpCodes.OP_DUP,
        OpCodes.OP_HASH160,
        _ANY_PUSH,
        OpCodes.OP_EQUALVERIFY,
        OpCodes.OP_CHECKSIG,
    )
    TO_P2SH_OPS: Final = (OpCodes.OP_HASH160, _ANY_PUSH, OpCodes.OP_EQUAL)
    TO_PUBKEY_OPS: Final = (_ANY_PUSH, OpCodes.OP_CHECKSIG)

    class PayToHandlers(NamedTuple):
        """The functions that ``ScriptPubKey.pay_to`` calls for each kind of script."""

        address: Callable[[bytes], Any]  # a 20-byte hash of a public key
        script_hash: Callable[[bytes], Any]  # a 20-byte hash of a script
        pubkey: Callable[[bytes], Any]  # a public key
        unspendable: Callable[[], Any]
        strange: Callable[[bytes], Any]  # the whole script

    @classmethod
    def pay_to(cls, handlers: PayToHandlers, script: bytes) -> Any:
        """Call the handler for the kind of script, and return its result.

        Does not check the length of pushed data.  A script that does not parse is unspendable.
        """
        try:
            ops = Script.get_ops(script)
        except ScriptError:
            return handlers.unspendable()

        for pattern, handler in (
            (cls.TO_ADDRESS_OPS, handlers.address),
            (cls.TO_P2SH_OPS, handlers.script_hash),
            (cls.TO_PUBKEY_OPS, handlers.pubkey),
        ):
            if _match_ops(ops, pattern):
                # Each of the templates has exactly one push.
                return handler(next(op[1] for op in ops if isinstance(op, tuple)))
        if ops and ops[0] == _OP_RETURN:
            return handlers.unspendable()
        return handlers.strange(script)

    @classmethod
    def P2SH_script(cls, hash160: bytes) -> bytes:
        """Return the 23-byte script that pays to a 20-byte script hash."""
        return b"\xa9" + Script.push_data(hash160) + b"\x87"

    @classmethod
    def P2PKH_script(cls, hash160: bytes) -> bytes:
        """Return the 25-byte script that pays to a 20-byte public key hash."""
        return b"\x76\xa9" + Script.push_data(hash160) + b"\x88\xac"


class Script:
    """Reading and writing of raw scripts."""

    @classmethod
    def get_ops(cls, script: bytes) -> list[Op]:
        """Return the operations of script in order.

        An opcode up to OP_PUSHDATA4, OP_0 included, gives (opcode, data), any other its number.
        Raises ScriptError if a push or its length runs past the end.
        """
        ops: list[Op] = []
        size = len(script)
        n = 0
        while n < size:
            op = script[n]
            n += 1
            if op > _OP_PUSHDATA4:
                ops.append(op)
                continue
            length, n = cls._push_length(script, op, n)
            # A slice past the end would quietly be short.
            if n + length > size:
                raise ScriptError(f"a push of {length:,d} bytes runs past the end of the script")
            ops.append((op, script[n : n + length]))
            n += length
        return ops

    @staticmethod
    def _push_length(script: bytes, op: int, n: int) -> tuple[int, int]:
        """Return how many bytes op pushes and where they begin; n is the offset behind op."""
        if op < _OP_PUSHDATA1:
            return op, n
        try:
            if op == _OP_PUSHDATA1:
                return script[n], n + 1
            if op == _OP_PUSHDATA2:
                (length,) = unpack_le_uint16_from(script, n)
                return length, n + 2
            (length,) = unpack_le_uint32_from(script, n)
            return length, n + 4
        except (IndexError, struct_error):
            raise ScriptError("a push without its length at the end of the script") from None

    @classmethod
    def push_data(cls, data: bytes) -> bytes:
        """Return the shortest push of data by an explicit length; empty data is OP_0."""
        n = len(data)
        if n < _OP_PUSHDATA1:
            return pack_byte(n) + data
        if n < 0x100:
            return pack_byte(_OP_PUSHDATA1) + pack_byte(n) + data
        if n < 0x10000:
            return pack_byte(_OP_PUSHDATA2) + pack_le_uint16(n) + data
        return pack_byte(_OP_PUSHDATA4) + pack_le_uint32(n) + data

    @classmethod
    def opcode_name(cls, opcode: int) -> str:
        """Return the name of an opcode, made up for plain pushes and unknown ones."""
        if 0 < opcode < _OP_PUSHDATA1:
            return f"OP_PUSHBYTES_{opcode}"
        try:
            return OpCodes.whatis(opcode)
        except KeyError:
            return f"OP_UNKNOWN_{opcode}"

    @classmethod
    def dump(cls, script: bytes) -> str:
        """Return script as words, pushed data in hex; ScriptError if it does not parse."""
        words = []
        for op in cls.get_ops(script):
            if isinstance(op, tuple):
                words.append(op[1].hex() if op[1] else cls.opcode_name(op[0]))
            else:
                words.append(cls.opcode_name(op))
        return " ".join(words)
