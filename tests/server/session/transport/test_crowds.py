"""The largest of many groups is found at once, whatever came and went before."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from electrumx.server.session.transport.crowds import Crowds


def test_without_members_there_is_no_oldest():
    crowds = Crowds()
    assert crowds.oldest_of_largest() is None
    crowds.add("a", 1)
    crowds.remove("a", 1)
    assert (crowds.oldest_of_largest(), len(crowds)) == (None, 0)


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), max_size=60))
def test_the_oldest_member_of_a_largest_group_is_found(steps):
    crowds, members = Crowds(), []
    for number, (name, is_new) in enumerate(steps):
        if is_new:
            members.append((name, number))
            crowds.add(name, number)
        elif members:
            gone = members.pop(number % len(members))
            crowds.remove(*gone)
        sizes = Counter(name for name, _member in members)
        found = crowds.oldest_of_largest()
        assert len(crowds) == len(sizes)
        if not members:
            assert found is None
            continue
        group = next(name for name, member in members if member == found)
        assert sizes[group] == max(sizes.values())
        assert found == next(member for name, member in members if name == group)
