"""Headers are read in chunks, cached, and forgotten when blocks are undone."""

import pytest

from electrumx.server.db.headers import HEADER_CHUNK, MAX_CHUNKS, Headers
from electrumx.server.db.queries import Queries
from electrumx.server.storage.schema import DBError
from tests.fakes.chain import COIN
from tests.server.db.parts import LOGGER, add_blocks, header, read_pool_of, stores_in, undo_blocks

COUNT = MAX_CHUNKS * HEADER_CHUNK + 20


@pytest.fixture
def stores(tmp_path):
    stores = stores_in(tmp_path)
    stores.open_for_sync()
    add_blocks(stores, 0, COUNT - 1)
    yield stores
    stores.close()


@pytest.fixture
def headers(stores):
    queries = Queries(stores, read_pool_of(stores))
    return Headers(stores, queries.steady_read, LOGGER)


@pytest.mark.parametrize(
    ("start", "count"),
    [(0, 1), (HEADER_CHUNK - 1, 2), (3, 3 * HEADER_CHUNK), (0, COUNT), (COUNT - 5, 50)],
)
async def test_headers_read_are_those_flushed_as_far_as_there_are_any(headers, start, count):
    expected = [header(height) for height in range(start, min(start + count, COUNT))]

    assert await headers.read_headers(start, count) == (b"".join(expected), len(expected))


async def test_a_header_is_cached_with_its_chunk(headers):
    assert headers.cached_header(10) is None
    assert await headers.raw_header(10) == header(10)

    assert headers.cached_header(11) == header(11)
    assert headers.cached_headers(0, HEADER_CHUNK) == b"".join(map(header, range(HEADER_CHUNK)))
    assert headers.cached_headers(0, HEADER_CHUNK + 1) is None


async def test_undoing_a_block_forgets_the_cached_headers(stores, headers):
    await headers.raw_header(COUNT - 1)
    await headers.raw_header(0)
    undo_blocks(stores, COUNT - 1, COUNT - 1)

    assert headers.cached_header(0) is None
    with pytest.raises(IndexError, match="out of range"):
        await headers.raw_header(COUNT - 1)


async def test_a_proof_is_that_of_the_headers_hashes(headers):
    await headers.populate_merkle_cache()
    hashes = await headers.block_hashes(0, 4)
    branch, root = await headers.branch_and_root(4, 2)

    assert hashes == [COIN.header_hash(header(height)) for height in range(4)]
    assert (branch, root) == headers.merkle_cache.merkle.branch_and_root(hashes, 2)


async def test_hashes_beyond_the_chain_are_refused(headers):
    with pytest.raises(DBError, match="only got 1 headers"):
        await headers.block_hashes(COUNT - 1, 2)
    with pytest.raises(DBError, match="not on disk"):
        await headers.read_headers(-1, 1)
