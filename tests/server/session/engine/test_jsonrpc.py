"""Messages that are hostile, batches, and bounds on replies."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from electrumx.server.session.engine.jsonrpc import (
    AUTO,
    MAX_BATCH_MEMBERS,
    MAX_MALFORMED_MEMBERS,
    V2,
    MalformedMessageError,
    check_values,
    parse_message,
)
from electrumx.server.session.engine.jsonrpc.value_bound import count_values

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=10,
)
member_names = st.sampled_from(["jsonrpc", "method", "params", "id", "result", "error"])
member_values = json_values | st.sampled_from(["2.0", "1.0", "server.ping", [], {}, 1])
objects = st.dictionaries(member_names, member_values, max_size=6)
messages = (
    st.binary(max_size=30)
    | json_values.map(lambda value: json.dumps(value).encode())
    | objects.map(lambda value: json.dumps(value).encode())
    | st.lists(objects | json_values, max_size=4).map(lambda value: json.dumps(value).encode())
)


@settings(max_examples=400, deadline=None)
@given(st.lists(messages, max_size=4))
def test_any_message_is_parsed_or_malformed(sequence):
    version = AUTO
    for message in sequence:
        try:
            parsed = parse_message(message, version)
        except MalformedMessageError as e:
            version = e.version
            if e.reply is not None:
                json.loads(e.reply)
            continue
        version = parsed.version
        for item in parsed.items:
            if item.expects_reply:
                reply = item.deliver(item.encode({"x": 1}))
                assert reply is None or json.loads(reply)


@pytest.mark.parametrize("opening", [b"1", b'{"jsonrpc":"2.0"}', b'{"jsonrpc":"1.0","id":0}'])
@pytest.mark.parametrize("number", [b"NaN", b"-Infinity", b"1e999", b"-1e999"])
def test_an_id_without_a_form_in_json_is_refused(number, opening):
    messages = [b'{"jsonrpc":"2.0","id":%b,"method":"x"}', b'{"id":%b,"method":"x","params":[]}']
    if b"1.0" in opening:
        messages.append(b'{"id":[{"a":%b}],"method":"x","params":[]}')
    else:
        messages.append(b'[{"jsonrpc":"2.0","id":%b,"method":"x"}]')
    try:
        version = parse_message(opening, AUTO).version
    except MalformedMessageError as e:
        version = e.version
    for message in messages:
        try:
            parsed = parse_message(message % number, version)
        except MalformedMessageError as e:
            reply = json.loads(e.reply)
        else:
            assert parsed.items == []
            reply = json.loads(parsed.reply)[0]
        assert (reply["id"], reply["error"]["code"]) == (None, -32600)
        assert 'invalid "id": ' in reply["error"]["message"]


def received(message, max_size=0):
    """Return (items, reply at once, malformed members) of a message in version 2.0."""
    try:
        parsed = parse_message(message, V2, max_size)
    except MalformedMessageError as e:
        return None, json.loads(e.reply), e.malformed
    return parsed.items, parsed.reply and json.loads(parsed.reply), parsed.malformed


@pytest.mark.parametrize("before", [b"1", b"NaN", b"1e999", rb'"[\ud800\"["'])
@pytest.mark.parametrize(("opening", "end"), [(b"[", b"]"), (b'{"a":', b"}"), (b'[{"a":', b"}]")])
def test_a_message_that_is_nested_thousands_deep_is_invalid_json(before, opening, end):
    """Also with a Python that would parse it, and behind a value that orjson does not accept."""

    def message(depth):
        params = before + b"," + opening * depth + b"1" + end * depth
        return b'{"jsonrpc":"2.0","id":1,"method":"server.ping","params":[%b]}' % params

    # Flat ones with as many brackets
    for flat in (message(300), message(300)[:-2] + b',[{"[":"{"}]' * 600 + b"]}"):
        items, reply, _ = received(flat)
        assert (len(items), reply) == (1, None)
    for depth in (2_000, 20_000):
        items, reply, _ = received(message(depth))
        assert (items, reply["error"]["code"]) == (None, -32700)
        assert reply["error"]["message"] == "invalid JSON"


def test_a_flat_message_may_have_any_number_of_brackets():
    """Those in texts do not count, and numbers that only one parser has are accepted."""
    params = [[n, float("nan"), "[{" * 20] for n in range(1_000)]
    items, reply, _ = received(json.dumps(ping(1) | {"params": params}).encode())
    assert (len(items), reply) == (1, None)
    assert items[0].args[7][2] == "[{" * 20


def ping(number):
    return {"jsonrpc": "2.0", "id": number, "method": "server.ping"}


def test_a_batch_has_a_bounded_number_of_members():
    fits = [ping(n) for n in range(MAX_BATCH_MEMBERS)]
    items, _, _ = received(json.dumps(fits).encode())
    assert len(items) == MAX_BATCH_MEMBERS
    for members in ([*fits, ping(0)], [{"result": 1, "id": 1}] * len(fits) * 2):
        items, reply, _ = received(json.dumps(members).encode())
        assert (items, reply["id"], reply["error"]["code"]) == (None, None, -32600)
        assert reply["error"]["message"] == "batch has more than 10,000 members"


@pytest.mark.parametrize("malformed", [1, {"jsonrpc": "2.0", "id": []}, {"method": 5}])
def test_none_of_a_batch_with_many_malformed_members_is_executed(malformed):
    most = MAX_MALFORMED_MEMBERS
    items, reply, count = received(json.dumps([ping(1)] + [malformed] * most).encode())
    assert (len(items), reply, count) == (1, None, most)
    items, reply, count = received(json.dumps([ping(1)] + [malformed] * 5_000).encode())
    assert (items, reply["id"], count) == (None, None, most + 1)
    assert reply["error"]["message"] == "batch has more than 100 malformed members"


@settings(max_examples=200, deadline=None)
@given(
    members=st.lists(
        st.tuples(st.sampled_from(["good", "malformed", "long id"]), st.integers(0, 3_000)),
        min_size=1,
        max_size=12,
    ),
    max_size=st.integers(300, 5_000),
)
def test_no_reply_to_a_batch_is_larger_than_the_bound(members, max_size):
    batch = []
    for kind, size in members:
        if kind == "good":
            batch.append(ping(size))
        elif kind == "malformed":
            batch.append({"jsonrpc": "2.0", "id": 1, "method": "x", "params": "y" * size})
        else:
            batch.append(ping("z" * size))
    try:
        parsed = parse_message(json.dumps(batch).encode(), V2, max_size)
        items, message = parsed.items, parsed.reply
    except MalformedMessageError as e:
        items, message = [], e.reply
    for item in items:
        part = item.encode("x" * 500)
        if item.is_oversized(part):
            part = item.oversized()
        message = item.deliver(part)
    assert message is not None
    assert len(message) <= max_size
    json.loads(message)


def test_in_a_batch_what_does_not_fit_is_replaced_one_by_one():
    items = parse_message(json.dumps([ping(n) for n in range(15)]).encode(), V2, 10_000).items
    message = None
    for item in items:
        # The first alone would leave no room for any error.
        part = item.encode("x" * (9_900 if item is items[0] else 500))
        message = item.deliver(item.oversized() if item.is_oversized(part) else part)
    replies = json.loads(message)
    assert [reply["id"] for reply in replies] == list(range(15))
    assert ["error" in reply for reply in replies] == [True] + [False] * 14
    assert len(message) <= 10_000


def test_a_batch_of_the_shortest_requests_is_not_refused():
    for member in (b'{"id":1,"method":"server.ping"}', b'{"id":1,"method":"a","params":[]}'):
        batch = b"[" + b",".join([member] * MAX_BATCH_MEMBERS) + b"]"
        assert check_values(batch, V2, 0) > len(batch)


@given(json_values)
def test_a_message_has_at_least_as_many_counted_values_as_parsed(value):
    def count(item):
        if isinstance(item, dict):
            return 1 + sum(map(count, item.values()))
        return 1 + sum(map(count, item)) if isinstance(item, list) else 1

    assert count_values(json.dumps(value).encode(), 10**6) >= count(value)
