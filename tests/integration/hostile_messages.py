"""The messages of a hostile client, and the right replies: the oracle of the fuzzer.

`Dialogue` makes messages at random, from a seed; `Ledger` computes for each message, from its bytes
alone, which replies are due, and strikes them off as they come. Neither knows anything of the
server but the protocol:

* the first message that is JSON fixes the JSON-RPC version of a connection: 2.0, 1.0 or loose;
* each request with an id gets exactly one reply with that id, notifications and replies get none;
* what is no request gets an error whose id is null, unless its id could be read;
* the replies to a batch come as one list.
"""

import json

PARSE_ERROR, INVALID_REQUEST, UNKNOWN_METHOD, INVALID_ARGUMENTS = -32700, -32600, -32601, -32602
RESULT = "a result"
# A request too many for now, a reply too large, a history too large, a refusal of the handler and
# one of the node. An internal error (-32603) is never an answer.
ANSWERS = frozenset(
    {RESULT, 1, 2, 10001, INVALID_REQUEST, UNKNOWN_METHOD, INVALID_ARGUMENTS, -101, -102}
)
NULL = "null"


def strictly(text):
    """The value of JSON text; AssertionError if it names what JSON does not know, as NaN."""

    def refuse(name):
        raise AssertionError(f"{name} in a reply: {text[:500]}")

    return json.loads(text, parse_constant=refuse)


def id_text(value):
    """An id as JSON: 1, 1.0 and true are different ones."""
    return json.dumps(value)


class Due:
    """A reply, or a batch of them, that is to come: pairs of the id's text and allowed codes."""

    def __init__(self, *members, batch=False):
        # The narrowest first: a code that fits two of one id is the narrower one's.
        self.members = sorted(members, key=lambda member: len(member[1]))
        self.batch = batch

    def __repr__(self):
        names = ", ".join(name[:40] for name, _codes in self.members)
        return f"[{names}]" if self.batch else names

    def key(self, form):
        """The properties that it shares with its reply."""
        return form, self.batch, *sorted(name for name, _codes in self.members)

    def allows(self, told):
        """Say if pairs of id text and code, as many as members, are an answer."""
        members = self.members.copy()
        for name, code in told:
            fits = (m for m in members if m[0] == name and code in m[1])
            member = next(fits, None)
            if member is None:
                return False
            members.remove(member)
        return True


def _member(payload, dialect, *, in_batch=False):
    """(id text, codes) of the reply to one payload of a message; None for none."""
    if not isinstance(payload, dict):
        return NULL, {INVALID_REQUEST}
    if "method" not in payload and not in_batch:
        return None  # a reply, without a request of ours
    number = payload.get("id")
    if dialect == "1.0":
        if "id" not in payload:
            return NULL, {INVALID_REQUEST}
    elif not isinstance(number, (int, float, str, type(None))):
        return NULL, {INVALID_REQUEST}
    try:
        name = json.dumps(number, allow_nan=False)
    except ValueError:
        return NULL, {INVALID_REQUEST}  # no reply could repeat it
    params = payload.get("params", None if dialect == "1.0" else [])
    if dialect == "2.0" and payload.get("jsonrpc") != "2.0":
        return name, {INVALID_REQUEST}
    if not isinstance(params, list if dialect == "1.0" else (list, dict)):
        return name, {INVALID_ARGUMENTS}
    if not isinstance(payload.get("method"), str):
        return name, {INVALID_REQUEST, UNKNOWN_METHOD}
    return None if number is None else (name, ANSWERS)


def _dialect(payload):
    members = payload if isinstance(payload, list) else [payload]
    named = [member.get("jsonrpc") for member in members if isinstance(member, dict)]
    for version in ("2.0", "1.0"):
        if version in named:
            return version
    if any(isinstance(m, dict) and "result" in m and "error" in m for m in members):
        return "1.0"
    return "loose"


