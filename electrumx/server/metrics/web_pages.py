"""Refuses HTTP requests that a web page of another origin makes.

A browser that can reach the ``metrics`` service sends it what any page asks for.  This closes two ways:

* A page requests the service under its own name: browsers mark that in ``Sec-Fetch-Site``.  The page
  cannot read the reply, but could occupy the few connections.  Links to the status page stay possible.
* DNS rebinding: a page whose name first leads to its own server, then to this one, is of the same
  origin as the service, and could read all replies.  The ``Host`` header then has that name.  An
  attacker needs a name in the public DNS, so addresses, names without a dot and names that the DNS
  never has (RFC 6761, RFC 6762, RFC 8375) pass, others only if the operator lists them.

The first does not affect programs, which send no other name than that of their configuration.  Pure.
"""

from collections.abc import Collection, Sequence
from ipaddress import ip_address

from electrumx.server.origins import host_name

# Ends of names that the public DNS never has.
PRIVATE_ENDS = (".localhost", ".local", ".internal", ".home.arpa", ".test", ".onion")
FOREIGN_SITES = ("cross-site", "same-site")


def is_own_host(host: str, listed: Collection[str]) -> bool:
    """Return whether a Host header can be of this service; ``listed`` are further names."""
    name = host_name(host)
    if "." not in name or name.endswith(PRIVATE_ENDS) or name in listed:
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def is_foreign(site: str, mode: str) -> bool:
    """Return whether a page of another origin asks, by ``Sec-Fetch-Site`` and ``Sec-Fetch-Mode``."""
    return site in FOREIGN_SITES and mode != "navigate"


def refusal(
    hosts: Sequence[str], site: str, mode: str, listed: Collection[str]
) -> tuple[int, bytes] | None:
    """Return the status and the body that refuse a request, None to answer it."""
    if is_foreign(site, mode):
        return 403, b"pages of other origins are not answered\n"
    if len(hosts) > 1 or not all(is_own_host(host, listed) for host in hosts):
        return 421, b"not a name of this service: list it in METRICS_HOSTS\n"
    return None
