"""The prices of requests and connections, in units of cost: 10,000 buy about two seconds of CPU.

The prices of requests are here, but for those that one module alone charges.  Handlers charge them;
the caches of ``session.shared``, which know what work a value took, return its cost with it.
``session_groups`` describes the effect of cost.
"""

# Of a connection by itself.
CONNECT_COST = 5.0
# Of a TLS handshake: 1.3 ms with an RSA key of 2,048 bits, and more on a busy machine.
HANDSHAKE_COST = 10.0
# Of each read of a connection with TLS, in addition to that of a read: decryption, and encryption of
# the replies.
TLS_READ_COST = 0.15
# Of a TLS record that came with others, and the additional cost of one without content.
RECORD_COST = 0.025
EMPTY_RECORD_COST = 0.25
# Of a WebSocket frame that is not a whole message: ping, pong, or a fragment.
FRAME_COST = 0.06
# Of a WebSocket message, in addition to the request in it: the library's frames.
MESSAGE_COST = 0.2
# Of each read from the network, whether it completes messages or not: waking up, receiving and
# sending take 30 µs.  Requests that come together share it.
READ_COST = 0.25
# Of a request that waits while no other of its session does: it has the way to a thread or to the
# node and back, 100 µs and more, for itself.
LONE_WAIT_COST = 0.7
# Of a transaction requested from the node alone, in addition: no other shares the HTTP request.
LONE_NODE_COST = 2.0
# Of a request that the node answers, or whose answer is a list of ours; of many of the others, in part.
REQUEST_COST = 1.0
# Of each item of a list in an answer.
ITEM_COST = 1 / 50
# Of a look-up in memory, and of a try that failed.
COST_CACHED = 0.1
COST_FAILED_TRY = 0.1
# Of a header, and of a proof that one or several belong to a checkpoint.
HEADER_COST = 0.25
PROOF_COST = 1.0
# Of a range of headers, however short it is.
MIN_HEADERS_COST = 0.25
# Of the node's JSON form of a transaction, beside the request: we decode and encode it again.
VERBOSE_COST = 0.8
# Of the unconfirmed transactions of a script, in addition to each.
UNCONFIRMED_COST = 0.25
# Of a status, and of each character of the text that it hashes.
STATUS_COST = 0.1
STATUS_CHAR_COST = 0.00002
# Of a fee estimate that the node makes.
ESTIMATE_COST = 2.0
# Of the features of this server, and of a peer that a client adds: we look it up and connect to it.
FEATURES_COST = 0.2
ADD_PEER_COST = 100.0
# The largest count in the computation of a price: keeps floats finite whatever a client asks.
MAX_PRICED_COUNT = 10**9


def history_cost(entries: int) -> float:
    """Return the price of reading a history of that many entries from disk."""
    return 0.25 + 0.001 * entries


def tx_hashes_cost(count: int) -> float:
    """Return the price of reading the hashes of a block of that many txs from disk."""
    return 0.25 + 0.0001 * count


def headers_cost(requested: int) -> float:
    """Return the price of a range of headers, by the number asked for (not sent)."""
    return max(MIN_HEADERS_COST, min(requested, MAX_PRICED_COUNT) / 50)


def header_proof_cost(hashes: int) -> float:
    """Return the price of making so many hashes of the tree over all headers: 0.8 us each."""
    return hashes / 150


def merkle_cost(hashes: float) -> float:
    """Return the price of making, or reading, so many hashes of a block's Merkle tree."""
    return hashes / 2500


def broadcast_cost(hex_digits: int) -> float:
    """Return the price of sending transactions of so many hex digits to the node."""
    return 0.25 + hex_digits / 5000


def masternode_diff_cost(blocks: int) -> float:
    """Return the price of the changes of the list of masternodes within so many blocks."""
    return REQUEST_COST + blocks / 100
