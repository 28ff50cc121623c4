"""Every package that is imported is declared, and the versions that are tested are written down."""

import ast
import re
import sys
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from electrumx.lib.header_hashes import BUILD_FLAGS, WORKING_PACKAGES
from tests.conftest import REPOSITORY

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CONSTRAINTS = REPOSITORY / "contrib" / "constraints.txt"
LOCKED = REPOSITORY / "contrib" / "container" / "requirements.txt"
# The extras whose packages the server imports if they are there, beside the header hashes
SERVER_EXTRAS = ("rocksdb", "uvloop", "zmq")
# Imported only where the operator built them: each is named in the manual, none is in a registry
# in a form that a plain installation can use.
BUILT_BY_HAND = {"rocksdb"}
# Imported by their names when a database of theirs is opened
ENGINES = {"plyvel", "plyvel_next", "rocksdict"}
DISTRIBUTION_OF = {"plyvel_next": "plyvel-next", "zmq": "pyzmq"}


@pytest.fixture(scope="module")
def project():
    """The table that describes the package to pip."""
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def requirements(project, *extras):
    texts = list(project["dependencies"])
    for extra in extras:
        texts += project["optional-dependencies"][extra]
    return [Requirement(text) for text in texts]


def versions(pattern, text):
    """The versions of Python, as (major, minor), that a pattern finds."""
    return [(int(major), int(minor)) for major, minor in re.findall(pattern, text)]


def test_every_place_names_the_same_versions_of_python(project):
    makefile = (REPOSITORY / "Makefile").read_text()
    pyproject = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    classified = versions(r"Python :: (\d)\.(\d+)", "\n".join(project["classifiers"]))
    (supported,) = re.findall(r"^SUPPORTED := (.*)$", makefile, re.MULTILINE)
    (tried,) = re.findall(r"for p in ([\w. ]+);", makefile)
    wheels = pyproject["tool"]["cibuildwheel"]["build"]

    assert classified[0] == versions(r"^>=(\d)\.(\d+)$", project["requires-python"])[0]
    assert versions(r"(\d)\.(\d+)", supported) == classified
    assert versions(r"cp(\d)(\d+)-\*", wheels) == classified
    assert sorted(versions(r"(\d)\.(\d+)", tried)) == classified


def names(found):
    return {canonicalize_name(requirement.name) for requirement in found}


def imported_packages():
    found = set()
    for path in (REPOSITORY / "electrumx").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module)
            elif isinstance(node, ast.Constant) and node.value in ENGINES:
                found.add(node.value)
    tops = {name.partition(".")[0] for name in found}
    return tops - set(sys.stdlib_module_names) - {"electrumx"} - BUILT_BY_HAND


def constraints():
    lines = re.sub(r"#.*", "", CONSTRAINTS.read_text()).split("\n")
    return [Requirement(line) for line in lines if line.strip()]


def test_every_imported_package_is_declared(project):
    declared = names(requirements(project, *SERVER_EXTRAS))
    imported = {canonicalize_name(DISTRIBUTION_OF.get(n, n)) for n in imported_packages()}

    assert imported - declared == set()


def test_every_declared_package_is_imported(project):
    imported = {canonicalize_name(DISTRIBUTION_OF.get(n, n)) for n in imported_packages()}
    declared = names(requirements(project, *SERVER_EXTRAS))

    assert declared - imported == set()


def test_every_dependency_has_a_tested_version_within_its_range(project):
    tested = constraints()
    for requirement in requirements(project, *SERVER_EXTRAS):
        pins = [pin for pin in tested if names([pin]) == names([requirement])]
        assert pins, f"{requirement} is not in {CONSTRAINTS.name}"
        for pin in pins:
            (specifier,) = pin.specifier
            assert specifier.operator == "=="
            assert requirement.specifier.contains(specifier.version), f"{pin} against {requirement}"


