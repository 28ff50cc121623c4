"""The history of each script: its store, the compaction of its rows, its upgrade."""

from electrumx.server.history.store import History

__all__ = ["History"]
