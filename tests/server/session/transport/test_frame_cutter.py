"""Where frames end, by the library's own parser."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from electrumx.server.session.transport.frame_cutter import FrameCutter

REQUEST = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
SIZES = [0, 1, 4, 125, 126, 127, 65_535, 65_536]

frames = st.builds(
    lambda opcode, size, is_masked: Frame(opcode, b"\r\n\r\n"[:size] * size).serialize(
        mask=is_masked
    ),
    st.sampled_from([Opcode.TEXT, Opcode.CONT]),
    st.integers(0, 200),
    st.booleans(),
)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("is_masked", [False, True])
def test_a_frame_ends_with_its_last_byte(size, is_masked):
    frame = Frame(Opcode.BINARY, b"x" * size).serialize(mask=is_masked)
    cutter = FrameCutter()
    cutter.feed(REQUEST)
    for position in range(min(len(frame), 20)):
        assert cutter.is_between_frames() == (position == 0)
        cutter.feed(frame[position : position + 1])
    cutter.feed(frame[20:-1])
    assert cutter.is_between_frames() == (len(frame) <= 20)
    cutter.feed(frame[-1:] if len(frame) > 20 else b"")
    assert cutter.is_between_frames()


@given(st.lists(frames, max_size=5), st.data())
def test_frames_end_at_the_same_bytes_however_the_stream_is_cut(some, data):
    stream = REQUEST + b"".join(some)
    ends = {len(REQUEST)}
    for frame in some:
        ends.add(max(ends) + len(frame))
    cuts = sorted({*data.draw(st.lists(st.integers(1, len(stream)))), *ends, len(stream)})
    cutter, start = FrameCutter(), 0
    for cut in cuts:
        cutter.feed(stream[start:cut])
        assert cutter.is_between_frames() == (cut in ends)
        start = cut
