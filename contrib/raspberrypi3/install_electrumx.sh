#!/bin/sh
# Install the server on a Raspberry Pi, from a checkout: run this as the user that is to run the
# server, on a 64-bit Raspberry Pi OS 12 (bookworm) or later. From the environment:
#
#   ELECTRUMX_VENV   where to install to (default ~/electrumx-venv)
#   EXTRAS           optional parts, separated by commas (default uvloop)
set -eu

top=$(CDPATH= cd -- "$(dirname -- "$0")/../.." && pwd)
venv=${ELECTRUMX_VENV:-$HOME/electrumx-venv}
extras=${EXTRAS-uvloop}

# The compiler and the headers are for the server's Cython modules.
sudo apt-get update
sudo apt-get install -y --no-install-recommends \
    python3-venv python3-dev build-essential

if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 10) or sys.maxsize < 2**32)'; then
    echo "A 64-bit Python 3.10 or later is needed: please install the 64-bit Raspberry Pi OS" >&2
    exit 1
fi

python3 -m venv "$venv"
"$venv/bin/python" -m pip install --upgrade pip
"$venv/bin/python" -m pip install "$top${extras:+[$extras]}"

echo "Installed. Now change the settings in run_electrumx.sh, and start it."