class Ledger:
    """The replies that are due on one connection. Feed it all messages in their order."""

    def __init__(self):
        self.dialect = None
        self._dues = {}  # key -> list of Due

    def due(self):
        """The replies to come."""
        return [due for dues in self._dues.values() for due in dues]

    def sent(self, message):
        """Note a message, bytes without terminator."""
        due = self._expected(message)
        if due is not None:
            dues = self._dues.setdefault(due.key(self._form()), [])
            dues.append(due)
            dues.sort(key=lambda due: sum(len(codes) for _name, codes in due.members))

    def _form(self):
        return "1.0" if self.dialect == "1.0" else "2.0"

    def _expected(self, message):
        try:
            payload = json.loads(message.decode())
        except (ValueError, RecursionError):
            # Also bytes that are no UTF-8, and numbers of thousands of digits
            return Due((NULL, {PARSE_ERROR}))
        self.dialect = self.dialect or _dialect(payload)
        if payload and isinstance(payload, list) and self.dialect != "1.0":
            if all(isinstance(m, dict) and ("result" in m or "error" in m) for m in payload):
                return None  # replies
            members = [_member(item, self.dialect, in_batch=True) for item in payload]
            members = [member for member in members if member]
            return Due(*members, batch=True) if members else None
        member = _member(payload, self.dialect)
        return Due(member) if member else None

    def received(self, text):
        """Strike off what a message answers; AssertionError if it should not have come.

        Returns the replies in it, [] for a notification of the server's.
        """
        message = strictly(text)
        if isinstance(message, dict) and "method" in message:
            return []
        replies = message if isinstance(message, list) else [message]
        told = [_told(reply) for reply in replies]
        form = told[0][0] if told else ""
        assert all(other == form for other, _name, _code in told), text[:500]
        told = [(name, code) for _form, name, code in told]
        key = (form, isinstance(message, list), *sorted(name for name, _code in told))
        dues = self._dues.get(key, [])
        for due in dues:
            if due.allows(told):
                dues.remove(due)
                if not dues:
                    del self._dues[key]
                return replies
        raise AssertionError(f"answers nothing that is due: {text[:500]}")


def _told(reply):
    """(form, id text, code) of a reply."""
    assert isinstance(reply, dict), reply
    error = reply.get("error")
    form = reply.get("jsonrpc", "1.0")
    if form == "1.0":
        assert set(reply) == {"result", "error", "id"}, reply
    else:
        assert set(reply) in ({"jsonrpc", "id", "result"}, {"jsonrpc", "id", "error"}), reply
    if error is not None:
        assert set(error) == {"code", "message"}, reply
        assert isinstance(error["message"], str), reply
    return form, id_text(reply["id"]), RESULT if error is None else error["code"]


# --- making them


NASTY = [
    None,
    True,
    False,
    -1,
    0,
    1,
    5,
    1.5,
    10**400,
    -(10**30),
    1e308,
    "",
    "x",
    "9" * 300,
    "\u0663",
]
NASTY += [[], [[]], {}, {"a": [1]}, "ab" * 32, "AB" * 32, " " * 64, "\x00" * 64, "\ud800", "\ufeff"]
NASTY += [float("nan"), float("inf"), 2**31, 2**63, 2**64, "é" * 50, ["0" * 64], "1.4", "1.4.2"]
IDS = [0, 1, -1, 2**53 + 1, 10**400, 1.5, 1e300, True, "", "x", "\ud800", "é", "a" * 2000, None]
BAD_IDS = [[], {}, [1], {"a": None}, float("nan"), float("inf")]
METHODS = {
    "blockchain.block.header": 2,
    "blockchain.block.headers": 3,
    "blockchain.estimatefee": 2,
    "blockchain.headers.subscribe": 0,
    "blockchain.relayfee": 0,
    "blockchain.scripthash.get_balance": 1,
    "blockchain.scripthash.get_history": 1,
    "blockchain.scripthash.get_mempool": 1,
    "blockchain.scripthash.listunspent": 1,
    "blockchain.scripthash.subscribe": 1,
    "blockchain.scripthash.unsubscribe": 1,
    "blockchain.transaction.broadcast": 1,
    "blockchain.transaction.broadcast_package": 2,
    "blockchain.transaction.get": 2,
    "blockchain.transaction.get_merkle": 2,
    "blockchain.transaction.id_from_pos": 3,
    "mempool.get_fee_histogram": 0,
    "mempool.get_info": 0,
    "server.add_peer": 1,
    "server.banner": 0,
    "server.donation_address": 0,
    "server.features": 0,
    "server.peers.subscribe": 0,
    "server.ping": 0,
}
DEPTHS = (5, 50, 20_000)


