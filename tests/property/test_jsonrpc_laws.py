"""Our JSON-RPC and aiorpcX's agree on requests, replies, error codes and texts."""

import asyncio
import json
import math

import pytest
from aiorpcx import (
    JSONRPCAutoDetect,
    JSONRPCConnection,
    JSONRPCLoose,
    JSONRPCv1,
    JSONRPCv2,
    ProtocolError,
    RPCError,
)
from aiorpcx import Notification as TheirNotification
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from electrumx.server.session.engine.json_result import encode_result
from electrumx.server.session.engine.jsonrpc import (
    AUTO,
    LOOSE,
    V1,
    V2,
    MalformedMessageError,
    Notification,
    parse_message,
)

THEIRS = {AUTO: JSONRPCAutoDetect, V1: JSONRPCv1, V2: JSONRPCv2, LOOSE: JSONRPCLoose}

TEXTS = st.text(max_size=4) | st.sampled_from(["ü", "\ud800", "\u2028", "\0"])
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.sampled_from([2**53, 2**64, -(2**63) - 1, 10**30])
    | st.floats()
    | TEXTS
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
PAYLOADS = st.fixed_dictionaries(
    {},
    optional={
        "method": st.sampled_from(["ping", "ping", "", 5, None, ["ping"]]),
        "jsonrpc": st.sampled_from(["2.0", "2.0", "1.0", 2.0, None]),
        "id": st.integers(0, 9) | TEXTS | VALUES,
        "params": st.lists(VALUES, max_size=3)
        | st.dictionaries(TEXTS, VALUES, max_size=2)
        | VALUES,
        "result": VALUES,
        "error": VALUES,
        "x": VALUES,
    },
)
# Valid but for one member at most
NEAR_REQUESTS = st.builds(
    lambda request, key, value: {**request, key: value},
    st.fixed_dictionaries(
        {"method": st.just("ping"), "id": st.integers(0, 9), "params": st.just([1])},
        optional={"jsonrpc": st.sampled_from(["2.0", "1.0"])},
    ),
    st.sampled_from(["method", "id", "params", "jsonrpc", "x"]),
    VALUES,
)


def as_bytes(payload, ascii_only):
    return json.dumps(payload, ensure_ascii=ascii_only).encode(errors="surrogatepass")


MESSAGES = st.one_of(
    st.builds(as_bytes, PAYLOADS | NEAR_REQUESTS, st.booleans()),
    st.builds(as_bytes, NEAR_REQUESTS, st.booleans()),
    st.builds(as_bytes, st.lists(PAYLOADS | NEAR_REQUESTS, max_size=4), st.booleans()),
    st.builds(as_bytes, st.lists(PAYLOADS | VALUES, max_size=4), st.booleans()),
    st.builds(as_bytes, VALUES, st.booleans()),
    st.binary(max_size=8),
    st.sampled_from(
        [
            b'{"jsonrpc":"2.0","id":1,"method":"a","method":"b","params":[3]}',
            b'\xef\xbb\xbf{"jsonrpc":"2.0","id":1,"method":"none"}',
            b' \t{"jsonrpc":"2.0" ,"id":1e0,"method":"none"}\r',
            b'{"id":01,"method":"none"}',
            b'[{"id":1,"method":"none"},3,{"method":"x"}]',
            b'[{"id":1,"method":"a","jsonrpc":"2.0"},{"id":1,"method":"b","jsonrpc":"1.0"}]',
            b'{"id":1,"method":"none","result":1,"error":null}',
            b'{"id":[1],"method":"none","params":[],"result":1,"error":null}',
            b"[[]]",
            b"[{}]",
            b"",
        ]
    ),
)
RESULTS = st.one_of(
    VALUES,
    VALUES.map(encode_result),
    st.builds(RPCError, st.integers(-5, 5), TEXTS),
    st.just(object()),
)


