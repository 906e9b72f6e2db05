"""Statements run in a process of their own, which is killed with one that takes too long, and started anew."""

import json
import os
import sqlite3
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import IO, Any, cast

_WORKER = Path(__file__).with_name("worker.py")
_GRACE_SECONDS = 0.5  # the process stops most statements by itself, and lives on
_START_SECONDS = 60.0


class StatementProcess:
    """Runs statements on a database, one after the other; not for several threads at once.

    Args:
        path: an existing database.
        max_seconds: longest time that one statement may run.

    Raises:
        OSError: no process can be started.
        sqlite3.OperationalError: the database cannot be opened in it.
    """

    def __init__(self, path: Path, max_seconds: float) -> None:
        # Isolated: nothing from the environment or the current folder is run in it.
        command = [sys.executable, "-I", str(_WORKER), str(path), str(max_seconds)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
        self._statements, self._answers = cast(IO[str], self._process.stdin), cast(IO[str], self._process.stdout)
        self._max_seconds = max_seconds
        self._owner = os.getpid()
        self._end = weakref.finalize(self, _end, self._process, self._owner)
        if "error" in self._ask("SELECT 1", _START_SECONDS):
            raise sqlite3.OperationalError(f"{path} cannot be opened")

    @property
    def usable(self) -> bool:
        """Whether it lives, and belongs to this process and not to one that this was forked from."""
        return self._owner == os.getpid() and self._process.poll() is None

    def answer(self, sql: str) -> dict[str, Any]:
        """Run a statement: {"columns", "rows"} or {"error"}, which is "interrupted" if it ran too long."""
        return self._ask(sql, self._max_seconds + _GRACE_SECONDS)

    def close(self) -> None:
        """End the process."""
        self._end()

    def _ask(self, sql: str, seconds: float) -> dict[str, Any]:
        timer = threading.Timer(seconds, self._process.kill)
        timer.start()
        try:
            print(json.dumps(sql), file=self._statements, flush=True)
            line = self._answers.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        if not line:
            self._end()
            return {"error": "interrupted"}
        found: dict[str, Any] = json.loads(line)
        return found


def _end(process: "subprocess.Popen[str]", owner: int) -> None:
    if os.getpid() == owner:
        process.kill()
        process.communicate()  # closes the pipes and waits
