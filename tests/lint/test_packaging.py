"""The installed files are those of the tree, and the commands work where there is no tree."""

import os
import shutil
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

import pytest

import electrumx
from tests.conftest import REPOSITORY, require
from tests.lint.test_compiled_sources import COMPILERS
from tests.lint.test_sourcecode import tracked_files

COMMANDS = (
    "electrumx_server",
    "electrumx_rpc",
    "electrumx_compact_history",
    "electrumx_restore",
    "electrumx_verify",
)
INSTALL_SECS = 250
FOR_THE_FORGE = (".github/", ".gitignore", ".dockerignore", ".pre-commit", ".readthedocs")


@pytest.fixture(scope="module")
def distribution(tmp_path_factory):
    """The archive of the source distribution."""
    source = tmp_path_factory.mktemp("distribution") / "source"
    for path in tracked_files():
        target = source / path.relative_to(REPOSITORY)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "sdist"],
        cwd=source,
        capture_output=True,
        text=True,
        timeout=INSTALL_SECS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (archive,) = (source / "dist").iterdir()
    # From here on nothing may be found in the source by chance.
    moved = archive.rename(source.parent / archive.name)
    shutil.rmtree(source)
    return moved


@pytest.fixture(scope="module")
def installed(distribution, tmp_path_factory):
    """The folder of commands of a fresh virtual environment with the distribution installed."""
    folder = tmp_path_factory.mktemp("packaging")
    venv.create(folder / "venv", with_pip=True)
    commands = folder / "venv" / "bin"
    done = subprocess.run(
        [commands / "python", "-m", "pip", "install", "-q", distribution],
        capture_output=True,
        text=True,
        timeout=INSTALL_SECS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return commands


def run(installed, name, *arguments, **env):
    return subprocess.run(
        [installed / name, *arguments],
        cwd=installed.parent,
        env={"PATH": os.defpath, "LANG": "C.UTF-8", **env},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.slow
@pytest.mark.xdist_group("packaging")
def test_the_source_distribution_has_the_files_of_the_repository(distribution):
    """All of them but those for the forge and for git: with it one can build, test and document."""
    with tarfile.open(distribution) as archive:
        files = {m.name.partition("/")[2] for m in archive.getmembers() if m.isfile()}
    tracked = {str(path.relative_to(REPOSITORY)) for path in tracked_files()}
    made = {name for name in files if name.startswith("electrumx_server.egg-info/")}

    left_out = {name for name in tracked - files if not name.startswith(FOR_THE_FORGE)}
    assert left_out == set()
    assert files - tracked - made == {"PKG-INFO", "setup.cfg"}


def test_every_folder_of_code_is_a_package():
    folders = {path.parent for path in (REPOSITORY / "electrumx").rglob("*.py")}

    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


@pytest.mark.slow
@pytest.mark.xdist_group("packaging")
def test_the_installed_version_is_the_package_s_own(installed):
    code = "import importlib.metadata as m; print(m.version('electrumx-server'))"
    done = run(installed, "python", "-c", code)

    assert done.stdout.strip() == electrumx.version_short, done.stderr


@pytest.mark.slow
@pytest.mark.xdist_group("packaging")
def test_every_module_is_installed(installed):
    code = "import electrumx, pathlib; print(pathlib.Path(electrumx.__file__).parent)"
    done = run(installed, "python", "-c", code)
    there = Path(done.stdout.strip())
    expected = {p.relative_to(REPOSITORY) for p in (REPOSITORY / "electrumx").rglob("*.py")}

    assert there.parent.is_relative_to(installed.parent)
    assert {path.relative_to(there.parent) for path in there.rglob("*.py")} == expected


@pytest.mark.slow
@pytest.mark.xdist_group("packaging")
def test_the_installation_works_without_the_repository(installed):
    """As the wheels are checked: Cython modules, database engine, commands."""
    require(COMPILERS, "there is no C compiler")
    check = REPOSITORY / "tests" / "check_installation.py"
    done = run(installed, "python", "-I", check)

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{electrumx.version} in {installed.parent}" in done.stdout


@pytest.mark.slow
@pytest.mark.xdist_group("packaging")
def test_the_installed_rpc_client_explains_itself(installed):
    done = run(installed, "electrumx_rpc", "--help")

    assert done.returncode == 0
    assert "getinfo" in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_the_commands_run_from_the_tree(name):
    """A checkout with the dependencies needs no installation."""
    done = subprocess.run(
        [sys.executable, REPOSITORY / name, "--help"],
        env={"PATH": os.defpath, "ALLOW_ROOT": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert "Error: No module" not in done.stderr
    assert "electrumx" in (done.stdout + done.stderr).lower()


def test_the_licence_is_mit():
    assert (REPOSITORY / "LICENCE").read_text().startswith("MIT License\n")
