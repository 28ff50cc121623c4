"""Lines out of bytes, however they are cut."""

from hypothesis import given
from hypothesis import strategies as st

from electrumx.server.session.transport.framing import LineFramer


@given(
    lines=st.lists(st.binary(max_size=12).map(lambda b: b.replace(b"\n", b"x")), max_size=8),
    cuts=st.lists(st.integers(0, 100), max_size=10),
    max_size=st.integers(0, 12),
)
def test_framing_survives_any_cut_of_the_bytes(lines, cuts, max_size):
    framer = LineFramer(max_size)
    data = b"".join(line + b"\n" for line in lines)
    start, received = 0, []
    for cut in [*sorted(min(cut, len(data)) for cut in cuts), len(data)]:
        received += framer.split(data[start:cut])
        start = cut
    kept = [line for line in lines if not len(line) > max_size > 0]
    assert (kept, len(lines) - len(kept)) == (received, framer.dropped)


def test_a_dropped_message_is_reported_before_its_end():
    framer = LineFramer(10)
    assert framer.split(b"x" * 11) == []
    assert (1, True) == (framer.dropped, framer.is_dropping)
    assert framer.split(b"x" * 100 + b"\nabc\n") == [b"abc"]
    assert (1, False) == (framer.dropped, framer.is_dropping)
