"""Who asks in a soak: threads and tasks that invoke, stream, give up, time out or are cancelled, at random."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce
from operator import add
from typing import Any

from langchain_core.exceptions import ModelTimeoutError

from langchain_layerroute import LayerRouteChatModel
from layerroute.errors import EngineClosedError
from tests.soak.cases import Case, spoken

Known = dict[int, dict[int, tuple[Any, ...]]]
"""Answers of a quiet run, by the index of the model and of the case."""


class Tally:
    """Counts of what happened, and the first answer or error that should not have been."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.failure: str | None = None
        self.last_seen: dict[str, float] = {}

    def done(self, asker: str, what: str) -> None:
        """Count an event; `asker` is alive."""
        self.counts[what] += 1
        self.last_seen[asker] = time.monotonic()

    def compare(self, asker: str, got: tuple[Any, ...], expected: tuple[Any, ...]) -> None:
        """Count a whole answer, right or wrong."""
        if got != expected:
            self.failure = self.failure or f"{asker} got {got!r} and not {expected!r}"
        self.done(asker, "whole answers, right" if got == expected else "whole answers, WRONG")

    @contextmanager
    def judging(self, asker: str, *, may_time_out: bool) -> Iterator[None]:
        """Count what a call raises; what it must not raise is a failure."""
        try:
            yield
        except EngineClosedError:
            self.done(asker, "ended by close()")
        except ModelTimeoutError:
            self.done(asker, "timed out")
            if not may_time_out:
                self.failure = self.failure or f"{asker} timed out without a timeout"
        except asyncio.CancelledError:
            self.done(asker, "tasks cancelled")
        except Exception as error:
            self.failure = self.failure or f"{asker}: {error!r}"
            self.done(asker, "raised something else")


class Soak:
    """The models, the cases with their known answers, and when to stop."""

    def __init__(
        self, models: list[LayerRouteChatModel], cases: list[Case], known: Known, going_on: Callable[[str], bool]
    ) -> None:
        self.models, self.cases, self.known = models, cases, known
        self.going_on = going_on
        self.tally = Tally()

    def _draw(self, dice: random.Random) -> tuple[Case, Any, tuple[Any, ...], float | None]:
        which, index = dice.randrange(len(self.models)), dice.randrange(len(self.cases))
        case, timeout = self.cases[index], dice.choice((None, None, None, 0.01, 0.2))
        bound = case.bind(self.models[which])
        return case, bound if timeout is None else bound.bind(timeout=timeout), self.known[which][index], timeout

    def thread(self, name: str, seed: int) -> None:
        """Ask from a thread until it is over."""
        dice = random.Random(seed)
        while self.going_on(name) and not self.tally.failure:
            case, bound, expected, timeout = self._draw(dice)
            with self.tally.judging(name, may_time_out=timeout is not None):
                if dice.random() < 0.4:
                    self.tally.compare(name, spoken(bound.invoke(list(case.messages))), expected)
                    continue
                leave_after = dice.choice((None, None, 1, 3))
                chunks = []
                for chunk in bound.stream(list(case.messages)):
                    chunks.append(chunk)
                    if len(chunks) == leave_after:
                        break
                if chunks[-1].chunk_position == "last":
                    self.tally.compare(name, spoken(reduce(add, chunks)), expected)
                else:
                    self.tally.done(name, "streams left early")

    async def task(self, name: str, seed: int) -> None:
        """Ask from a task until it is over; some calls are cancelled."""
        dice = random.Random(seed)
        while self.going_on(name) and not self.tally.failure:
            case, bound, expected, timeout = self._draw(dice)
            with self.tally.judging(name, may_time_out=timeout is not None):
                call = asyncio.create_task(self._answer(bound, case, streamed=dice.random() < 0.5))
                if dice.random() < 0.3:
                    await asyncio.sleep(dice.random())
                    call.cancel()
                self.tally.compare(name, await call, expected)

    @staticmethod
    async def _answer(bound: Any, case: Case, *, streamed: bool) -> tuple[Any, ...]:
        messages = list(case.messages)
        if not streamed:
            return spoken(await bound.ainvoke(messages))
        return spoken(reduce(add, [chunk async for chunk in bound.astream(messages)]))
