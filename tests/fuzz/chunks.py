"""Some inputs of one part, one after the other."""

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


Outcome = tuple[Counter[str], list[Failure]]
"""What became of the inputs, and the first few that failed."""


def run_watched(chunk: Chunk) -> Outcome:
    """Run a chunk in a process that has nothing else to do, and give up an input that does not end."""
    signal.signal(signal.SIGALRM, _give_up)
    faulthandler.dump_traceback_later(10 * _HANGS_AFTER, exit=True)  # inside a library that hears no signal
    try:
        return run(chunk, alarm=_HANGS_AFTER)
    finally:
        faulthandler.cancel_dump_traceback_later()


def run(chunk: Chunk, alarm: int = 0) -> Outcome:
    """Run a chunk here."""
    part = PARTS[chunk.part]
    outcomes: Counter[str] = Counter()
    failures: list[Failure] = []
    for number in range(chunk.start, chunk.stop):
        given: object = "(it was not made)"
        if alarm:
            signal.alarm(alarm)
        try:
            given = part.make(random.Random(f"{chunk.seed} {chunk.part} {number}"))
            outcomes[part.check(given)] += 1
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic of a library in Rust is no Exception
            outcomes["FAILED"] += 1
            if len(failures) < 3:
                reason = "".join(traceback.format_exception(error, limit=-5))
                failures.append(Failure(chunk.part, number, reason, _shown(given)))
    if alarm:
        signal.alarm(0)
    return outcomes, failures


def _give_up(signum: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"no end after {_HANGS_AFTER} s")


def _shown(given: object) -> str:
    digits = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        return ascii(given)
    finally:
        sys.set_int_max_str_digits(digits)
