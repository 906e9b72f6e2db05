"""Some inputs of one part, in a process of their own."""

import faulthandler
import random
import signal
import sys
import traceback
from collections import Counter
from types import FrameType
from typing import NamedTuple

from tests.fuzz.parts import PARTS

_HANGS_AFTER = 60
"""Seconds for one input, of which each takes milliseconds."""


class Chunk(NamedTuple):
    """Inputs of one part, by number."""

    part: str
    start: int
    stop: int
    seed: int


class Failure(NamedTuple):
    """An input that a check did not survive."""

    part: str
    number: int
    reason: str
    shown: str


class Hang(BaseException):
    """An input took too long."""


def run_chunk(chunk: Chunk) -> tuple[Counter[str], list[Failure]]:
    """Outcomes of the inputs, and the first few that failed."""
    part = PARTS[chunk.part]
    outcomes: Counter[str] = Counter()
    failures: list[Failure] = []
    faulthandler.dump_traceback_later(_HANGS_AFTER * 10, exit=True)  # inside a library that hears no signal
    signal.signal(signal.SIGALRM, _give_up)
    for number in range(chunk.start, chunk.stop):
        given: object = "(it was not made)"
        signal.setitimer(signal.ITIMER_REAL, _HANGS_AFTER)
        try:
            given = part.make(random.Random(f"{chunk.seed} {chunk.part} {number}"))
            outcomes[part.check(given)] += 1
        except (Exception, Hang) as error:
            outcomes["FAILED"] += 1
            if len(failures) < 3:
                reason = "".join(traceback.format_exception(error, limit=-5))
                failures.append(Failure(chunk.part, number, reason, _shown(given)))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    faulthandler.cancel_dump_traceback_later()
    return outcomes, failures


def _give_up(signum: int, frame: FrameType | None) -> None:
    raise Hang(f"no end after {_HANGS_AFTER} s")


def _shown(given: object) -> str:
    digits, limit = sys.get_int_max_str_digits(), sys.set_int_max_str_digits
    limit(0)
    try:
        return ascii(given)
    finally:
        limit(digits)
