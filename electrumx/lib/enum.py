"""Enumeration: names for a run of small integers, looked up both ways.

Pure values; any thread may read them.  It exists because loops over scripts use opcodes as plain
integers, where members of the standard library's ``IntEnum`` would be slow.
"""

from collections.abc import Iterable

from electrumx.lib.errors import ElectrumXError


class EnumError(ElectrumXError):
    """A wrong definition of an enumeration: our own bug."""


class Enumeration:
    """Integers with names.

    enumList has names, each one more than the one before it (the first is 0), and
    (name, value) pairs, which restart the count.  Raises EnumError if an item is neither, or
    if a name or a value comes twice.  A name is an attribute.
    """

    def __init__(self, name: str, enumList: Iterable[str | tuple[str, int]]) -> None:
        self.__doc__ = name
        self.lookup: dict[str, int] = {}
        self.reverseLookup: dict[int, str] = {}

        next_value = 0
        for item in enumList:
            label, value = self._label_and_value(item, next_value)
            if label in self.lookup:
                raise EnumError(f"{name}: the name {label} is used twice")
            if value in self.reverseLookup:
                raise EnumError(f"{name}: {label} and {self.reverseLookup[value]} are both {value}")
            self.lookup[label] = value
            self.reverseLookup[value] = label
            next_value = value + 1

    @staticmethod
    def _label_and_value(item: object, next_value: int) -> tuple[str, int]:
        if isinstance(item, str):
            label, value = item, next_value
        elif isinstance(item, tuple) and len(item) == 2:
            label, value = item
        else:
            raise EnumError(f"expected a name or a (name, value) pair, not {item!r}")
        if not (isinstance(label, str) and label):
            raise EnumError(f"a name must be a text that is not empty, not {label!r}")
        if not isinstance(value, int):
            raise EnumError(f"the value of {label} must be an integer, not {value!r}")
        return label, value

    def __getattr__(self, attr: str) -> int:
        # Only called when ordinary look-up fails, that is also before __init__ has run.
        lookup: dict[str, int] = self.__dict__.get("lookup", {})
        if attr not in lookup:
            raise AttributeError(f"there is no enumeration member {attr!r}")
        return lookup[attr]

    def whatis(self, value: int) -> str:
        """Return the name of value; KeyError if it has none."""
        return self.reverseLookup[value]
