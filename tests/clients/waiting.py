"""Waiting for a condition with a deadline, in place of sleeping for a while and hoping."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_never = threading.Event()


class Late(AssertionError):
    """What was waited for did not come in time."""


def wait_until(condition: Callable[[], T], within: float, what: str) -> T:
    """Asks `condition` again and again until it gives something true, and returns that.

    Raises `Late` after `within` seconds, naming `what` was waited for.
    """
    deadline = time.monotonic() + within
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() >= deadline:
            raise Late(f"not within {within:g} s: {what}")
        _never.wait(0.01)


def settled(value: Callable[[], int], for_seconds: float, within: float, what: str) -> int:
    """Waits until `value` has stayed the same for a while, and returns it."""
    last, since = value(), time.monotonic()

    def same() -> bool:
        nonlocal last, since
        now = value()
        if now != last:
            last, since = now, time.monotonic()
        return time.monotonic() - since >= for_seconds

    wait_until(same, within, what)
    return last
