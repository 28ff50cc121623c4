"""Selects sessions by the words of an administrator: session ids, group names, special words."""

from dataclasses import dataclass, field

from electrumx.server.session.engine.params import bad_request
from electrumx.server.session.engine.session_groups import SessionGroup
from electrumx.server.session.shared.session_table import SessionTable, TableSession, by_id

# Longer digits are no session id (and costly to convert).
MAX_ID_DIGITS = 18


@dataclass(slots=True)
class SessionReferences:
    """Parsed references; ``unknown`` are those that mean nothing, as written."""

    sessions: set[TableSession] = field(default_factory=set)
    groups: list[SessionGroup] = field(default_factory=list)
    specials: set[str] = field(default_factory=set)
    unknown: list[str] = field(default_factory=list)

    def all_sessions(self) -> list[TableSession]:
        """Return the sessions named, or in a named group, each once, by id."""
        sessions = set(self.sessions)
        for group in self.groups:
            sessions |= group.sessions
        return by_id(sessions)


def parse_references(
    table: SessionTable, items: object, special_words: set[str]
) -> SessionReferences:
    """Return the sessions and groups that a list of texts names; RPCError if it is no such list."""
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise bad_request("expected a list of session IDs")
    ids = {session.session_id: session for session in table.sessions}
    refs = SessionReferences()
    for item in items:
        word = item.lower()
        if item.isdecimal():
            session = ids.get(int(item)) if len(item) <= MAX_ID_DIGITS else None
            if session is None:
                refs.unknown.append(item)
            else:
                refs.sessions.add(session)
        elif word in special_words:
            refs.specials.add(word)
        elif word in table.groups.by_name:
            group = table.groups.by_name[word]
            if group not in refs.groups:
                refs.groups.append(group)
        else:
            refs.unknown.append(item)
    return refs
