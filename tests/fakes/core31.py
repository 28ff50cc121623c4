"""Answers of Bitcoin Core 31, as a real one gave them, for packages and outpoints.

``P`` is a parent, ``C`` its child; the transactions themselves are made up.
"""

from electrumx.server.daemon.client import DaemonError

P, C = "aa" * 32, "cc" * 32
WTXIDS = {P: "a1" * 32, C: "c1" * 32}
TOPOLOGY = "package topology disallowed. not child-with-parents or parents depend on each other."
COUNT = "Array must contain between 1 and 25 transactions."
UNDECODED = "TX decode failed: 00 Make sure the tx has at least one input."
CHEAP = "min relay fee not met, 0 < 110"
CHEAPER = "min relay fee not met, 10 < 220"
REPLACEMENT = (
    f"insufficient fee, rejecting replacement {C}, not enough additional fees to relay; "
    "0.00000001 < 0.00000011"
)


def package(message, **members):
    """Return an answer of submitpackage: members of the results of ``P`` and ``C``."""
    results = {}
    for txid, name in ((P, "p"), (C, "c")):
        if name in members:
            results[WTXIDS[txid]] = {"txid": txid, **members[name]}
    return {"package_msg": message, "tx-results": results, "replaced-transactions": []}


def accepted(fee):
    return {"vsize": 110, "fees": {"base": fee, "effective-feerate": 1e-05}}


def error(code, message):
    return DaemonError({"code": code, "message": message})


def failed(*errors):
    return {
        "success": False,
        "errors": [{"txid": txid, "error": text} for txid, text in errors],
    }


#: rows of the table of packages: name, the node's answer, our answer if it is not verbose
PACKAGES = [
    ("1", package("success", p=accepted(0), c=accepted(1e-5)), {"success": True}),
    ("2 again", package("success", p={"vsize": 110}, c={"vsize": 110}), {"success": True}),
    ("3 topology", error(-25, TOPOLOGY), TOPOLOGY),
    ("4 one", package("success", c=accepted(1e-5)), {"success": True}),
    (
        "5 child pays nothing",
        package("transaction failed", p=accepted(1e-5), c={"error": CHEAP}),
        failed((C, CHEAP)),
    ),
    (
        "6 parent mined",
        package("transaction failed", p={"error": "txn-already-known"}, c=accepted(1e-5)),
        failed((P, "txn-already-known")),
    ),
    (
        "7 both cheap",
        package("transaction failed", p={"error": CHEAP}, c={"error": CHEAPER}),
        failed((P, CHEAP), (C, CHEAPER)),
    ),
    (
        "8 unknown inputs",
        package("transaction failed", c={"error": "bad-txns-inputs-missingorspent"}),
        failed((C, "bad-txns-inputs-missingorspent")),
    ),
    (
        "9 package replacement",
        package(
            "package RBF failed: insufficient anti-DoS fees, rejecting replacement",
            p={"error": CHEAP},
            c={"error": "bad-txns-inputs-missingorspent"},
        ),
        failed((P, CHEAP), (C, "bad-txns-inputs-missingorspent")),
    ),
    (
        "10 replacement too cheap",
        package("transaction failed", c={"error": REPLACEMENT}),
        failed((C, REPLACEMENT)),
    ),
    (
        "11 replacement",
        {**package("success", c=accepted(1e-5)), "replaced-transactions": ["dd" * 32]},
        {"success": True},
    ),
    (
        "12 absurd fee",
        package("transaction failed", c={"error": "max feerate exceeded"}),
        failed((C, "max feerate exceeded")),
    ),
    ("13 count", error(-8, COUNT), COUNT),
    ("14 undecodable", error(-22, UNDECODED), UNDECODED),
]

W1, W2 = WTXIDS[P], WTXIDS[C]
UNSIGNED = (
    "mempool-script-verify-flag-failed (Witness program hash mismatch), input 0 of "
    f"{C} (wtxid {W2}), spending {P}:0"
)


def judged(txid, **members):
    return {"txid": txid, "wtxid": WTXIDS[txid], **members}


def allowed(txid, fee=1e-05):
    return judged(txid, allowed=True, vsize=110, fees={"base": fee, "effective-feerate": 1e-05})


def refused(txid, reason, details=""):
    return judged(txid, allowed=False, **{"reject-reason": reason, "reject-details": details})


def of_package(error):
    return [judged(txid, **{"package-error": error}) for txid in (P, C)]


def told(txid, **members):
    return {"txid": txid, "wtxid": WTXIDS[txid], **members}


#: rows of the table of testmempoolaccept: name, the node's answer, our answer
ACCEPTANCES = [
    ("good", [allowed(P), allowed(C)], [told(P, allowed=True), told(C, allowed=True)]),
    (
        "parent pays nothing",
        [refused(P, "min relay fee not met", CHEAP), judged(C)],
        [told(P, allowed=False, reason=CHEAP), told(C)],
    ),
    (
        "child pays nothing",
        [judged(P), refused(C, "min relay fee not met", CHEAP)],
        [told(P), told(C, allowed=False, reason=CHEAP)],
    ),
    *(
        (error, of_package(error), [told(P, reason=error), told(C, reason=error)])
        for error in (
            "package-not-sorted",
            "package-contains-duplicates",
            "conflict-in-package",
        )
    ),
    *(
        (reason, [refused(C, reason)], [told(C, allowed=False, reason=reason)])
        for reason in ("missing-inputs", "txn-already-known", "max-fee-exceeded")
    ),
    (
        "unsigned",
        [
            refused(
                C,
                "mempool-script-verify-flag-failed (Witness program hash mismatch)",
                UNSIGNED,
            )
        ],
        [told(C, allowed=False, reason=UNSIGNED)],
    ),
    (
        "replacement",
        [refused(C, "insufficient fee", REPLACEMENT)],
        [told(C, allowed=False, reason=REPLACEMENT)],
    ),
]
