"""Which addresses are banned, until when, and the file that keeps the bans."""

import asyncio
import json
import logging
import os
import random
import threading
from ipaddress import ip_address, ip_network

import pytest

from electrumx.lib import util
from electrumx.server.session.transport import ban_file as ban_file_module
from electrumx.server.session.transport import bans as bans_module
from electrumx.server.session.transport.ban_file import MAX_BYTES, BanFile
from electrumx.server.session.transport.bans import Ban, BanList, parse_network


class Clock:
    def __init__(self, now=1_000_000.0):
        self.now = now

    def __call__(self):
        return self.now


def banned(bans, text):
    return bans.is_banned(ip_address(text))


# --- The list


def test_an_address_is_banned_with_its_subnet_until_the_time_is_over():
    clock = Clock()
    bans = BanList(clock)
    bans.add(parse_network("203.0.113.0/24"), 60)
    bans.add(parse_network("2001:db8::7"), None)

    assert banned(bans, "203.0.113.255")
    assert not banned(bans, "203.0.114.0")
    assert banned(bans, "2001:db8::7")
    assert not banned(bans, "2001:db8::8")
    clock.now += 59.9
    assert banned(bans, "203.0.113.1")
    clock.now += 0.1
    assert not banned(bans, "203.0.113.1")
    clock.now += 10**12
    assert banned(bans, "2001:db8::7")
    assert [str(ban.network) for ban in bans.in_order()] == ["2001:db8::7/128"]
    assert len(bans) == 1


def test_a_second_ban_of_a_network_replaces_its_time():
    clock = Clock()
    bans = BanList(clock)
    bans.add(parse_network("1.2.3.4"), 10)
    bans.add(parse_network("1.2.3.4"), 100)
    clock.now += 50
    assert banned(bans, "1.2.3.4")
    bans.add(parse_network("1.2.3.4"), 10)
    clock.now += 10
    assert not banned(bans, "1.2.3.4")


def test_a_lifted_ban_leaves_the_others():
    bans = BanList()
    for text in ("1.2.0.0/16", "1.2.3.0/24", "1.2.3.4"):
        bans.add(parse_network(text), None)
    assert bans.remove(parse_network("1.2.3.4"))
    assert not bans.remove(parse_network("1.2.3.4"))
    assert banned(bans, "1.2.3.4")
    assert bans.remove(parse_network("1.2.0.0/16"))
    assert str(bans.covering(ip_address("1.2.3.4")).network) == "1.2.3.0/24"
    assert bans.remove(parse_network("1.2.3.0/24"))
    assert not banned(bans, "1.2.3.4")


def test_any_set_of_bans_agrees_with_a_search_of_all_of_them():
    rng = random.Random(5)
    for _ in range(30):
        bans, networks = BanList(), set()
        for _ in range(20):
            version = rng.choice((4, 6))
            bits = 32 if version == 4 else 128
            length = rng.randrange(bits - 6, bits + 1)
            base = rng.randrange(64) << rng.choice((0, 3))
            base += 0x01000000 if version == 4 else 0x20010DB8 << 96
            network = ip_network((base >> (bits - length) << (bits - length), length))
            if rng.random() < 0.3 and networks:
                gone = rng.choice(sorted(networks, key=str))
                networks.discard(gone)
                assert bans.remove(gone)
            networks.add(network)
            bans.add(network, None)
        for offset in range(512):
            for start in (0x01000000, 0x20010DB8 << 96):
                address = ip_address(start + offset)
                assert bans.is_banned(address) == any(
                    address in network for network in networks if network.version == address.version
                )


