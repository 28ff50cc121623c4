"""Tests of the small shared tools."""

import logging
import os
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from electrumx.lib import util


def record(name="electrumx.server.db.DB", msg="hello"):
    return logging.LogRecord(name, logging.INFO, __file__, 1, msg, None, None)


def test_the_connection_logger_prefixes_the_connection_id():
    logger = util.ConnectionLogger(logging.getLogger("test"), {"conn_id": 7})

    assert logger.process("hi", {}) == ("[7] hi", {})


def test_the_connection_logger_logs_unknown_without_an_id():
    logger = util.ConnectionLogger(logging.getLogger("test"), {})

    assert logger.process("hi", {"exc_info": True}) == ("[unknown] hi", {"exc_info": True})


def test_the_compact_formatter_shows_the_last_component_and_leaves_the_record():
    item = record()

    assert util.CompactFormatter("%(name)s:%(message)s").format(item) == "DB:hello"
    assert item.name == "electrumx.server.db.DB"


def test_make_logger_sets_handler_and_level_and_does_not_propagate():
    handler = logging.NullHandler()
    logger = util.make_logger("test_make_logger", handler=handler, level=logging.ERROR)

    assert logger.handlers == [handler]
    assert logger.level == logging.ERROR
    assert not logger.propagate


def test_class_logger_is_a_child():
    assert util.class_logger("a.b", "Class").name == "a.b.Class"


class Cached:
    calls = 0

    @util.cachedproperty
    def value(self):
        """Return a number."""
        self.calls += 1
        return 42


def test_a_cached_property_is_computed_once_and_can_be_overwritten():
    obj = Cached()

    assert (obj.value, obj.value, obj.calls) == (42, 42, 1)
    obj.value = 3
    assert obj.value == 3
    assert Cached().value == 42


def test_a_cached_property_read_on_the_class_is_stored_there():
    class OnClass:
        @util.cachedproperty
        def name(self):
            return self.__name__

    assert OnClass.name == "OnClass"
    assert vars(OnClass)["name"] == "OnClass"


class Base:
    pass


class Zed(Base):
    pass


class Ay(Zed):
    pass


def test_subclasses_are_found_at_any_depth_and_sorted():
    assert util.subclasses(Base) == [Ay, Zed]
    assert util.subclasses(Base, strict=False) == [Ay, Base, Zed]


def test_a_deep_size_counts_each_object_once():
    text = "x" * 1000

    assert util.deep_getsizeof([text, text]) < 2 * 1000
    assert util.deep_getsizeof([text, "y" * 1000]) > 2 * 1000
    assert util.deep_getsizeof({"a": b"1" * 500, "b": {1: (b"2" * 500,)}}) > 1000


def test_a_deep_size_follows_attributes_slots_and_cycles():
    class Slotted:
        __slots__ = ("a",)

    class Plain:
        pass

    inner, outer = Slotted(), Plain()
    inner.a = b"1" * 700
    outer.inner, outer.me = inner, outer

    assert 700 < util.deep_getsizeof(outer) < 3000


def test_chunks_cover_all_items_in_order():
    assert list(util.chunks([1, 2, 3, 4, 5], 2)) == [[1, 2], [3, 4], [5]]
    assert list(util.chunks([], 2)) == []


@pytest.mark.parametrize(("limit", "expected"), [(None, -1), (-5, -1), (0, 0), (7, 7)])
def test_a_limit_resolves(limit, expected):
    assert util.resolve_limit(limit) == expected


def test_integers_to_bytes_are_minimal_and_big_endian():
    assert util.int_to_bytes(0) == b""
    assert util.int_to_bytes(255) == b"\xff"
    assert util.int_to_bytes(0x010203) == b"\x01\x02\x03"
    assert util.bytes_to_int(b"\x00\x01\x00") == 256


@given(st.integers(min_value=0, max_value=1 << 300))
def test_integers_survive_bytes(value):
    assert util.bytes_to_int(util.int_to_bytes(value)) == value


@pytest.mark.parametrize(
    ("bs", "expected"),
    [
        (b"1", b"2"),
        (b"\x01\xff", b"\x02\x00"),
        (b"\xff\xff", None),
        (b"\x00", b"\x01"),
        (b"", None),
    ],
)
def test_byte_strings_are_incremented(bs, expected):
    assert util.increment_byte_string(bs) == expected


