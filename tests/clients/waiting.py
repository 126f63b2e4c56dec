"""Waits for a condition with a deadline, instead of sleeping for a fixed time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_never = threading.Event()


class Late(AssertionError):
    """The condition did not become true in time."""


def wait_until(condition: Callable[[], T], within: float, what: str) -> T:
    """Calls `condition` until it returns a true value, and returns that value.

    Raises `Late` after `within` seconds; `what` describes the condition.
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
