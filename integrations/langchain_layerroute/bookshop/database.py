"""The bookshop database: written once from the bundled rows, then read by statements in a process of their own.

Whatever a statement says, it reads only, and it is bounded in time, memory, rows, length of its values and length of
its whole result.
"""

import json
import sqlite3
from importlib import resources
from pathlib import Path
from typing import Any

from langchain_layerroute.bookshop.process import StatementProcess
from langchain_layerroute.bookshop.worker import MAX_ROWS
from langchain_layerroute.front_desk.replies import DeskError, Reply, tidy, to_json
from langchain_layerroute.front_desk.storage import DemoFolder
from layerroute.forking import ForkSafeLock

FILE_NAME = "bookshop.sqlite"
MAX_SECONDS = 2.0
MAX_CHARACTERS = 20_000
"""Length of the longest result."""

_TABLES = {
    "books": "id INTEGER PRIMARY KEY, title TEXT, author TEXT, genre TEXT, price REAL, stock INTEGER",
    "customers": "id INTEGER PRIMARY KEY, name TEXT, city TEXT",
    "sales": "id INTEGER PRIMARY KEY, book_id INTEGER REFERENCES books, customer_id INTEGER REFERENCES customers,"
    " quantity INTEGER, sold_on TEXT",
}


class BookshopDatabase:
    """The database in a folder, written at first use if it is new there.

    Args:
        folder: where the file lives; None for a temporary folder that goes when the database is closed.
        max_seconds: longest time that one statement may run.
    """

    def __init__(self, folder: Path | None = None, max_seconds: float = MAX_SECONDS) -> None:
        self._folder = DemoFolder(folder, "bookshop_")
        self._max_seconds = max_seconds
        self._process: StatementProcess | None = None
        self._lock = ForkSafeLock(in_child=self._leave_to_parent)

    def close(self) -> None:
        """Close the file; a temporary one is deleted. A later use starts anew."""
        with self._lock:
            if self._process is not None:
                self._process.close()
                self._process = None
            self._folder.remove()

    def _leave_to_parent(self) -> None:
        self._of_parent, self._process = self._process, None
        self._folder.leave_to_parent()

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
        columns, rows = self._read(sql)
        if not columns:
            raise DeskError("the query returns nothing: write one SELECT statement")
        reply: Reply = {"columns": columns, "rows": [[_present(value) for value in row] for row in rows[:MAX_ROWS]]}
        if len(rows) > MAX_ROWS:
            reply["truncated"] = True
        if len(to_json(reply)) > MAX_CHARACTERS:
            raise DeskError(f"the result is longer than {MAX_CHARACTERS} characters: select fewer columns or rows")
        return reply

    def _read(self, sql: str) -> tuple[list[str], list[list[Any]]]:
        sql.encode("utf-8")  # what cannot be encoded is said to be no Unicode and not to be wrong SQL
        with self._lock:
            if self._process is None or not self._process.usable:
                try:
                    self._process = StatementProcess(self._written(), self._max_seconds)
                except OSError as error:
                    raise DeskError(f"the database failed: {error}") from None
            found = self._process.answer(sql)
        if "error" in found:
            raise DeskError(_in_words(found["error"], self._max_seconds))
        return found["columns"], found["rows"]

    def _written(self) -> Path:
        """Path of the database, once it is there."""
        path = self._folder.path() / FILE_NAME
        _write_if_new(path)
        return path


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
    return tidy(value, places=2) if isinstance(value, float) else value


def _in_words(error: str, max_seconds: float) -> str:
    if "interrupted" in error:
        return f"the query took longer than {max_seconds:g} s"
    if "out of memory" in error:
        return "the query needs too much memory"
    if any(word in error for word in ("not authorized", "prohibited", "authorization denied")):
        return "only reading is allowed: write one SELECT statement"
    return error[:300]
