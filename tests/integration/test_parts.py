"""Packages of Debian to fetch: chosen from apt's simulations of releases."""

from tests.integration.parts import debian_closure

BOOKWORM = """\
Inst liblua5.3-0 (5.3.6-2 Debian:12.15/oldstable [amd64])
Inst libopentracing-c-wrapper0 (1.1.3-3+b1 Debian:12.15/oldstable [amd64])
Inst haproxy (2.6.12-1+deb12u4 Debian:12.15/oldstable [amd64])
Conf liblua5.3-0 (5.3.6-2 Debian:12.15/oldstable [amd64])
"""
SID = """\
Inst adduser (3.154 Debian:unstable [all])
Inst libopentracing-c-wrapper0t64 (1.1.3-3.1+b1 Debian:unstable [amd64])
Inst systemd [255.1-1] (262-1 Debian:unstable [amd64]) []
Inst haproxy (3.2.26-1 Debian:unstable [amd64])
"""


def test_what_a_package_depends_on_comes_along_by_the_names_of_the_release():
    assert debian_closure(BOOKWORM) == ["liblua5.3-0", "libopentracing-c-wrapper0", "haproxy"]


def test_packages_of_data_alone_do_not():
    assert debian_closure(SID) == ["libopentracing-c-wrapper0t64", "systemd", "haproxy"]


def test_nothing_is_fetched_that_is_installed():
    assert debian_closure("") == []
