"""A wrong clock for the Python processes that have this folder on their path: `FAULTS_CLOCK_OFF` seconds off.

Python's own `time.time` and `datetime.now` are all that an institution's processes read; a library that changes the C library's
clock would have to be installed. Flower's own programs get a wrong `datetime.now` alone, by which they sign: gRPC compares `time.time` with
the C library's clock when its server starts, and would wait for as long as the one is ahead of the other, which no real clock is.
"""

import datetime as dt
import os
import sys
import time

OFF = float(os.environ.get("FAULTS_CLOCK_OFF", "0"))
_true, _datetime = time.time, dt.datetime


class _Any(type):
    def __instancecheck__(cls, instance):
        return isinstance(instance, _datetime)


class Shifted(_datetime, metaclass=_Any):
    @classmethod
    def now(cls, tz=None):
        return _datetime.now(tz) + dt.timedelta(seconds=OFF)

    @classmethod
    def utcnow(cls):
        return _datetime.utcnow() + dt.timedelta(seconds=OFF)


if OFF:
    dt.datetime = Shifted
    if not any(word.startswith("flower-") for word in sys.orig_argv):
        time.time = lambda: _true() + OFF
        time.time_ns = lambda: int((_true() + OFF) * 1e9)