class Dialogue:
    """Messages at random. calls: (method, params) that the server has an answer to."""

    def __init__(self, rng, calls):
        self.rng = rng
        self._calls = calls
        self.dialect = rng.choice(["2.0", "2.0", "loose", "1.0"])
        self._numbers = 0
        self.asked = {}  # id text -> index of the well-formed call that has it

    def messages(self, count):
        """So many messages; the first parsable one is of the JSON-RPC version."""
        opening = [self.junk() for _ in range(self.rng.choice([0, 0, 1, 2]))]
        return [*opening, self.good(), *(self.any() for _ in range(count))]

    def any(self):
        """One message of any kind."""
        kinds = [self.good] * 6 + [self.odd] * 4 + [self.batch] * 2 + [self.junk, self.mutated]
        return self.rng.choice(kinds)()

    def _wrap(self, payload):
        if self.dialect != "loose":
            payload["jsonrpc"] = self.dialect
        return payload

    def _good(self, index=None):
        if index is None:
            index = self.rng.randrange(len(self._calls))
        method, params = self._calls[index]
        self._numbers += 1
        number = self.rng.choice([self._numbers + 10**6, f"call {self._numbers}"])
        self.asked[id_text(number)] = index
        return self._wrap({"id": number, "method": method, "params": params})

    def _odd(self):
        """A request, or nearly one."""
        choose = self.rng.choice
        method = choose([*METHODS] * 3 + ["", "no.such", "__init__", "\ud800", 5, None, [], {}])
        count = METHODS.get(method, 1) if isinstance(method, str) else 1
        count = max(0, count + choose([0, 0, 0, -1, 1, 5]))
        params = [choose(NASTY) for _ in range(count)]
        payload = self._wrap({"id": choose(IDS), "method": method, "params": params})
        if self.rng.random() < 0.3:
            payload["params"] = choose([{}, {"tx_hash": 1}, {"x": []}, None, 5, "text", True])
        for name, values in (("id", BAD_IDS), ("jsonrpc", ["1.0", "2.0", "3.0", 2.0, None, []])):
            if self.rng.random() < 0.1:
                payload[name] = choose(values)
        for name in ("id", "params", "method", "jsonrpc"):
            if self.rng.random() < 0.05:
                payload.pop(name, None)
        if self.rng.random() < 0.05:
            payload = {choose(["result", "error"]): choose(NASTY), **payload}
        return payload

    def _text(self, payload):
        """Its JSON as one line of bytes, in one of many spellings."""
        text = json.dumps(payload, ensure_ascii=self.rng.random() < 0.7)
        if self.rng.random() < 0.2:
            text = " \t\r" * self.rng.randrange(3) + text + " \r" * self.rng.randrange(3)
        return text.encode("utf-8", "surrogatepass")

    def good(self):
        """A request that the server has an answer to."""
        return self._text(self._good())

    def pipeline(self, count, indices):
        """So many requests, all for calls of these indices."""
        return [self._text(self._good(self.rng.choice(indices))) for _ in range(count)]

    def odd(self):
        """A message of one odd request."""
        return self._text(self._odd())

    def batch(self):
        """A batch of requests, malformed members and all."""
        size = self.rng.choice([0, 1, 2, 5, 20, 100])
        kinds = [self._good] * 3 + [self._odd] * 2 + [lambda: self.rng.choice(NASTY)]
        return self._text([self.rng.choice(kinds)() for _ in range(size)])

    def junk(self):
        """A message that is no JSON."""
        rng = self.rng
        depth = rng.choice(DEPTHS)
        message = rng.choice(
            [
                b"",
                b"\xff\xfe",
                b"\xed\xa0\x80",
                b"\xef\xbb\xbf{}",
                b'{"id": 1, "method": "\xc3\x28"}',
                b"[" * depth,
                b'{"id":' * depth,
                b"[" * 30_000 + b"]" * 30_000,
                b'{"id": 7, "method": "server.ping", "params": [' + b"9" * 5000 + b"]}",
                b'{"id": 01}',
                b"{'id': 1}",
                b'{"id": 1} {"id": 2}',
                b'"\x01"',
                b"-",
                b"1e",
                bytes(rng.randrange(100)),
                rng.randbytes(rng.randrange(1, 200)),
            ]
        ).replace(b"\n", b"")
        # A message that happened to be a number or the like would fix the version.
        return message if _is_junk(message) else b"{"

    def mutated(self):
        """A request with some bytes of it changed, in most cases beyond recognition."""
        known = dict(self.asked)
        message = bytearray(self.rng.choice([self.good, self.odd])())
        # It may ask for something else now.
        self.asked = known
        for _ in range(self.rng.choice([1, 1, 3, 10])):
            place = self.rng.randrange(len(message))
            change = self.rng.randrange(3)
            if change == 0:
                message[place] = self.rng.randrange(256)
            elif change == 1:
                del message[place:]
            else:
                message[place:place] = message[place : place + self.rng.randrange(20)]
            message = message or bytearray(b"{")
        return bytes(message).replace(b"\n", b"")


def _is_junk(message):
    try:
        json.loads(message.decode())
    except (ValueError, RecursionError):
        return True
    return False