@given(st.binary(min_size=1, max_size=12), st.binary(max_size=12))
def test_an_incremented_string_bounds_all_with_the_prefix(prefix, rest):
    bound = util.increment_byte_string(prefix)

    assert bound is None or prefix + rest < bound


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "00"),
        (0xFC, "fc"),
        (0xFD, "fdfd00"),
        (0xFFFF, "fdffff"),
        (0x10000, "fe00000100"),
        (0xFFFFFFFF, "feffffffff"),
        (0x100000000, "ff0000000001000000"),
    ],
)
def test_a_varint_is_as_short_as_can_be(value, expected):
    assert util.pack_varint(value).hex() == expected


def test_varbytes_carry_their_length():
    assert util.pack_varbytes(b"abc") == b"\x03abc"
    assert util.pack_varbytes(b"a" * 253) == b"\xfd\xfd\x00" + b"a" * 253


def test_the_struct_helpers_have_their_widths_and_byte_orders():
    data = bytes(range(1, 17))

    assert util.unpack_le_int32_from(data) == (0x04030201,)
    assert util.unpack_le_int64_from(data, 1) == (0x0908070605040302,)
    assert util.unpack_le_uint16_from(data, 1) == (0x0302,)
    assert util.unpack_le_uint32_from(data) == (0x04030201,)
    assert util.unpack_le_uint64_from(data) == (0x0807060504030201,)
    assert util.unpack_be_uint16_from(data) == (0x0102,)
    assert util.unpack_be_uint32_from(data, 1) == (0x02030405,)
    assert util.unpack_le_uint32(data[:4]) == (0x04030201,)
    assert util.unpack_le_uint64(data[:8]) == (0x0807060504030201,)
    assert util.unpack_be_uint32(data[:4]) == (0x01020304,)
    assert util.pack_le_int32(-2) == b"\xfe\xff\xff\xff"
    assert util.pack_le_int64(-2) == b"\xfe" + b"\xff" * 7
    assert util.pack_le_uint16(0x0102) == b"\x02\x01"
    assert util.pack_le_uint32(1) == b"\x01\x00\x00\x00"
    assert util.pack_le_uint64(1) == b"\x01" + bytes(7)
    assert util.pack_be_uint16(0x0102) == b"\x01\x02"
    assert util.pack_be_uint32(1) == b"\x00\x00\x00\x01"
    assert util.pack_byte(5) == b"\x05"
    assert util.hex_to_bytes("0aff") == b"\x0a\xff"


def test_open_file_creates_only_on_demand_and_never_truncates(tmp_path):
    path = tmp_path / "file"
    with pytest.raises(FileNotFoundError):
        util.open_file(path)

    with util.open_file(path, create=True) as f:
        f.write(b"abc")
    with util.open_file(str(path), create=True) as f:
        assert f.read() == b"abc"
    with util.open_truncate(path) as f:
        assert f.read() == b""


def test_only_a_regular_file_is_opened_and_nothing_stays_open(tmp_path):
    (tmp_path / "file").write_bytes(b"text")
    os.mkfifo(tmp_path / "pipe")
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    with util.open_regular(tmp_path / "file") as file:
        assert file.read() == b"text"
    with pytest.raises(OSError, match="no regular file"):
        util.open_regular(tmp_path / "pipe")
    with pytest.raises(IsADirectoryError):
        util.open_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        util.open_regular(tmp_path / "missing")
    assert before is None or len(os.listdir("/proc/self/fd")) == before


def test_a_logical_file_is_spread_over_padded_names(tmp_path):
    file = util.LogicalFile(tmp_path / "log", 2, 6)
    file.write(4, b"abcdefghij")

    assert sorted(os.listdir(tmp_path)) == ["log00", "log01", "log02"]
    assert (tmp_path / "log00").read_bytes() == b"\0\0\0\0ab"
    assert (tmp_path / "log02").read_bytes() == b"ij"
    assert file.read(4, 10) == b"abcdefghij"
    assert file.read(5) == b"bcdefghij"
    assert file.read(12, 100) == b"ij"
    assert file.read(13, 0) == b""


def test_numbers_wider_than_the_digits_grow(tmp_path):
    util.LogicalFile(str(tmp_path / "x"), 1, 1).write(12, b"z")

    assert os.listdir(tmp_path) == ["x12"]


def test_reading_ends_at_a_short_or_missing_file(tmp_path):
    file = util.LogicalFile(tmp_path / "log", 2, 6)
    file.write(0, b"abcdefgh")
    (tmp_path / "log00").write_bytes(b"abc")

    assert file.read(0) == b"abc"
    assert file.read(0, 8) == b"abc"
    assert file.read(60) == b""


def test_a_write_in_the_middle_keeps_the_bytes_around_it(tmp_path):
    file = util.LogicalFile(tmp_path / "log", 2, 6)
    file.write(0, b"abcdefghijkl")
    file.write(4, b"WXYZ", sync=True)

    assert file.read(0) == b"abcdWXYZijkl"


