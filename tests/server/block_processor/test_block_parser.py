"""Blocks are parsed in parts, before they are processed."""

import asyncio
import gc
import threading
import weakref
from contextlib import aclosing

import pytest

from electrumx.lib.errors import DeserializeError
from electrumx.lib.hash import sha256
from electrumx.server.block_processor.block_parser import BlockParser
from electrumx.server.block_processor.errors import BlockParseError


def parse(raw, height):
    if raw.startswith(b"bad"):
        raise DeserializeError("it is bad")
    return raw, height


class SmallParts(BlockParser):
    PARSE_BYTES = 10


async def parts_of(parser, raws, first_height=5):
    async with aclosing(parser.parse_ahead(raws, first_height)) as parsed:
        return [list(blocks) async for blocks in parsed]


async def test_blocks_are_parsed_in_order_in_parts_of_a_bounded_size():
    raws = [b"a" * 4, b"b" * 6, b"c", b"d" * 30, b"e" * 10]

    parts = await parts_of(SmallParts(parse), raws)

    assert parts == [
        [(raws[0], 5), (raws[1], 6)],
        [(raws[2], 7)],
        [(raws[3], 8)],
        [(raws[4], 9)],
    ]


async def test_no_blocks_are_no_parts():
    assert await parts_of(SmallParts(parse), []) == []


async def test_the_next_part_is_parsed_while_the_first_is_processed():
    second_parsed = threading.Event()

    def watched(raw, height):
        if height == 6:
            second_parsed.set()
        return parse(raw, height)

    async with aclosing(SmallParts(watched).parse_ahead([b"a" * 10, b"b" * 10], 5)) as parsed:
        async for blocks in parsed:
            if blocks[0][1] == 5:
                assert await asyncio.to_thread(second_parsed.wait, 120)


async def test_leaving_early_drops_the_part_parsed_ahead_even_if_it_is_invalid(caplog):
    started = []

    class RecordedParts(SmallParts):
        def _start(self, *args):
            started.append(super()._start(*args))
            return started[-1]

    async with aclosing(RecordedParts(parse).parse_ahead([b"a" * 10, b"bad"], 5)) as parsed:
        async for _blocks in parsed:
            # Without this the second part would be cancelled before its thread runs.
            await asyncio.wait([started[1]], timeout=120)
            assert started[1].done()
            assert not started[1].cancelled()
            break
    await asyncio.sleep(0)
    # The event loop logs an exception that was not retrieved when its task is collected.
    started.clear()
    gc.collect()
    assert not caplog.records


async def test_an_invalid_block_is_named_by_height_and_digest():
    with pytest.raises(BlockParseError, match="it is bad, in block 6") as info:
        await parts_of(SmallParts(parse), [b"a", b"bad block"])
    assert (info.value.height, info.value.digest) == (6, sha256(b"bad block"))


def test_the_same_invalid_block_is_repeated_after_three_times_in_a_row():
    parser = BlockParser(parse)

    def comes(raw):
        return parser.is_repeated(BlockParseError(DeserializeError("x"), 6, sha256(raw)))

    assert [comes(b"1"), comes(b"1"), comes(b"2"), comes(b"1"), comes(b"1")] == [False] * 5
    assert comes(b"1")


def test_an_error_without_a_block_is_never_repeated():
    parser = BlockParser(parse)
    assert not any(parser.is_repeated(DeserializeError("x")) for _ in range(5))


async def test_a_block_that_was_processed_is_not_kept():
    class RawBlock:
        """In place of bytes, to which there is no weak reference."""

        def __len__(self):
            return 10

    raws = [RawBlock() for _ in range(3)]
    kept = [weakref.ref(raw) for raw in raws]
    parsed = SmallParts(lambda _raw, height: height).parse_ahead(list(raws), 5)
    del raws

    async def first_is_freed():
        while kept[0]() is not None:
            await asyncio.sleep(0)

    async with aclosing(parsed):
        async for blocks in parsed:
            if blocks == [6]:
                # The thread that parsed it lets go of it at last.
                await asyncio.wait_for(first_is_freed(), 60)
