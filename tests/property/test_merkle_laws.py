"""Laws of Merkle trees: every branch proves its leaf, and the cache equals the whole tree."""

import asyncio
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from electrumx.lib.hash import double_sha256
from electrumx.lib.merkle import Merkle, MerkleCache

merkle = Merkle()


def leaves(count, salt=b""):
    return [double_sha256(b"%d" % n + salt) for n in range(count)]


def naive_root(hashes):
    """The definition, level by level."""
    while len(hashes) > 1:
        if len(hashes) % 2:
            hashes = [*hashes, hashes[-1]]
        hashes = [double_sha256(hashes[n] + hashes[n + 1]) for n in range(0, len(hashes), 2)]
    return hashes[0]


@st.composite
def trees(draw):
    count = draw(st.integers(1, 70))
    return leaves(count), draw(st.integers(0, count - 1))


@given(trees(), st.integers(0, 4))
def test_every_branch_proves_its_leaf(tree, more):
    hashes, index = tree
    length = merkle.branch_length(len(hashes)) + more
    branch, root = merkle.branch_and_root(hashes, index, length)

    assert len(branch) == length
    assert root == merkle.root_from_proof(hashes[index], branch, index)
    assert root == merkle.root(hashes, length)
    if not more:
        assert root == naive_root(hashes)


@given(trees(), st.data())
def test_a_level_gives_the_same_branch_as_all_leaves(tree, data):
    hashes, index = tree
    depth = data.draw(st.integers(0, merkle.branch_length(len(hashes))))
    start = (index >> depth) << depth
    level = merkle.level(hashes, depth)
    segment = hashes[start : start + (1 << depth)]

    expected = merkle.branch_and_root(hashes, index)
    assert merkle.branch_and_root_from_level(level, segment, index, depth) == expected


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("query"), st.integers(1, 60), st.integers(0, 59)),
        st.tuples(st.just("reorg"), st.integers(1, 59), st.integers(0, 0)),
    ),
    max_size=25,
)


@settings(deadline=None)
@given(st.integers(1, 40), ACTIONS, st.integers(0, 2**32))
def test_a_cache_never_answers_from_an_abandoned_chain(length, actions, seed):
    """Queries run at once, each stopping a few times; reorganisations fall in between."""

    async def scenario():
        chance = random.Random(seed)
        chain = leaves(60)
        roots = set()

        async def source(start, count):
            found = chain[start : start + count]
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
            return found

        async def query(length, index):
            branch, root = await cache.branch_and_root(length, index)
            assert merkle.root_from_proof(chain[index], branch, index) == root
            assert root == naive_root(chain[:length])
            roots.add(root)

        cache = MerkleCache(merkle, source)
        tasks = [asyncio.ensure_future(cache.initialize(length))]
        for number, (action, first, second) in enumerate(actions):
            if action == "query":
                tasks.append(asyncio.ensure_future(query(first, min(second, first - 1))))
            else:
                chain[first:] = leaves(60, b"fork %d" % number)[first:]
                cache.truncate(first)
            for _ in range(chance.randrange(3)):
                await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        assert cache.level == merkle.level(chain[: cache.length], cache.depth_higher)

    asyncio.run(scenario())
