"""The bookshop database: written once from the bundled rows, then open for reading only.

Two locks against writing, both SQLite's own: the file is opened with `mode=ro`, and an authorizer refuses every action
but reading tables and calling functions. A statement is bounded in time, rows and length of its values.
"""

import json
import sqlite3
import tempfile
import threading
import time
from importlib import resources
from pathlib import Path
from typing import Any

from langchain_layerroute.front_desk.replies import DeskError, Reply, tidy

FILE_NAME = "bookshop.sqlite"
MAX_ROWS = 20
MAX_SECONDS = 2.0
MAX_VALUE_BYTES = 10_000
_INSTRUCTIONS_BETWEEN_LOOKS = 1000

_TABLES = {
    "books": "id INTEGER PRIMARY KEY, title TEXT, author TEXT, genre TEXT, price REAL, stock INTEGER",
    "customers": "id INTEGER PRIMARY KEY, name TEXT, city TEXT",
    "sales": "id INTEGER PRIMARY KEY, book_id INTEGER REFERENCES books, customer_id INTEGER REFERENCES customers,"
    " quantity INTEGER, sold_on TEXT",
}
_READING = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}


class BookshopDatabase:
    """The database in a folder, written at first use if it is new there.

    Args:
        folder: where the file lives; None for a temporary folder that goes when the database is closed.
        max_seconds: longest time that one statement may run.
    """

    def __init__(self, folder: Path | None = None, max_seconds: float = MAX_SECONDS) -> None:
        self._folder = folder
        self._max_seconds = max_seconds
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.Lock()
        self._deadline = 0.0

    def close(self) -> None:
        """Close the file; a temporary one is deleted. A later use starts anew."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            if self._temporary is not None:
                self._temporary.cleanup()
                self._temporary = None

    def list_tables(self) -> Reply:
        """Return the names of the tables."""
        _, rows = self._read("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        return {"tables": [name for (name,) in rows]}

    def describe_table(self, table: str) -> Reply:
        """Return the names of a table's columns."""
        if table not in self.list_tables()["tables"]:
            raise DeskError(f"no table {table}")
        columns, _ = self._read(f'SELECT * FROM "{table}" LIMIT 0')
        return {"table": table, "columns": columns}

    def run_query(self, sql: str) -> Reply:
        """Run one reading statement; "truncated" appears when there were more than `MAX_ROWS` rows."""
        try:
            columns, rows = self._read(sql)
        except sqlite3.Error as error:
            raise DeskError(_in_words(error, self._max_seconds)) from None
        if not columns:
            raise DeskError("the query returns nothing: write one SELECT statement")
        reply: Reply = {"columns": columns, "rows": [[_present(value) for value in row] for row in rows[:MAX_ROWS]]}
        return {**reply, "truncated": True} if len(rows) > MAX_ROWS else reply

    def _read(self, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
        with self._lock:
            if self._connection is None:
                self._connection = self._open()
            self._deadline = time.monotonic() + self._max_seconds
            cursor = self._connection.execute(sql)
            try:
                return [column[0] for column in cursor.description or ()], cursor.fetchmany(MAX_ROWS + 1)
            finally:
                cursor.close()

    def _open(self) -> sqlite3.Connection:
        if self._folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="bookshop_")
        folder = Path(self._temporary.name) if self._temporary is not None else Path(self._folder or ".")
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / FILE_NAME
        _write_if_new(path)
        connection = sqlite3.connect(
            f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
        )
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
        connection.set_progress_handler(lambda: time.monotonic() > self._deadline, _INSTRUCTIONS_BETWEEN_LOOKS)
        connection.set_authorizer(_only_reading)
        return connection


def _only_reading(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    allowed = action in _READING and second != "load_extension"
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


def _write_if_new(path: Path) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        with connection:  # all or nothing: a killed process leaves no half-filled file
            if connection.execute("SELECT 1 FROM sqlite_master").fetchone() is not None:
                return
            text = resources.files("langchain_layerroute.bookshop").joinpath("bookshop.json").read_text("utf-8")
            rows = json.loads(text)
            for table, columns in _TABLES.items():
                connection.execute(f"CREATE TABLE {table} ({columns})")
                marks = ", ".join("?" * len(rows[table][0]))
                connection.executemany(f"INSERT INTO {table} VALUES ({marks})", rows[table])
    finally:
        connection.close()


def _present(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float):
        return tidy(value, places=2)
    return value


def _in_words(error: sqlite3.Error, max_seconds: float) -> str:
    text = str(error)
    if "interrupted" in text:
        return f"the query took longer than {max_seconds:g} s"
    if any(word in text for word in ("not authorized", "prohibited", "authorization denied")):
        return "only reading is allowed: write one SELECT statement"
    return text
