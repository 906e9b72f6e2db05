"""Work in parts that stand alone: what one of them gave is kept, whatever becomes of the others."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from layerroute.errors import LayerRouteError
from layerroute.process import hear_interrupt

INTERRUPTED = "interrupted"
_LONGEST = 300

T = TypeVar("T")


class Parts:
    """Runs parts of a work and remembers what became of those that gave nothing.

    Args:
        around: makes the context that each part runs in.

    Attributes:
        failed: names of these parts, each with the reason on one line.
        interrupted: whether the user ended the work. What was asked for after that is not begun.
    """

    def __init__(self, around: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        self._around = around
        self.failed: dict[str, str] = {}
        self.interrupted = False

    def attempt(self, name: str, work: Callable[[], T]) -> T | None:
        """What `work` returns; None if it fails or is interrupted, and then `failed` says why under `name`."""
        if self.interrupted:
            self.failed[name] = INTERRUPTED
            return None
        try:
            with self._around():
                return work()
        except KeyboardInterrupt:
            hear_interrupt()
            self.interrupted = True
            self.failed[name] = INTERRUPTED
        except Exception as error:  # whatever it is, it ends this part alone
            self.failed[name] = reason(error)
        return None


def reason(error: Exception) -> str:
    """Why something failed, on one line: our own message as it stands, of any other error its type as well."""
    lines = str(error).strip().splitlines()
    if isinstance(error, LayerRouteError) and lines:
        return " ".join(line.strip() for line in lines)
    said = f": {lines[0].strip()[:_LONGEST]}" if lines else ""
    return f"{type(error).__name__}{said}"
