"""Completion scripts, run by the shells that are there."""

import re
import shutil
import subprocess

import pytest

from electrumx.cli.completion import PARSERS, SHELLS, main, script
from tests.conftest import require


def completed(line):
    """The words that bash offers at the end of a line."""
    words = line.split(" ")
    program = "\n".join(script("bash"))
    program += (
        f"\nCOMP_WORDS=({' '.join(repr(word) for word in words)}); COMP_CWORD={len(words) - 1}"
    )
    program += f'\n_{words[0]}; printf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.fixture
def bash():
    require(shutil.which("bash"), "bash is not installed")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("electrumx_server --c", ["--config", "--check"]),
        ("electrumx_server --config x --ch", ["--check"]),
        ("electrumx_verify --d", ["--deep"]),
        ("electrumx_rpc re", ["ready", "reload", "reorg"]),
        ("electrumx_rpc --json get", ["getinfo"]),
        ("electrumx_rpc query --l", ["--limit"]),
        ("electrumx_rpc verify --", ["--help", "--deep"]),
        ("electrumx_rpc --port re", []),
    ],
)
def test_bash_completes_options_and_commands(bash, line, words):
    assert set(words) == set(completed(line))


def test_a_path_is_completed_by_files(bash, tmp_path):
    (tmp_path / "some.conf").write_text("")
    assert completed(f"electrumx_server --config {tmp_path}/so") == [f"{tmp_path}/some.conf"]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_parses_and_names_all_programs(shell, capsys):
    assert main([shell]) == 0
    text = capsys.readouterr().out

    for make_parser in PARSERS:
        assert re.search(rf"^complete .*{make_parser().prog}\b", text, re.MULTILINE)
    if shutil.which(shell):
        subprocess.run([shell, "-n", "/dev/stdin"], input=text, text=True, check=True)
