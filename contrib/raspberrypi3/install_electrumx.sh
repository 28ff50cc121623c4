#!/bin/sh
# Install the server on a Raspberry Pi, from a checkout: run this as the user that is to run the
# server, on Raspberry Pi OS 12 (bookworm) or later. From the environment:
#
#   ELECTRUMX_VENV   where to install to (default ~/electrumx-venv)
#   EXTRAS           optional parts, separated by commas (default uvloop)
set -eu

top=$(CDPATH= cd -- "$(dirname -- "$0")/../.." && pwd)
venv=${ELECTRUMX_VENV:-$HOME/electrumx-venv}
extras=${EXTRAS-uvloop}

# The compiler and the headers are for packages that have no wheel for this processor.
sudo apt-get update
sudo apt-get install -y --no-install-recommends \
    python3-venv python3-dev build-essential libssl-dev libleveldb-dev libsnappy-dev

if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
    echo "Python 3.10 or later is needed: please upgrade to Raspberry Pi OS 12" >&2
    exit 1
fi

python3 -m venv "$venv"
"$venv/bin/python" -m pip install --upgrade pip
"$venv/bin/python" -m pip install "$top${extras:+[$extras]}"

echo "Installed. Now change the settings in run_electrumx.sh, and start it."