def test_bans_around_and_within_a_network_are_found():
    bans = BanList(Clock())
    for text in ("1.2.0.0/16", "9.9.9.0/32", "9.9.9.128/25", "::/0"):
        bans.add(parse_network(text), None)

    def around(text):
        ban = bans.covering_network(parse_network(text))
        return ban and str(ban.network)

    assert around("1.2.3.0/24") == around("1.2.0.0/16") == "1.2.0.0/16"
    assert around("1.0.0.0/8") is around("9.9.9.0/24") is None
    assert around("2001:db8::/32") == "::/0"
    counts = [bans.count_within(parse_network(text)) for text in ("9.9.9.0/24", "0.0.0.0/0")]
    assert counts == [2, 3]
    assert bans.count_within(parse_network("1.2.0.0/16")) == 0


def test_the_number_of_bans_is_bounded_and_expired_ones_make_room(monkeypatch):
    monkeypatch.setattr(bans_module, "MAX_BANS", 3)
    clock = Clock()
    bans = BanList(clock)
    for n in range(3):
        bans.add(parse_network(f"1.2.3.{n}"), 10)
    with pytest.raises(ValueError, match="there are 3 bans"):
        bans.add(parse_network("1.2.3.9"), 10)
    bans.add(parse_network("1.2.3.1"), 20)
    clock.now += 10
    bans.add(parse_network("1.2.3.9"), 10)
    assert [str(ban.network) for ban in bans.in_order()] == ["1.2.3.1/32", "1.2.3.9/32"]


def test_ipv6_that_stands_for_ipv4_is_ipv4():
    assert str(parse_network("::ffff:1.2.3.4")) == "1.2.3.4/32"
    assert str(parse_network(" ::ffff:1.2.3.0/120 ")) == "1.2.3.0/24"
    assert str(parse_network("2001:db8::/32")) == "2001:db8::/32"


@pytest.mark.parametrize(
    "text", ["", "host.example", "1.2.3.4/24", "1.2.3.4/33", "1.2.3", "::1%lo"]
)
def test_other_texts_are_no_network(text):
    with pytest.raises(ValueError, match=r"."):
        parse_network(text)


# --- The file


def make_file(folder):
    return BanFile(folder, logging.getLogger("bans"))


async def test_bans_on_disk_are_those_that_were_saved(tmp_path):
    bans = BanList(Clock())
    for text, secs in (("203.0.113.0/24", 60), ("2001:db8::/48", None), ("0.0.0.0/0", 1)):
        bans.add(parse_network(text), secs)
    await make_file(tmp_path).save(bans.in_order())
    assert await make_file(tmp_path).load() == bans.in_order()
    assert os.listdir(tmp_path) == ["bans.json"]
    await make_file(tmp_path).save([])
    assert await make_file(tmp_path).load() == []


async def test_a_missing_file_has_no_bans_and_is_no_fault(tmp_path, caplog):
    assert await make_file(tmp_path).load() == []
    assert caplog.text == ""


DAMAGED = {
    "empty": b"",
    "cut": b'{"format": 1, "bans": [{"network": "1.2.3.0/24", "since"',
    "no object": b"[]",
    "other format": b'{"format": 2, "bans": []}',
    "no list": b'{"format": 1, "bans": 7}',
    "no network": b'{"format": 1, "bans": [{"network": "x", "since": 1, "until": 2}]}',
    "number": b'{"format": 1, "bans": [{"network": 1, "since": 1, "until": 2}]}',
    "text as time": b'{"format": 1, "bans": [{"network": "1.2.3.4", "since": 1, "until": "2"}]}',
    "truth as time": b'{"format": 1, "bans": [{"network": "1.2.3.4", "since": 1, "until": true}]}',
    "no time": b'{"format": 1, "bans": [{"network": "1.2.3.4", "since": null, "until": 2}]}',
    "an integer that is no float": b'{"format": 1, "bans": [{"network": "1.2.3.4", "since": 1'
    + b"0" * 400
    + b', "until": 2}]}',
    "infinity": b'{"format": 1, "bans": [{"network": "1.2.3.4", "since": 1, "until": Infinity}]}',
    "missing": b'{"format": 1, "bans": [{"network": "1.2.3.4"}]}',
    "a text in the list": b'{"format": 1, "bans": ["1.2.3.4"]}',
    "nested": b'{"format": 1, "bans": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "no UTF-8": b"\xff" * 100,
    "long": b" " * (MAX_BYTES + 1),
}