def is_finite(value):
    """Return whether JSON has a text for a number, and for all that a value contains."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(is_finite, value.values()))
    return not isinstance(value, list) or all(map(is_finite, value))


def parsed(message):
    """Return the meaning of a message; texts that differ in escapes only are equal."""
    return None if message is None else repr(json.loads(message))


def as_their_result(result):
    if isinstance(result, bytes):
        return json.loads(result)
    return result


@pytest.fixture(scope="module")
def loop():
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def their_reading(loop, message, version):
    """Return the items of a message, or an error, as aiorpcX has them."""

    async def read():
        connection = JSONRPCConnection(THEIRS[version])
        try:
            return connection.receive_message(message)
        except ProtocolError as error:
            return error
        except TypeError:
            # Responses with ids that have no hash, or no order
            return ProtocolError.invalid_request("response to unsent request")

    return loop.run_until_complete(read())


def our_reading(message, version, max_reply_bytes=0):
    try:
        return parse_message(message, version, max_reply_bytes)
    except MalformedMessageError as error:
        return error


def replies(items, send, results):
    """Return the messages that answering the requests among items gives, in their order."""
    return [parsed(send(item, result)) for item, result in zip(items, results, strict=False)]


def send_ours(request, result):
    return request.deliver(request.encode(result))


def send_theirs(request, result):
    try:
        return request.send_result(as_their_result(result))
    except ProtocolError:
        # A result that cannot be encoded: ours answers with an internal error
        error = RPCError(-32603, "internal server error")
        return request.send_result(error)


@settings(max_examples=400)
@given(
    message=MESSAGES,
    version=st.sampled_from(list(THEIRS)),
    results=st.lists(RESULTS, min_size=4, max_size=4),
)
@example(message=b'[{"id":1,"method":"a"},3]', version=AUTO, results=[1, 2, 3, 4])
@example(
    message=b'{"id":[1],"method":"a","params":[],"result":1,"error":null}',
    version=AUTO,
    results=[1, 2, 3, 4],
)
def test_a_message_is_read_and_answered_as_by_aiorpcx(loop, message, version, results):
    try:
        assume(is_finite(json.loads(message)))
    except (ValueError, UnicodeDecodeError):
        pass
    assume(all(isinstance(result, (bytes, RPCError)) or is_finite(result) for result in results))
    theirs, ours = their_reading(loop, message, version), our_reading(message, version)
    if isinstance(theirs, ProtocolError) and not isinstance(ours, MalformedMessageError):
        # A batch of which all members are malformed
        assert not ours.items
        assert ours.malformed
        assert parsed(theirs.error_message) == parsed(ours.reply)
        return
    if isinstance(theirs, ProtocolError):
        assert isinstance(ours, MalformedMessageError)
        assert parsed(theirs.error_message) == parsed(ours.reply)
        assert theirs.code == ours.code
        if ours.reply is not None:
            assert theirs.message == ours.text
        return
    assert [(type(item).__name__, item.method, repr(item.args)) for item in theirs] == [
        (type(item).__mro__[-2].__name__, item.method, repr(item.args)) for item in ours.items
    ]
    their_requests = [item for item in theirs if not isinstance(item, TheirNotification)]
    our_requests = [item for item in ours.items if not isinstance(item, Notification)]
    if ours.reply is None:
        assert replies(our_requests, send_ours, results) == replies(
            their_requests, send_theirs, results
        )


@given(
    message=MESSAGES, version=st.sampled_from(list(THEIRS)), max_reply_bytes=st.integers(90, 400)
)
def test_no_reply_is_larger_than_the_bound(message, version, max_reply_bytes):
    read = our_reading(message, version, max_reply_bytes)
    sent = read.reply
    if not isinstance(read, MalformedMessageError):
        for request in read.items:
            if request.expects_reply:
                reply = request.encode("x" * 300)
                sent = request.deliver(
                    request.oversized() if request.is_oversized(reply) else reply
                )
    if sent is not None and len(sent) > max_reply_bytes:
        # The error itself may be larger, as its id may be.
        text = f"response too large (over {max_reply_bytes:,d} bytes"
        assert json.loads(sent)["error"] == {"code": -32600, "message": text}


@given(
    version=st.sampled_from(list(THEIRS)),
    method=TEXTS,
    args=st.lists(VALUES, max_size=3).map(tuple),
)
def test_a_notification_is_written_as_by_aiorpcx(loop, version, method, args):
    assume(is_finite(list(args)))

    async def theirs():
        connection = JSONRPCConnection(THEIRS[version])
        return connection.send_notification(TheirNotification(method, args))

    assert parsed(loop.run_until_complete(theirs())) == parsed(version.notification(method, args))


IDS = ["NaN", "Infinity", "-1e999", '["a", 1e999]', '{"a": NaN}']


@pytest.mark.parametrize("request_id", IDS)
@pytest.mark.parametrize("version", [AUTO, V1, V2])
def test_an_id_that_no_reply_could_repeat_is_refused(request_id, version):
    message = b'{"jsonrpc":"2.0","method":"x","params":[],"id":%b}' % request_id.encode()
    with pytest.raises(MalformedMessageError) as info:
        parse_message(message, version)
    assert info.value.code == -32600
    assert json.loads(info.value.reply)["id"] is None
    assert "id" in info.value.text


@pytest.mark.parametrize("message", [b"[" * 100_000, b'{"id":' + b"9" * 5_000 + b"}", b"\xff"])
@pytest.mark.parametrize("version", list(THEIRS))
def test_whatever_cannot_be_parsed_is_a_parse_error(message, version):
    with pytest.raises(MalformedMessageError) as info:
        parse_message(message, version)
    assert info.value.code == -32700
    assert json.loads(info.value.reply)["error"]["code"] == -32700
    assert info.value.version is version


def test_the_version_is_that_of_the_first_message():
    def version_of(message):
        read = our_reading(message, AUTO)
        return read.version

    assert version_of(b'{"jsonrpc":"2.0","id":1,"method":"x"}') is V2
    assert version_of(b'{"jsonrpc":"1.0","id":1,"method":"x"}') is V1
    assert version_of(b'{"id":1,"method":"x"}') is LOOSE
    assert version_of(b'[{"id":1,"method":"x"},{"jsonrpc":"2.0","id":1,"method":"x"}]') is V2
    assert version_of(b"junk") is AUTO
