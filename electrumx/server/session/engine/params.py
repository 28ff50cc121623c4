"""Conversion of untrusted JSON arguments to typed values, or to an error for the client.

Every check raises an ``RPCError`` with code ``BAD_REQUEST`` that shows the value as Python prints
it. Nothing here does I/O; all of it runs on the event loop, before any work for a request.
"""

from typing import Any

from aiorpcx import RPCError

from electrumx.lib.hash import HASHX_LEN, hex_str_to_hash

# Error codes of our own making; negative ones are JSON-RPC's.
BAD_REQUEST = 1
DAEMON_ERROR = 2
HISTORY_TOO_LARGE = 10001

_HASH_LEN = 32


class ServerFault(RPCError):
    """An error that the client did not cause, and is not charged for."""


def bad_request(message: str, *, cost: float = 0.0) -> RPCError:
    """Return the error for a request that the server cannot serve because of its content."""
    return RPCError(BAD_REQUEST, message, cost=cost)


def printed(value: object) -> str:
    """Return an untrusted value, or an object that holds some, as Python prints it."""
    try:
        return str(value)
    except RecursionError:
        # A thread, which parses large messages, can nest deeper than the handlers can.
        return "what is nested too deeply"


def tx_hash_or_none(value: object) -> bytes | None:
    """Return the 32 bytes, in internal byte order, of a hash in 64 hex digits; None if it is none."""
    try:
        raw = hex_str_to_hash(value)  # type: ignore[arg-type]  # of another type it raises
    except (TypeError, ValueError, AttributeError):
        return None
    return raw if len(raw) == _HASH_LEN else None


def scripthash_to_hashX(scripthash: object) -> bytes:
    """Return the index key (the first 11 bytes of the SHA-256) of a script hash in hex."""
    raw = tx_hash_or_none(scripthash)
    if raw is None:
        raise bad_request(f"{printed(scripthash)} is not a valid script hash")
    return raw[:HASHX_LEN]


def assert_list(value: object) -> list[Any]:
    """Return the value if it is a list."""
    if isinstance(value, list):
        return value
    raise bad_request(f"{printed(value)} should be a list")


def non_negative_integer(value: object) -> int:
    """Return the value as an integer of at least zero.

    Whatever Python's ``int`` takes will pass: numeric text, fractions (cut), booleans. A
    convertible but negative value is shown converted in the error.
    """
    number: int
    try:
        # A value of no such type raises.
        value = number = int(value)  # type: ignore[call-overload]
        if number >= 0:
            return number
    except (ValueError, TypeError, OverflowError):
        pass
    raise bad_request(f"{printed(value)} should be a non-negative integer")


def assert_boolean(value: object) -> bool:
    """Return the value if it equals true or false (1 and 0 do)."""
    if is_boolean(value):
        return bool(value)
    raise bad_request(f"{printed(value)} should be a boolean value")


def is_boolean(value: object) -> bool:
    """Return whether the value equals true or false."""
    return isinstance(value, (bool, int, float)) and value in (0, 1)


def named_boolean(name: str, value: object) -> bool:
    """Return the value of parameter ``name`` if it equals true or false."""
    if is_boolean(value):
        return bool(value)
    raise bad_request(f'"{name}" must be a boolean')


def assert_tx_hash(value: object) -> bytes:
    """Return the 32 bytes, in natural order, of a displayed transaction hash."""
    raw = tx_hash_or_none(value)
    if raw is None:
        raise bad_request(f"{printed(value)} should be a transaction hash")
    return raw


def _is_hex(text: str) -> bool:
    """Return whether text is an even number of hex digits: 0.7 ms for a million."""
    try:
        # It skips spaces.
        return 2 * len(bytes.fromhex(text)) == len(text)
    except ValueError:
        return False


def assert_hex(value: object) -> str:
    """Return the value if it is text of an even number of hex digits, without spaces."""
    if isinstance(value, str) and _is_hex(value):
        return value
    raise bad_request(f"{printed(value)} should be a hex string")


def assert_digits(value: object) -> str:
    """Return the value if it is text of hex digits, of any number."""
    if isinstance(value, str) and _is_hex(value + "0" * (len(value) % 2)):
        return value
    raise bad_request(f"{printed(value)} should be a hex string")


def estimate_mode(value: object) -> str | None:
    """Return the fee estimation mode in upper case; anything but text, and "unset", is none."""
    if not isinstance(value, str):
        return None
    mode = value.upper()
    if mode == "UNSET":
        return None
    if mode not in ("CONSERVATIVE", "ECONOMICAL"):
        raise bad_request(f"unknown estimatefee mode: {mode}")
    return mode
