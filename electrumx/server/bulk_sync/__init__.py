"""The bulk sync of an empty database; ``driver`` tells how it works."""

from electrumx.server.bulk_sync.choice import use_bulk_sync
from electrumx.server.bulk_sync.driver import BulkSync, Progress
from electrumx.server.bulk_sync.source import ProcessorSource
from electrumx.server.bulk_sync.workspace import finish_move

__all__ = ["BulkSync", "ProcessorSource", "Progress", "finish_move", "use_bulk_sync"]