def test_a_relative_prefix_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = util.LogicalFile("log", 2, 6)
    file.write(0, b"abcdefgh", sync=True)

    assert file.read(0) == b"abcdefgh"


def test_a_synced_write_syncs_each_file_and_the_directory_of_a_new_one(tmp_path, monkeypatch):
    synced = []

    def fsync(fd):
        synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))

    monkeypatch.setattr(os, "fsync", fsync)
    file = util.LogicalFile(tmp_path / "log", 2, 4)
    file.write(2, b"abcd")
    assert synced == []
    file.write(2, b"abcd", sync=True)
    assert synced == ["log00", "log01"]
    file.write(6, b"abcd", sync=True)
    assert synced[2:] == ["log01", "log02", tmp_path.name]


def test_the_physical_file_of_a_byte_opens_at_it(tmp_path):
    file = util.LogicalFile(tmp_path / "log", 2, 6)
    with pytest.raises(FileNotFoundError):
        file.open_file(7, False)
    with file.open_file(7, True) as f:
        f.write(b"q")

    assert (tmp_path / "log01").read_bytes() == b"\0q"


@given(st.lists(st.tuples(st.integers(0, 60), st.binary(max_size=30)), max_size=12))
def test_a_logical_file_is_one_range_of_bytes(tmp_path_factory, writes):
    file = util.LogicalFile(tmp_path_factory.mktemp("logical") / "f", 2, 7)
    model = bytearray()
    for start, data in writes:
        start = min(start, len(model))
        file.write(start, data)
        model[start : start + len(data)] = data

    assert file.read(0) == bytes(model)
    assert file.read(3, 11) == bytes(model[3:14])


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "00s"),
        (0.9, "00s"),
        (61, "01m 01s"),
        (3600, "01h 00m 00s"),
        (86400 + 3661, "1d 01h 01m"),
        (12 * 86400, "12d 00h 00m"),
        (-3, "00s"),
    ],
)
def test_times_are_formatted(seconds, expected):
    assert util.formatted_time(seconds) == expected
    assert util.formatted_time(seconds, sep="") == expected.replace(" ", "")


def test_an_address_gets_brackets_if_ipv6():
    assert util.address_string(("h", 5)) == "h:5"
    assert util.address_string(("::1", 5)) == "[::1]:5"
    assert util.address_string(("2001:0DB8:0:0::00A", 5)) == "[2001:db8::a]:5"
    assert util.address_string(("192.0.2.1", 5)) == "192.0.2.1:5"
    assert util.address_string((ip_address("::1"), 5)) == "[::1]:5"


@pytest.mark.parametrize(
    "bad", ["", "a", "1.", "1.x", 1.4, None, [], "1. .4", "1,4", "9" * 5000, "1" * 65]
)
def test_a_bad_protocol_version_is_zero(bad):
    assert util.protocol_tuple(bad) == (0,)


def test_protocol_versions_are_tuples_and_texts():
    assert util.protocol_tuple("1.4.2") == (1, 4, 2)
    for text in (" 1.4", "1.4\n", "1. 4", "01.04", "+1.4", "\u0661.\u0664"):
        assert util.protocol_tuple(text) == (1, 4)
    assert util.version_string((1,)) == "1.0"
    assert util.version_string((1, 4)) == "1.4"
    assert util.version_string((1, 4, 2)) == "1.4.2"


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (None, ((1, 4), (1, 4))),
        ("1.4", ((1, 4), (1, 4))),
        (["1.4", "1.6"], ((1, 4, 2), (1, 4))),
        (["1.2", "1.4.1"], ((1, 4, 1), (1, 2))),
        ("1.4.9", (None, (1, 4, 9))),
        (["1.5", "1.6"], (None, (1, 5))),
        (["1.1", "1.3"], (None, (1, 1))),
        (1.4, (None, (0,))),
        (["1.4", "1.4", "1.4"], (None, (0,))),
        ({"a": 1}, (None, (0,))),
    ],
)
def test_the_protocol_version_is_negotiated(request_, expected):
    assert util.protocol_version(request_, (1, 4), (1, 4, 2)) == expected


@pytest.mark.parametrize(("system", "access"), [("nt", os.O_RDWR), ("posix", os.O_RDONLY)])
def test_a_file_is_synced_through_a_descriptor_that_the_system_accepts(
    tmp_path, monkeypatch, system, access
):
    """Windows syncs none that is for reading only."""
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    opened = []
    open_fd = os.open

    def noting_open(name, flags):
        opened.append(flags)
        return open_fd(name, flags)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", noting_open)
        patch.setattr(os, "name", system)
        util.sync_path(str(path))
    assert opened == [access]
