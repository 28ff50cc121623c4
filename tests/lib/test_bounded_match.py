"""Catastrophic patterns are interrupted; ordinary ones are matched as ever."""

import re
import signal
import threading
import time

import pytest

from electrumx.lib.bounded_match import BoundedPattern, MatchTimeoutError


def test_what_is_quick_is_matched():
    pattern = BoundedPattern(re.compile("Electrum/[12]"), 0.02)
    assert pattern.match("Electrum/1.9")
    assert pattern.match("Electrum/3") is None


@pytest.mark.parametrize("text", ["(a+)+$", "(a|a)*$", "(.*a){20}$"])
def test_what_takes_long_is_interrupted_again_and_again(text):
    pattern = BoundedPattern(re.compile(text), 0.02)
    for _ in range(3):
        before = time.process_time()
        with pytest.raises(MatchTimeoutError):
            pattern.match("a" * 99 + "!")
        # Without the bound it would take centuries.
        assert time.process_time() - before < 10
    assert BoundedPattern(re.compile("a"), 0.02).match("a")


def test_in_other_threads_there_are_no_signals():
    found = []
    pattern = BoundedPattern(re.compile("a"), 0.02)
    thread = threading.Thread(target=lambda: found.append(pattern.match("a")))
    thread.start()
    thread.join()
    assert found[0]


class Interrupted:
    """A pattern that is matched at once, while other threads have used up the timer."""

    def match(self, text):
        signal.raise_signal(signal.SIGVTALRM)
        return text


def test_the_processor_time_of_other_threads_does_not_count():
    assert BoundedPattern(Interrupted(), 10.0).match("name") == "name"
    # The timer of the match is not left behind.
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)
    with pytest.raises(MatchTimeoutError):
        BoundedPattern(Interrupted(), 0.0).match("name")
