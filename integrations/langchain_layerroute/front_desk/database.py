"""The front desk's SQLite database: orders, notes with full-text search, calendar events."""

import re
import sqlite3
from collections import Counter
from datetime import date as Date
from pathlib import Path
from typing import Any, Literal

from langchain_layerroute.front_desk.data import fold, load
from langchain_layerroute.front_desk.replies import DeskError, Reply, tidy
from langchain_layerroute.front_desk.storage import SqliteFile

FILE_NAME = "front_desk.sqlite"
MAX_FOUND = 5
"""Most notes that one search returns."""

OrderStatus = Literal["processing", "shipped", "delivered", "cancelled"]

_SCHEMA = (
    "CREATE TABLE orders (order_id TEXT PRIMARY KEY, customer TEXT NOT NULL, item TEXT NOT NULL,"
    " quantity INTEGER NOT NULL CHECK (quantity > 0), total REAL NOT NULL,"
    " status TEXT NOT NULL CHECK (status IN ('processing', 'shipped', 'delivered', 'cancelled')))",
    "CREATE VIRTUAL TABLE notes USING fts5(text, tokenize = 'porter unicode61 remove_diacritics 2')",
    "CREATE TABLE events (event_id INTEGER PRIMARY KEY, title TEXT NOT NULL, date TEXT NOT NULL, time TEXT NOT NULL)",
)


class DeskDatabase:
    """The database in a folder, created and filled with the bundled rows at first use, kept afterwards.

    Tools may run in several threads at once: one connection, one lock.

    Args:
        folder: where the file lives; None for a temporary folder that goes when the database is closed.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._file = SqliteFile(FILE_NAME, folder, _open)

    def close(self) -> None:
        """Close the file; a temporary one is deleted. A later use starts anew."""
        self._file.close()

    # Orders.

    def find_order(self, order_id: str) -> Reply:
        """Return all of one order."""
        key = order_id.strip().upper()
        rows = self._rows(
            "SELECT order_id, customer, item, quantity, status, total FROM orders WHERE order_id = ?", key
        )
        if not rows:
            raise DeskError(f"no order {order_id}")
        return {**rows[0], "total": tidy(rows[0]["total"], places=2)}

    def list_orders(self, customer: str) -> Reply:
        """Return the orders of one customer, named in full or by a part that fits no other customer."""
        wanted = fold(customer)
        names = [row["customer"] for row in self._rows("SELECT DISTINCT customer FROM orders ORDER BY customer")]
        matches = [name for name in names if fold(name) == wanted]
        matches = matches or [name for name in names if wanted and wanted in fold(name)]
        if not matches:
            raise DeskError(f"no customer {customer}")
        if len(matches) > 1:
            raise DeskError(f"several customers match {customer}: {', '.join(matches)}")
        orders = self._rows(
            "SELECT order_id, item, status FROM orders WHERE customer = ? ORDER BY order_id", matches[0]
        )
        return {"customer": matches[0], "orders": orders}

    def update_order(self, order_id: str, status: OrderStatus) -> Reply:
        """Set the status of an order."""
        old = self.find_order(order_id)
        self._rows("UPDATE orders SET status = ? WHERE order_id = ?", status, old["order_id"])
        return {"order_id": old["order_id"], "old_status": old["status"], "status": status}

    # Notes.

    def add_note(self, text: str) -> Reply:
        """Keep a note."""
        text = _required(text, "the note")
        return {"note_id": self._insert("INSERT INTO notes (text) VALUES (?)", text), "text": text}

    def search_notes(self, query: str) -> Reply:
        """Return the notes that hold all words of the query, or else any of them, best first."""
        words = Counter(re.findall(r"\w+", query))
        if not words:
            raise DeskError("the query has no words")
        # The rank of a note is a sum over words. FTS5 takes the cube of equal ones for it, so each is looked up once.
        ranks: dict[int, float] = {}
        held: Counter[int] = Counter()
        for word, times in words.items():
            # A quoted word is a plain word to FTS5, whatever operators the query spells.
            for note in self._rows("SELECT rowid, rank FROM notes WHERE notes MATCH ?", f'"{word}"'):
                ranks[note["rowid"]] = ranks.get(note["rowid"], 0.0) + times * note["rank"]
                held[note["rowid"]] += 1
        whole = [note for note in ranks if held[note] == len(words)]
        best = sorted(whole or ranks, key=lambda note: (ranks[note], note))[:MAX_FOUND]
        find = "SELECT rowid AS note_id, text FROM notes WHERE rowid = ?"
        return {"notes": [self._rows(find, note)[0] for note in best]}

    # Calendar.

    def add_event(self, title: str, date: str, time: str) -> Reply:
        """Put an event into the calendar."""
        event = {"title": _required(title, "the title"), "date": _iso_date(date), "time": _clock_time(time)}
        event_id = self._insert("INSERT INTO events (title, date, time) VALUES (?, ?, ?)", *event.values())
        return {"event_id": event_id, **event}

    def list_events(self, date: str) -> Reply:
        """Return the events of a day in the order of their times."""
        day = _iso_date(date)
        events = self._rows("SELECT event_id, title, time FROM events WHERE date = ? ORDER BY time, event_id", day)
        return {"date": day, "events": events}

    def _rows(self, sql: str, *values: Any) -> list[Reply]:
        with self._file.connected() as connection:
            cursor = connection.execute(sql, values)
            rows = cursor.fetchall()
            names = [column[0] for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in rows]

    def _insert(self, sql: str, *values: Any) -> int:
        with self._file.connected() as connection:
            return connection.execute(sql, values).lastrowid or 0


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    _fill_if_new(connection)
    return connection


def _fill_if_new(connection: sqlite3.Connection) -> None:
    """Create and fill the tables in one transaction, so that a killed process leaves no half-filled file."""
    connection.execute("BEGIN IMMEDIATE")
    with connection:
        if connection.execute("SELECT 1 FROM sqlite_master").fetchone() is not None:
            return
        for statement in _SCHEMA:
            connection.execute(statement)
        seed = load("front_desk.json")
        connection.executemany(
            "INSERT INTO orders (order_id, customer, item, quantity, status, total) VALUES (?, ?, ?, ?, ?, ?)",
            seed["orders"],
        )
        connection.executemany("INSERT INTO notes (text) VALUES (?)", [(text,) for text in seed["notes"]])
        connection.executemany("INSERT INTO events (title, date, time) VALUES (?, ?, ?)", seed["events"])


def _required(text: str, what: str) -> str:
    text = text.strip()
    if not text:
        raise DeskError(f"{what} is empty")
    return text


def _iso_date(text: str) -> str:
    try:
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text.strip(), re.ASCII):
            return Date.fromisoformat(text.strip()).isoformat()
    except ValueError:
        pass
    raise DeskError(f"{text} is not a date such as 2026-12-03")


def _clock_time(text: str) -> str:
    match = re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)", text.strip(), re.ASCII)
    if match is None:
        raise DeskError(f"{text} is not a time such as 14:00")
    return f"{int(match[1]):02}:{match[2]}"
