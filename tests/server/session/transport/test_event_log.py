"""Refusals and evictions: all counted, logged once in a while."""

import logging

from electrumx.server.session.transport.event_log import LOG_SECS, EventLog


def test_events_between_two_lines_are_logged_together(caplog):
    now = [100.0]
    log = EventLog(logging.getLogger("events"), lambda: now[0])
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            log.note("refused: banned")
        log.note("refused: the server is full")
        assert caplog.messages == ["connections 1 refused: banned"]

        now[0] += LOG_SECS
        log.note("refused: banned")

    assert caplog.messages[1:] == ["connections 3 refused: banned, 1 refused: the server is full"]
    assert log.totals == {"refused: banned": 4, "refused: the server is full": 1}
