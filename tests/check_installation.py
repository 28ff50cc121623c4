"""Check an installed server without its checkout: python -I tests/check_installation.py.

The Cython modules can be imported, hash correctly, and need no library that the system might lack;
the commands start.  Ends with an error otherwise.  Standard library and the server only.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import electrumx
from electrumx.server.engine_choice import default_engine
from electrumx.server.runtime.compiled_modules import missing_modules
from electrumx.server.storage import db_class


def check_modules():
    """Every Cython module can be imported, and the one with Merkle trees hashes correctly."""
    missing = missing_modules()
    assert not missing, f"these Cython modules are missing: {missing}"
    from electrumx.server.db._fastquery import merkle_levels

    pair = bytes(range(64))
    expected = hashlib.sha256(hashlib.sha256(pair).digest()).digest()
    assert merkle_levels(pair) == expected, "the Cython modules hash incorrectly"


def check_engine(folder):
    """The default engine writes, and is found again by its files."""
    engine = default_engine(folder)
    store = db_class(engine)(os.path.join(folder, "utxo"), False)
    store.put(b"key", b"value")
    assert store.get(b"key") == b"value"
    store.close()
    assert default_engine(folder) == engine
    return engine


def check_commands(folder):
    """The commands start; the server asks for its settings in one line."""
    commands = Path(sys.executable).parent
    environment = {"PATH": os.defpath, "ALLOW_ROOT": "1", "LANG": "C.UTF-8"}
    for command in ("electrumx_rpc", "electrumx_verify", "electrumx_compact_history"):
        subprocess.run(
            [commands / command, "--help"], check=True, stdout=subprocess.DEVNULL, env=environment
        )
    done = subprocess.run(
        [commands / "electrumx_server"], capture_output=True, text=True, cwd=folder, env=environment
    )
    output = done.stdout + done.stderr
    assert done.returncode == 1, output
    assert "DB_DIRECTORY" in output, output
    assert "Traceback" not in output, output


def main():
    with tempfile.TemporaryDirectory() as folder:
        check_modules()
        engine = check_engine(folder)
        check_commands(folder)
    print(f"{electrumx.version} in {Path(electrumx.__file__).parent}: {engine}, all modules")


if __name__ == "__main__":
    main()
