"""A process that is one command: streams that are closed, full or have lost their reader, and signals that end it.

Light on purpose: it is at work before anything heavy is imported.
"""

import io
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from errno import EPIPE
from types import FrameType
from typing import TextIO

EXIT_CODES = (
    "exit codes: 0 done, 1 not finished or not all of the output written, 2 wrong usage or bad input, 130 interrupted "
    "(129 by SIGHUP, 143 by SIGTERM)"
)

_SECONDS_UNTIL_AGAIN = 0.1


class Interrupted(KeyboardInterrupt):
    """A signal asked the process to end."""


def run_alone(command: Callable[[], int]) -> int:
    """Run a command as all that this process does; returns its exit code, for `sys.exit`.

    Either all that it writes to stdout is written, or the code is not 0; of a reader of stdout that has gone, no more
    is said. A stderr that cannot be written to does not stop the command. The first signal that asks the process to
    end is raised in the command as `Interrupted`, so that it can clean up; the second one ends the process at once.
    """
    is_closed = sys.stdout is None
    _occupy_closed_descriptors()
    output, errors = _Output(1, True, sys.stdout), _Output(2, False, sys.stderr)
    sys.stdout, sys.stderr = output, errors
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # what is no text is told of, line by line
    signals = _Signals()
    code = 1
    try:
        with signals:
            if is_closed:
                _say("stdout is closed: send it to a file, or to /dev/null")
            else:
                code = _code_of(command)
    except KeyboardInterrupt:
        pass
    except Exception as error:
        if signals.received is None and error is not output.failure:
            _show_bug(error)
    with suppress(OSError):  # the stream keeps it
        sys.stdout.flush()
    sys.stderr.flush()
    if signals.received is not None:
        print("interrupted", file=sys.stderr)
        return 128 + signals.received
    if output.failure is not None and output.failure.errno != EPIPE:
        _say(f"cannot write to stdout ({output.failure.strerror}): send it elsewhere")
    return code or int(output.failure is not None or errors.failure is not None)


def _code_of(command: Callable[[], int]) -> int:
    try:
        return command()
    except SystemExit as end:  # of the parser, which has said why
        return end.code if isinstance(end.code, int) else int(end.code is not None)


def _say(text: str) -> None:
    print(f"layerroute: {text}", file=sys.stderr)


def _show_bug(error: Exception) -> None:
    import traceback

    from layerroute.console import plain

    sys.stderr.write(plain("".join(traceback.format_exception(error))))


class _Output(io.TextIOWrapper):
    """stdout or stderr; its first failure is kept, and what is written after that is dropped."""

    def __init__(self, descriptor: int, is_needed: bool, old: TextIO | None) -> None:
        super().__init__(
            open(descriptor, "wb", closefd=False),  # noqa: SIM115
            encoding=old.encoding if old is not None else "utf-8",
            errors="backslashreplace",  # for what it has no letters for
            line_buffering=not is_needed or os.isatty(descriptor),
            write_through=bool(getattr(old, "write_through", False)),
        )
        self.failure: OSError | None = None
        self._is_needed = is_needed
        if hasattr(os, "set_blocking"):
            os.set_blocking(descriptor, True)  # who shares it may have had other wishes

    def write(self, text: str) -> int:
        """Write; raises the first failure if the stream is needed."""
        try:
            return super().write(text)
        except OSError as error:
            self._fail(error)
            return len(text)

    def flush(self) -> None:
        """Flush; raises the first failure if the stream is needed."""
        try:
            super().flush()
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        self.failure = error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())  # where what is still buffered goes
        os.close(nowhere)
        if self._is_needed:
            raise error


def _occupy_closed_descriptors() -> None:
    """Open /dev/null as every standard stream that is closed, lest a file that is opened later be taken for it."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


class _Signals:
    """Raises the first signal that asks the process to end; from then on, and at the end, the system's way holds.

    What is raised between any two lines of code can get lost there: in a finaliser, in a callback of an import, in a
    library's `except`. So it is raised again as long as nobody handles it.

    Attributes:
        received: the first signal.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._is_heard = False
        self._ours: list[int] = []

    def __enter__(self) -> None:
        # What torchrun started it ends itself, also where processes wait for each other inside torch.
        names = ("SIGINT",) if "TORCHELASTIC_RUN_ID" in os.environ else ("SIGINT", "SIGTERM", "SIGHUP")
        for name in names:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                self._ours.append(number)
                signal.signal(number, self._end)
        if hasattr(signal, "SIGALRM"):
            signal.signal(signal.SIGALRM, self._raise_again)
        sys.unraisablehook = self._unraisable
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._leave_to_system)
        _running.append(self)

    def __exit__(self, *_: object) -> None:
        self.hear()
        self._leave_to_system()
        sys.unraisablehook = sys.__unraisablehook__
        _running.remove(self)

    def hear(self) -> None:
        """Raise no signal again."""
        self._is_heard = True
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _end(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._leave_to_system()
        self._raise()

    def _raise_again(self, number: int, frame: FrameType | None) -> None:
        if not self._is_heard:
            self._raise()

    def _raise(self) -> None:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, _SECONDS_UNTIL_AGAIN)
        if not _is_handled():
            raise Interrupted

    def _leave_to_system(self) -> None:
        for number in self._ours:
            signal.signal(number, signal.SIG_DFL)

    def _unraisable(self, unraisable: "sys.UnraisableHookArgs") -> None:
        if not issubclass(unraisable.exc_type, Interrupted):
            sys.__unraisablehook__(unraisable)


_running: list[_Signals] = []


def hear_interrupt() -> None:
    """Say that the signal which ends this process was heard, and that the command ends in its own way and time."""
    for signals in _running:
        signals.hear()


def _is_handled() -> bool:
    """Whether code runs that was entered because of the signal: `finally`, `except` or the end of `with`."""
    error = sys.exc_info()[1]
    while error is not None and not isinstance(error, Interrupted):
        error = error.__context__
    return error is not None
