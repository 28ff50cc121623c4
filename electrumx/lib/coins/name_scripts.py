"""Outputs that carry a name: a prefix of the script, which the name's index and addresses need.

A shape describes a prefix: a list whose items are an opcode; a text, which stands for a
push of data and names it; DATA_PUSH for a push without a name; DATA_PUSH_MULTIPLE for any number
of pushes and the drops that take them off the stack again, two at a time.  A script that begins
with a shape has the prefix, and the rest is the script of its address.

Pure; any thread may use it.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Final, Optional, Union

from electrumx.lib.coins.base import Coin, ServerClass
from electrumx.lib.coins.mixins import NAME_INDEX_PROCESSOR, NAME_SESSION
from electrumx.lib.script import OpCodes, Script, ScriptError

DATA_PUSH: Final = -1
DATA_PUSH_MULTIPLE: Final = -2

Shape = Sequence[Union[int, str]]
# Name of a push -> its opcode and its data.
Fields = dict[str, tuple[int, bytes]]

_2DROP, _DROP = OpCodes.OP_2DROP, OpCodes.OP_DROP
# Bytes of a push before its data, by opcode; fewer opcodes have their length in themselves.
_PUSH_HEAD_SIZES: Final = {
    OpCodes.OP_PUSHDATA1: 2,
    OpCodes.OP_PUSHDATA2: 3,
    OpCodes.OP_PUSHDATA4: 5,
}


def _match(ops: Sequence[Any], shape: Shape) -> Optional[tuple[Fields, int]]:
    """Return the named pushes and how many ops the shape covers; None if ops begin otherwise."""
    fields: Fields = {}
    at = 0
    for item in shape:
        if item == DATA_PUSH_MULTIPLE:
            start = at
            while at < len(ops) and isinstance(ops[at], tuple):
                at += 1
            twos, ones = divmod(at - start, 2)
            drops = [_2DROP] * twos + [_DROP] * ones
            if list(ops[at : at + len(drops)]) != drops:
                return None
            at += len(drops)
            continue
        if at == len(ops):
            return None
        op = ops[at]
        if isinstance(item, str) or item == DATA_PUSH:
            if not isinstance(op, tuple):
                return None
            if isinstance(item, str):
                fields[item] = op
        elif op != item:
            return None
        at += 1
    return fields, at


class NameMixin(Coin):
    """Coins whose outputs may have a prefix with a name, which is no part of the address."""

    DATA_PUSH_MULTIPLE: ClassVar[int] = DATA_PUSH_MULTIPLE
    # The shapes of the prefixes; the first that fits counts.
    NAME_SHAPES: ClassVar[Sequence[Shape]] = []

    @classmethod
    def interpret_name_prefix(
        cls, script: bytes, possible_ops: Sequence[Shape]
    ) -> tuple[Optional[Fields], bytes]:
        """Return (the named pushes, the rest of the script), or (None, script) without prefix.

        A push is (opcode, data).
        """
        # Nearly every output has no prefix, and this runs for all: be quick about them.
        if not script or all(script[0] != shape[0] for shape in possible_ops):
            return None, script
        try:
            ops = Script.get_ops(script)
        except ScriptError:
            return None, script
        for shape in possible_ops:
            matched = _match(ops, shape)
            if matched is not None:
                fields, length = matched
                return fields, script[cls.find_end_position_of_name(script, length) :]
        return None, script

    @classmethod
    def find_end_position_of_name(cls, script: bytes, length: int) -> int:
        """Return the offset in bytes behind the first length operations of a script."""
        end = 0
        for op in Script.get_ops(script)[:length]:
            if isinstance(op, tuple):
                opcode, data = op
                end += _PUSH_HEAD_SIZES.get(opcode, 1) + len(data)
            else:
                end += 1
        return end

    @classmethod
    def split_name_script(cls, script: bytes) -> tuple[Optional[Fields], bytes]:
        """Return as interpret_name_prefix, for the coin's own shapes."""
        return cls.interpret_name_prefix(script, cls.NAME_SHAPES)

    @classmethod
    def hashX_from_script(cls, script: bytes) -> bytes:
        """Return the key of an output in the index: that of its address."""
        return super().hashX_from_script(cls.split_name_script(script)[1])


class NameIndexMixin(NameMixin):
    """Coins whose names clients can look up: each has a history like a script's."""

    BLOCK_PROCESSOR: ClassVar[ServerClass] = NAME_INDEX_PROCESSOR
    SESSIONCLS: ClassVar[ServerClass] = NAME_SESSION
    # A name without an update for so many blocks has no value any more; None: names stay.
    NAME_EXPIRY_BLOCKS: ClassVar[Optional[int]] = None
    OP_NAME_UPDATE: ClassVar[int]

    @classmethod
    def build_name_index_script(cls, name: bytes) -> bytes:
        """Return the script that stands for a name: clients ask for its history."""
        return b"".join(
            (
                bytes([cls.OP_NAME_UPDATE]),
                Script.push_data(name),
                Script.push_data(b""),
                bytes([_2DROP, _DROP, OpCodes.OP_RETURN]),
            )
        )

    @classmethod
    def name_hashX_from_script(cls, script: bytes) -> Optional[bytes]:
        """Return the hashX of the name in an output's script; None if there is no name."""
        fields, _address_script = cls.split_name_script(script)
        if not fields or "name" not in fields:
            return None
        _opcode, name = fields["name"]
        return Coin.hashX_from_script(cls.build_name_index_script(name))