def test_the_installed_versions_are_the_pinned_ones():
    pinned = {
        canonicalize_name(pin.name): pin.specifier
        for pin in constraints()
        if pin.marker is None or pin.marker.evaluate()
    }
    installed = {
        name: metadata.version(name)
        for name in pinned
        if any(canonicalize_name(d.name) == name for d in metadata.distributions())
    }

    assert [
        f"{name} {version} is installed, {pinned[name]} is written down"
        for name, version in installed.items()
        if not pinned[name].contains(version)
    ] == []


def test_the_image_has_the_tested_versions_and_a_hash_for_each():
    blocks = re.findall(
        r"^([\w.-]+)(?:\[\w+\])?==(\S+) \\\n((?:    --hash.*\n)+)", LOCKED.read_text(), re.M
    )
    locked = {canonicalize_name(name): version for name, version, _hashes in blocks}
    environment = {"python_version": "3.12"}
    tested = {
        canonicalize_name(pin.name): pin.specifier
        for pin in constraints()
        if pin.marker is None or pin.marker.evaluate(environment)
    }

    assert all("--hash=sha256:" in hashes for _name, _version, hashes in blocks)
    assert tested.keys() - locked.keys() == set()
    assert [name for name in tested if not tested[name].contains(locked[name])] == []


def test_the_extras_of_header_hashes_are_the_packages_that_plain_pip_makes_work(project):
    extras = project["optional-dependencies"]
    named = names(Requirement(text) for extra in ("x11", "groestl") for text in extras[extra])

    assert named == {canonicalize_name(package) for package in WORKING_PACKAGES}


def test_every_package_of_a_header_hash_is_in_the_manual():
    source = (REPOSITORY / "electrumx" / "lib" / "header_hashes" / "__init__.py").read_text()
    page = (REPOSITORY / "docs" / "features.rst").read_text()
    packages = re.findall(r'package="([\w-]+)"', source)

    assert len(packages) > 10
    assert [package for package in packages if f"``{package}``" not in page] == []


def test_header_hashes_are_built_with_the_flags_of_the_operator_s_command():
    """By the tests' script and by the manual: a newer compiler needs more flags than an older one."""
    script = (REPOSITORY / "tests" / "install_hash_packages.sh").read_text()
    manual = (REPOSITORY / "docs" / "features.rst").read_text()

    (flags,) = re.findall(r'^ +CFLAGS="(.*) \$\{CFLAGS:-\} -w"$', script, re.MULTILINE)

    assert flags == BUILD_FLAGS
    assert f'CFLAGS="{BUILD_FLAGS}"' in manual


def test_make_names_the_packages_that_build_the_peer():
    """All of them at once, before the first is installed."""
    entry = re.compile(r"(?:[/\w.+-]+):(?:g\+\+|pkgconf|librocksdb-dev)")
    makefile = set(entry.findall((REPOSITORY / "Makefile").read_text()))
    script = set(entry.findall((REPOSITORY / "tests" / "crash" / "peer_env.sh").read_text()))

    assert script == makefile
    # rocksdb-ng asks pkg-config for the library.
    assert "pkg-config:pkgconf" in script


def test_a_plain_installation_has_one_engine_and_a_wheel_for_it(project):
    """plyvel has wheels for Linux on x86-64 alone, plyvel-next from 3.12 on, rocksdict all of these."""
    engines = {"plyvel", "plyvel-next", "rocksdict"}
    platforms = [("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"), ("win32", "AMD64")]
    for minor in range(10, 15):
        for system, machine in platforms:
            environment = {
                "python_version": f"3.{minor}",
                "sys_platform": system,
                "platform_machine": machine,
            }
            chosen = engines & names(
                requirement
                for requirement in requirements(project)
                if requirement.marker is None or requirement.marker.evaluate(environment)
            )
            wheels = "plyvel" if (system, machine) == ("linux", "x86_64") else "rocksdict"
            assert chosen == {"plyvel-next" if minor >= 12 else wheels}, environment


@pytest.mark.xdist_group("dependencies")
def test_the_parallel_tests_are_grouped(request):
    """With some versions of pytest, pytest-xdist marks no groups: each worker starts each node then."""
    if request.config.getoption("loadgroup", default=False):
        assert request.node.nodeid.endswith("@dependencies")
