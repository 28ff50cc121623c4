"""Names that only code written for ElectrumX 1.15 imports; nothing in this package uses them.

They stay importable from the modules where 1.15 had them, which import them from here.  Pure
functions; any thread may call them.
"""

import array
import hmac
import inspect
import os
import sys
from collections import deque
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from struct import Struct
from typing import Any, BinaryIO, Generic, TypeVar

T = TypeVar("T")


class cachedproperty(Generic[T]):  # noqa: N801 - a decorator, spelt like property
    """A property computed once and then stored on the instance, or the class if read there.

    A non-data descriptor: the stored value hides it, so later reads cost a plain look-up. On a
    class the value replaces the descriptor itself, hence for all instances too.
    """

    def __init__(self, f: Callable[[Any], T]) -> None:
        self.f = f
        self.__doc__ = f.__doc__

    def __get__(self, obj: Any, owner: type | None = None) -> T:
        obj = owner if obj is None else obj
        value = self.f(obj)
        setattr(obj, self.f.__name__, value)
        return value


def subclasses(base_class: type[T], strict: bool = True) -> list[type[T]]:
    """Return all loaded subclasses of base_class, at any depth, sorted by name.

    Includes base_class itself with strict false. Finds classes through ``__subclasses__``, so they
    may live in any imported module.
    """
    found: dict[type[T], None] = {} if strict else {base_class: None}
    pending = [base_class]
    while pending:
        for cls in pending.pop().__subclasses__():
            if cls not in found:
                found[cls] = None
                pending.append(cls)
    return sorted(found, key=lambda cls: cls.__name__)


def deep_getsizeof(obj: Any) -> int:
    """Return the memory in bytes of an object and its contents; shared parts count once.

    An estimate: it follows containers, instance dictionaries and slots, but not classes, functions
    and modules.
    """
    atomic = (str, bytes, bytearray, int, float, complex, bool, type(None), range, array.array)
    seen: set[int] = set()
    total = 0
    pending: deque[Any] = deque([obj])
    while pending:
        item = pending.pop()
        if id(item) in seen or isinstance(item, type) or inspect.isroutine(item):
            continue
        if inspect.ismodule(item):
            continue
        seen.add(id(item))
        total += sys.getsizeof(item)
        if isinstance(item, atomic):
            continue
        if isinstance(item, Mapping):
            for key, value in item.items():
                pending.append(key)
                pending.append(value)
        elif isinstance(item, (list, tuple, set, frozenset, deque)):
            pending.extend(item)
        if hasattr(item, "__dict__"):
            pending.append(vars(item))
        for cls in type(item).__mro__:
            slots = cls.__dict__.get("__slots__", ())
            for slot in (slots,) if isinstance(slots, str) else slots:
                if slot not in ("__dict__", "__weakref__") and hasattr(item, slot):
                    pending.append(getattr(item, slot))
    return total


def int_to_bytes(value: int) -> bytes:
    """Return a non-negative integer as big-endian bytes of the least length; 0 gives b''."""
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def open_truncate(filename: str | os.PathLike[str]) -> BinaryIO:
    """Open a file for reading and writing, empty; create it if missing."""
    return open(filename, "wb+")


def address_string(address: tuple[Any, Any]) -> str:
    """Return ``host:port`` of a pair; an IP address in its shortest form, IPv6 in brackets."""
    host, port = address
    try:
        ip = ip_address(host)
    except ValueError:
        return f"{host}:{port}"
    return f"[{ip}]:{port}" if ip.version == 6 else f"{ip}:{port}"


def hmac_sha512(key: bytes, msg: bytes) -> bytes:
    """Return the 64-byte HMAC-SHA-512 of msg under key."""
    return hmac.digest(key, msg, "sha512")


unpack_le_int32_from = Struct("<i").unpack_from
unpack_le_int64_from = Struct("<q").unpack_from
unpack_le_uint64_from = Struct("<Q").unpack_from
unpack_be_uint16_from = Struct(">H").unpack_from
unpack_be_uint32_from = Struct(">I").unpack_from
unpack_le_uint32 = Struct("<I").unpack
unpack_le_uint64 = Struct("<Q").unpack
unpack_be_uint32 = Struct(">I").unpack
pack_be_uint32 = Struct(">I").pack
hex_to_bytes = bytes.fromhex
