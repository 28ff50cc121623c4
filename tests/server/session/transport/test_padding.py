"""Writes are filled up to few lengths, remain the same JSON, and are not delayed or charged for."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from electrumx.server.session.transport.line_transport import RawTransport
from electrumx.server.session.transport.padding import padded, padded_size
from electrumx.server.session.transport.transport import JOINED_BYTES
from tests.fakes.connections import FakeSocketTransport, connection_context
from tests.server.session.transport.test_tls import EchoSession


@given(st.integers(1, 5_000_000))
def test_lengths_are_few_and_at_most_double(size):
    filled = padded_size(size)
    assert size <= filled
    assert filled < max(2 * size, 1_025)
    if filled <= 65_536:
        assert filled >= 1_024
        assert filled.bit_count() == 1
    else:
        assert filled % 65_536 == 0


@given(st.lists(st.dictionaries(st.text(), st.integers()) | st.lists(st.text()), min_size=1))
def test_padded_lines_hold_the_same_values(values):
    lines = b"".join(json.dumps(value).encode() + b"\n" for value in values)
    filled = padded(lines)
    assert [json.loads(line) for line in filled.splitlines()] == values
    assert len(filled) == padded_size(len(lines))
    assert filled.count(b"\n") == len(values)


@pytest.mark.parametrize("lines", [b"", b"1\n", b"null\n", b"{}", b"[]\r\n"])
def test_what_does_not_end_in_a_bracket_is_unchanged(lines):
    assert padded(lines) == lines


class Socket(FakeSocketTransport):
    def __init__(self):
        super().__init__()
        self.written = []

    def write(self, data):
        self.written.append(bytes(data))


def connection(*, is_padded):
    result = RawTransport(connection_context(EchoSession, is_padded=is_padded))
    result.connection_made(socket := Socket())
    return result, socket.written


@pytest.mark.parametrize("size", [10, 1_000, 1_023, 70_000, JOINED_BYTES + 1, 300_000])
def test_a_connection_sends_at_once_what_it_is_given(size):
    message = b'{"result":"' + b"x" * (size - 13) + b'"}'
    for messages in ([message], [message, message]):
        plain, plain_sent = connection(is_padded=False)
        plain.send(list(messages))
        assert b"".join(plain_sent) == b"".join(m + b"\n" for m in messages)
        filled, sent = connection(is_padded=True)
        filled.send(list(messages))
        data = b"".join(sent)
        assert len(data) == padded_size(len(b"".join(plain_sent)))
        assert [json.loads(line) for line in data.splitlines()] == [json.loads(message)] * len(
            messages
        )
