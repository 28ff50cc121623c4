"""Packages of transactions: the node's reply to one, and the reply to the client.  Pure."""

from collections.abc import Callable
from typing import Any

#: transactions in a package at most, as nodes have it
MAX_PACKAGE_TXS = 25
#: Bitcoin Core's message for a package without transactions, or with more than that
COUNT_TEXT = f"Array must contain between 1 and {MAX_PACKAGE_TXS} transactions."
NOT_SUPPORTED_TEXT = "the daemon has no submitpackage"


def rejection(message: str) -> str:
    """Return the error text for a package that the node refused with a message."""
    return f"the tx package was rejected by network rules.\n\n{message}."


def package_results(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the result of each transaction in the node's answer, which states them by wtxid."""
    results = answer.get("tx-results")
    if not isinstance(results, dict):
        return []
    return [result for result in results.values() if isinstance(result, dict)]


def package_summary(answer: dict[str, Any], child_txid: Callable[[], str]) -> dict[str, Any]:
    """Return the result that is not verbose.

    ``errors`` is there whenever ``success`` is false: clients require it.  Where the node names no
    transaction, it is about the child, whose txid ``child_txid()`` returns.
    """
    message = answer.get("package_msg")
    success = message == "success"
    errors = [
        {"txid": result.get("txid"), "error": result["error"]}
        for result in package_results(answer)
        if result.get("error")
    ]
    if not success and not errors:
        errors = [{"txid": child_txid(), "error": str(message)}]
    return {"success": success, "errors": errors} if errors else {"success": success}


def acceptance(result: dict[str, Any]) -> dict[str, Any]:
    """Return the result for clients of a member of the node's answer to testmempoolaccept.

    Of packages the node may judge no single transaction: then ``allowed`` is absent.
    """
    told = {"txid": result.get("txid"), "wtxid": result.get("wtxid")}
    if isinstance(result.get("allowed"), bool):
        told["allowed"] = result["allowed"]
    for name in ("package-error", "reject-details", "reject-reason"):
        if result.get(name):
            told["reason"] = result[name]
            break
    return told
