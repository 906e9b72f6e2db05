"""The process that runs statements, so that one which nothing else can stop can be killed with it.

SQLite looks at an interrupt between the instructions of a program only: not within a function such as printf, and not
while it compiles a statement, which common table expressions can make as long as they like. Beside time, memory is
bounded here, as SQLite's limit on it is one for a whole process.

A script of the standard library alone, so that it starts in an instant: `worker.py DATABASE SECONDS`. Each line of its
input is a statement, each line of its output the answer, {"columns", "rows"} or {"error"}, both in JSON.
"""

import json
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

MAX_ROWS = 20
MAX_VALUE_BYTES = 10_000
_MAX_HEAP_BYTES = 2**26
_INSTRUCTIONS_BETWEEN_LOOKS = 1000
_READING = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}


def open_to_read(path: Path) -> sqlite3.Connection:
    """Open a database under two locks against writing, both SQLite's own: `mode=ro`, and an authorizer."""
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute(f"PRAGMA hard_heap_limit = {_MAX_HEAP_BYTES}").fetchall()
    connection.set_authorizer(_only_reading)
    return connection


def _only_reading(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    allowed = action in _READING and second != "load_extension"
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


def answer(connection: sqlite3.Connection, sql: str, max_seconds: float) -> dict[str, Any]:
    """Run a statement: its columns and first rows, at most one more than `MAX_ROWS`; or what is wrong with it."""
    deadline = time.monotonic() + max_seconds
    connection.set_progress_handler(lambda: time.monotonic() > deadline, _INSTRUCTIONS_BETWEEN_LOOKS)
    try:
        cursor = connection.execute(sql)
        rows = cursor.fetchmany(MAX_ROWS + 1)
        cursor.close()
    except MemoryError:
        return {"error": "out of memory"}
    except Exception as error:  # what is no statement raises other types in each version of Python
        return {"error": str(error)}
    plain = [[value.hex() if isinstance(value, bytes) else value for value in row] for row in rows]
    return {"columns": [column[0] for column in cursor.description or ()], "rows": plain}


def main(path: str, max_seconds: str) -> None:
    """Answer until the input ends."""
    connection = open_to_read(Path(path))
    for line in sys.stdin:
        print(json.dumps(answer(connection, json.loads(line), float(max_seconds))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
