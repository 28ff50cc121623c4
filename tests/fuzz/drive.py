"""Runs one target under Atheris: ``python -m tests.fuzz.drive TARGET [libFuzzer's arguments]``."""

import sys

import atheris

INSTRUMENTED = [
    "electrumx.lib.tx",
    "electrumx.lib.coins",
    "electrumx.lib.script",
    "electrumx.lib.hash",
    "electrumx.server.session",
]

with atheris.instrument_imports(include=INSTRUMENTED):
    from tests.fuzz import targets


def main() -> None:
    """Fuzz until stopped; libFuzzer ends the process."""
    name = sys.argv.pop(1)
    atheris.Setup([*sys.argv, f"-max_len={targets.MAX_LEN}"], targets.TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