@pytest.mark.parametrize("fault", DAMAGED)
async def test_a_damaged_file_is_set_aside_with_one_line(tmp_path, caplog, fault):
    (tmp_path / "bans.json").write_bytes(DAMAGED[fault])
    file = make_file(tmp_path)
    assert await file.load() == []
    (line,) = caplog.messages
    assert "bans.json is damaged" in line
    assert line.isprintable()
    assert (tmp_path / "bans.json.damaged").read_bytes() == DAMAGED[fault]
    # The next change begins a new file.
    ban = Ban(parse_network("1.2.3.4"), 1.0, None)
    await file.save([ban])
    assert await make_file(tmp_path).load() == [ban]


async def test_more_bans_than_allowed_are_damage(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(ban_file_module, "MAX_BANS", 2)
    bans = [Ban(parse_network(f"1.2.3.{n}"), 1.0, None) for n in range(3)]
    await make_file(tmp_path).save(bans)
    assert await make_file(tmp_path).load() == []
    assert "not a list of at most 2 bans" in caplog.text


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo], ids=["directory", "pipe"])
async def test_what_cannot_be_read_is_reported_and_not_replaced(tmp_path, caplog, make):
    make(tmp_path / "bans.json")
    assert await make_file(tmp_path).load() == []
    (line,) = caplog.messages
    assert "cannot read" in line
    # The next change must not destroy it: it may have the bans of a year.
    await make_file(tmp_path).save([Ban(parse_network("1.2.3.4"), 1.0, None)])
    assert sorted(os.listdir(tmp_path)) == ["bans.json", "bans.json.damaged"]
    assert not (tmp_path / "bans.json.damaged").is_file()


async def test_a_file_without_permission_is_kept(tmp_path, caplog, monkeypatch):
    old = [Ban(parse_network("5.6.7.8"), 1.0, None)]
    await make_file(tmp_path).save(old)
    with monkeypatch.context() as patch:
        # The tests may run as root, who may read anything.
        patch.setattr(util, "open_regular", refuse)
        assert await make_file(tmp_path).load() == []
    assert "Permission denied: no address is banned; it is kept as" in caplog.text
    await make_file(tmp_path).save([])
    (tmp_path / "bans.json.damaged").rename(tmp_path / "bans.json")
    assert await make_file(tmp_path).load() == old


def refuse(_path):
    raise PermissionError(13, "Permission denied")


async def test_a_save_that_was_cancelled_does_not_overlap_the_next(tmp_path, monkeypatch):
    bans = [[Ban(parse_network(f"1.2.3.{n}"), 1.0, None)] for n in range(2)]
    file, running, most = make_file(tmp_path), [], []
    begun, go_on = threading.Event(), threading.Event()
    save = file.write

    def slow_save(content):
        running.append(content)
        most.append(len(running))
        begun.set()
        assert go_on.wait(60)
        save(content)
        running.remove(content)

    monkeypatch.setattr(file, "write", slow_save)
    first = asyncio.ensure_future(file.save(bans[0]))
    await asyncio.to_thread(begun.wait, 120)
    first.cancel()
    second = asyncio.ensure_future(file.save(bans[1]))
    for _ in range(5):
        await asyncio.sleep(0)
    go_on.set()
    await second
    assert most == [1, 1]
    assert await make_file(tmp_path).load() == bans[1]


async def test_a_save_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    ban = Ban(parse_network("1.2.3.4"), 1.0, None)
    await make_file(tmp_path).save([ban])

    def fail(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ban_file_module.os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        await make_file(tmp_path).save([])
    monkeypatch.undo()
    assert await make_file(tmp_path).load() == [ban]
    assert json.loads((tmp_path / "bans.json").read_bytes())["bans"][0]["until"] is None
