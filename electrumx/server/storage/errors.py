"""Storage errors: the errors of a disk or an engine as one line with a remedy.

Owns the texts.  The text of an engine's error is all that distinguishes it from others.
"""

from electrumx.server.storage.schema import DBError
from electrumx.server.storage.shortage import reason_of

#: in the engines' errors for a store that is open elsewhere
_HELD = ("temporarily unavailable", "already held", "lock hold by")
_FULL = ("no space left", "disk quota", "file too large")
_MORE_FILES = (
    "raise the limit of open files (LimitNOFILE, ulimit -n) or lower MAX_SESSIONS, and start the "
    "server again, which goes on from the last complete write"
)


def open_error(name: str, error: Exception) -> DBError:
    """Return a one-line error in place of one that an engine raised when it opened a folder."""
    reason = reason_of(error)
    lower = reason.lower()
    if any(text in lower for text in _HELD):
        return DBError(
            f"cannot open the database in {name}: another process holds it ({reason}); stop that "
            "process, or use another DB_DIRECTORY"
        )
    if "corruption" in lower or "missing files" in lower:
        return DBError(
            f"cannot open the database in {name}: it is damaged ({reason}); restore a backup of "
            "the whole database directory, or empty it to synchronise again"
        )
    if "too many open files" in lower:
        return DBError(f"cannot open the database in {name}: {reason}; {_MORE_FILES}")
    return DBError(
        f"cannot open the database in {name}: {reason}; check DB_DIRECTORY, its permissions and "
        "the free space on its disk"
    )


def read_error(error: BaseException, engine: object) -> str | None:
    """Return an error of a disk or an engine as one line; None if the error is another one."""
    module = getattr(engine, "module", None)
    engine_error = getattr(module, "Error", None)
    of_engine = isinstance(engine_error, type) and isinstance(error, engine_error)
    # rocksdict raises bare Exceptions
    if not (of_engine or isinstance(error, OSError) or type(error) is Exception):
        return None
    return reason_of(error)


def explained(error: BaseException, folder: str, engine: object) -> BaseException:
    """Return a one-line DBError in place of an error of a disk or an engine.

    ``folder`` is the database directory, ``engine`` the class of its stores.  Return other errors
    unchanged.
    """
    reason = read_error(error, engine)
    if reason is None:
        return error
    lower = reason.lower()
    if "corruption" in lower or "checksum" in lower:
        remedy = (
            "restore a backup of the whole database directory, or empty it to synchronise again, "
            "and check the disk"
        )
    elif any(text in lower for text in _FULL):
        remedy = (
            "the disk is full: make room and start the server again, which goes on from the last "
            "complete write"
        )
    elif "too many open files" in lower:
        remedy = _MORE_FILES
    else:
        remedy = (
            "check the permissions and the disk, and start the server again, which goes on from "
            "the last complete write"
        )
    return DBError(f"cannot read or write the database in {folder}: {reason}; {remedy}")
