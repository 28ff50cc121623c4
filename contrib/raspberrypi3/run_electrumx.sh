#!/bin/sh
# Run the server on a Raspberry Pi. Change the settings below; those of the environment
# count first. It runs in the foreground; Ctrl-C stops it, which takes a while.
set -eu

: "${COIN:=Bitcoin}"
: "${NET:=mainnet}"
: "${DAEMON_URL:=http://user:password@127.0.0.1:8332/}"

# An SSD or a hard disk on USB: a memory card is too slow, and wears out.
: "${DB_DIRECTORY:=$HOME/electrumx-db}"

: "${SERVICES:=tcp://:50001,rpc://}"

# A Pi 3 has 1 GB of memory in all.
: "${CACHE_MB:=400}"
: "${MAX_SESSIONS:=500}"

export COIN NET DAEMON_URL DB_DIRECTORY SERVICES CACHE_MB MAX_SESSIONS
unset HOST  # some shells set it, and the server refuses it as obsolete
mkdir -p "$DB_DIRECTORY"
exec "${ELECTRUMX_VENV:-$HOME/electrumx-venv}/bin/electrumx_server"
