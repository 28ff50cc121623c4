"""A flood of log lines becomes the first of them and a count."""

import logging

from electrumx.lib.log_limit import RateLimitedLog


class Lines:
    def __init__(self):
        self.lines = []

    def log(self, level, text):
        self.lines.append((level, text))

    def info(self, text):
        self.log(logging.INFO, text)


def test_lines_beyond_the_limit_are_counted_by_kind():
    now, out = 0.0, Lines()
    log = RateLimitedLog(out, lines=3, window_secs=60, clock=lambda: now)
    for number in range(1_003):
        log.log(out, "flood", f"line {number}")
    log.log(out, "other", "is written", logging.WARNING)
    flood = [(logging.INFO, f"line {number}") for number in range(3)]
    assert out.lines == [*flood, (logging.WARNING, "is written")]
    log.flush()
    now = 60.0
    log.log(out, "flood", "again")
    summary = "flood: … 1,000 more like this in 60 seconds"
    assert out.lines[4:] == [(logging.INFO, summary), (logging.INFO, "again")]


def test_the_count_of_a_flood_that_has_stopped_follows():
    now, out = 0.0, Lines()
    log = RateLimitedLog(out, lines=1, window_secs=60, clock=lambda: now)
    for _ in range(3):
        log.log(out, "flood", "line")
    now = 59.0
    log.flush()
    assert len(out.lines) == 1
    now = 60.0
    log.flush()
    log.flush()
    assert out.lines[1:] == [(logging.INFO, "flood: … 2 more like this in 60 seconds")]
