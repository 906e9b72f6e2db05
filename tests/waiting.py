"""Waiting for what another thread will do, without a verdict on how fast it is: pytest's own limit ends it."""

import time
from collections.abc import Callable


def until(condition: Callable[[], object]) -> bool:
    """Come back once the condition holds."""
    while not condition():
        time.sleep(0.001)
    return True
