"""The Debian package has the commands, the unit and the settings that the project has."""

import re
import shutil
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY, require

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = REPOSITORY / "contrib" / "debian"
SCRIPTS = ("build", "postinst", "prerm", "postrm")


def rules():
    return (FOLDER / "rules").read_text().replace("\\\n", " ")


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_of_the_package_parses(name):
    subprocess.run(["sh", "-n", FOLDER / name], check=True)


@pytest.mark.parametrize("name", SCRIPTS[1:])
def test_a_maintainer_script_stops_at_an_error_and_has_what_debhelper_adds(name):
    text = (FOLDER / name).read_text()

    assert text.startswith("#!/bin/sh\nset -e\n")
    assert "\n#DEBHELPER#\n" in text


def test_the_package_has_every_command():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    (listed,) = re.findall(r"^COMMANDS = (.*)$", rules(), re.MULTILINE)

    assert set(listed.split()) == set(project["scripts"])


def test_the_unit_of_the_package_starts_the_package_s_command():
    require(shutil.which("sed"), "sed is not installed")
    (script,) = re.findall(r"sed '([^']+)' contrib/systemd/electrumx.service", rules())
    unit = REPOSITORY / "contrib" / "systemd" / "electrumx.service"
    made = subprocess.run(["sed", script, unit], capture_output=True, text=True, check=True).stdout

    assert made.lstrip().startswith("[Unit]")
    assert "\nExecStart=/usr/bin/electrumx_server --config /etc/electrumx.conf\n" in made
    assert "/opt/" not in made


def test_the_settings_with_the_password_are_for_root_and_the_server_alone():
    assert "chmod 640 $(ROOT)/etc/electrumx.conf" in rules()
    postinst = (FOLDER / "postinst").read_text()
    assert "chown root:electrumx /etc/electrumx.conf" in postinst
    assert "chmod 0640 /etc/electrumx.conf" in postinst


def test_the_packages_of_the_build_are_those_that_control_names():
    control = (FOLDER / "control").read_text()
    (depends,) = re.findall(r"^Build-Depends: (.*)$", control, re.MULTILINE)
    named = {re.sub(r"-compat| \(.*\)", "", word).strip() for word in depends.split(",")}
    (command,) = re.findall(
        r"apt-get install --no-install-recommends (.*)", (FOLDER / "build").read_text()
    )

    # dpkg-buildpackage always wants it: compiler, headers, make and dpkg-dev.
    assert set(command.split()) == named | {"build-essential"}


def test_the_maintainer_s_address_is_in_a_domain_that_cannot_exist():
    """The project has no address, and lintian refuses a host without a domain."""
    control = (FOLDER / "control").read_text()
    (address,) = re.findall(r"^Maintainer: (.+)$", control, re.MULTILINE)

    assert re.search(r"@[\w.]+\.invalid>$", address)
    assert f"\n -- {address}  " in (FOLDER / "build").read_text()


def test_no_file_of_the_libraries_is_executable():
    """aiorpcX's licence comes so."""
    assert "\tfind $(VENV)/lib -type f -exec chmod 644 {} +\n" in rules()


def test_debhelper_puts_the_unit_where_the_release_of_debian_has_units():
    assert "> debian/electrumx.service\n" in rules()
    assert "/systemd/system" not in rules()


def test_no_file_for_git_is_in_the_package():
    """Python 3.13 puts one into each virtual environment."""
    (removed,) = re.findall(r"^\trm -rf (.*)$", rules(), re.MULTILINE)

    assert "$(VENV)/.gitignore" in removed.split()
