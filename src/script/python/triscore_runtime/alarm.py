"""The scoring timeout: an exception raised within run().

One timer a request, armed before run() and disarmed after it, costs about a microsecond and never interrupts
a run that is in time. As in the Azure ML inference server it is SIGALRM and a TimeoutError, so it strikes
only between two steps of Python code: a long call into a library ends first, and a script may catch it. The
host keeps the deadline whatever happens here.
"""

import signal

# signal.getsignal makes an enumeration of what it finds, which takes longer than all the rest here.
from _signal import getsignal
from types import FrameType
from typing import Optional


class ScoringTimeout(TimeoutError):
    """run() took longer than it may."""


class Alarm:
    """Raises ScoringTimeout in the main thread when the time is up."""

    def __init__(self) -> None:
        #: Whether it has struck since it was armed.
        self.struck = False
        self._armed = False

    def arm(self, timeout_ms: int) -> None:
        """From now on the time runs."""
        self.struck = False
        # A bound method is a new object each time: == compares what it is bound to.
        if getsignal(signal.SIGALRM) != self._strike:
            signal.signal(signal.SIGALRM, self._strike)
        self._armed = True
        signal.setitimer(signal.ITIMER_REAL, timeout_ms / 1000)

    def disarm(self) -> None:
        """The time no longer runs. May itself be interrupted by the alarm, just before."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        self._armed = False

    def _strike(self, _signal: int, _frame: Optional[FrameType]) -> None:
        if self._armed:
            self._armed = False
            self.struck = True
            raise ScoringTimeout
