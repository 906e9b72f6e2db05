# ruff: noqa: E501 (phrase templates are one line each)
"""Conversations of the analyst: questions over a database, answered by a true run of the query.

The bookshop's schema comes with its own rows or with random ones; other small databases keep the model from knowing only
one. The first question of a conversation looks at the tables and the columns it needs, later ones query at once.
"""

import functools
import json
import random
import sqlite3
from dataclasses import dataclass
from typing import Any

from langchain_layerroute.bookshop import ANALYST_PROMPT, analyst_schemas
from langchain_layerroute.front_desk.replies import tidy
from layerroute_training.embedded.conversations import values
from layerroute_training.embedded.conversations.synthetic import call_message, result_message
from layerroute_training.embedded.conversations.text import capitalise, expand, listing, pick
from layerroute_training.rows import Message, Tool

MAX_ROWS = 20
_GENRES = (
    "fiction",
    "mystery",
    "cooking",
    "history",
    "science",
    "travel",
    "poetry",
    "children",
    "biography",
    "fantasy",
    "art",
    "romance",
)


@dataclass(frozen=True)
class Question:
    """A question, the tables it needs, its SQL."""

    text: str
    tables: tuple[str, ...]
    sql: str


def bookshop(rng: random.Random) -> sqlite3.Connection:
    """A bookshop with random rows."""
    connection = sqlite3.connect(":memory:")
    connection.execute(
        "CREATE TABLE books (id INTEGER PRIMARY KEY, title TEXT, author TEXT, genre TEXT, price REAL, stock INTEGER)"
    )
    connection.execute("CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT, city TEXT)")
    connection.execute(
        "CREATE TABLE sales (id INTEGER PRIMARY KEY, book_id INTEGER, customer_id INTEGER, quantity INTEGER, sold_on TEXT)"
    )
    genres = rng.sample(_GENRES, rng.randint(3, 7))
    authors = [values.person(rng) for _ in range(rng.randint(5, 12))]
    cities = [values.city(rng) for _ in range(rng.randint(4, 8))]
    books = [
        (
            _title(rng),
            pick(rng, authors),
            pick(rng, genres),
            round(rng.uniform(5, 40), 1),
            pick(rng, (0, rng.randint(0, 40), rng.randint(1, 20))),
        )
        for _ in range(rng.randint(12, 30))
    ]
    customers = [(values.person(rng), pick(rng, cities)) for _ in range(rng.randint(8, 20))]
    year = pick(rng, (2025, 2026))
    sales = [
        (
            rng.randint(1, len(books)),
            rng.randint(1, len(customers)),
            rng.randint(1, 4),
            f"{year}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}",
        )
        for _ in range(rng.randint(25, 90))
    ]
    connection.executemany("INSERT INTO books (title, author, genre, price, stock) VALUES (?, ?, ?, ?, ?)", books)
    connection.executemany("INSERT INTO customers (name, city) VALUES (?, ?)", customers)
    connection.executemany("INSERT INTO sales (book_id, customer_id, quantity, sold_on) VALUES (?, ?, ?, ?)", sales)
    return connection


def _title(rng: random.Random) -> str:
    return expand(
        rng,
        "The {a} {n}|{n} of {m}|A {a} {n}|{m}|{a} {n}s|The {n} and the {n2}|Letters from {m}",
        a=pick(
            rng,
            [
                "Silent",
                "Broken",
                "Golden",
                "Hidden",
                "Long",
                "Last",
                "Blue",
                "Winter",
                "Open",
                "Small",
                "Lost",
                "Salt",
                "Quiet",
                "Second",
                "Paper",
            ],
        ),
        n=pick(
            rng,
            [
                "Harbour",
                "Garden",
                "River",
                "Night",
                "Door",
                "Winter",
                "Ledger",
                "Map",
                "Kitchen",
                "Orchard",
                "Bridge",
                "Letter",
                "Island",
                "Road",
                "House",
            ],
        ),
        n2=pick(rng, ["Fox", "Sea", "Moon", "Stranger", "Clock", "Mountain", "Child", "King"]),
        m=values.made_up(rng),
    )


def _run(connection: sqlite3.Connection, sql: str) -> dict[str, Any]:
    cursor = connection.execute(sql)
    rows = cursor.fetchall()
    shown = [[tidy(value, places=2) if isinstance(value, float) else value for value in row] for row in rows[:MAX_ROWS]]
    reply: dict[str, Any] = {"columns": [column[0] for column in cursor.description], "rows": shown}
    return {**reply, "truncated": True} if len(rows) > MAX_ROWS else reply


# question template, tables, SQL; slots are drawn from the database at hand.
_QUESTIONS: tuple[tuple[str, str, str], ...] = (
    ("how many {t} [are there|do we have|are in the database]?|count the {t}|number of {t}?", "{t}", "SELECT COUNT(*) FROM {t}"),
    ("how many books are [there|] [in each genre|per genre|of each genre]?|count the books [by|per] genre|number of books per genre?", "books", "SELECT genre, COUNT(*) FROM books GROUP BY genre"),
    ("how many [{g} books|books of the genre {g}|books in {g}] [are there|do we have|]?|count the {g} books", "books", "SELECT COUNT(*) FROM books WHERE genre = '{g}'"),
    ("which {g} books [are there|do we have]?|list [the|all] {g} books|show all books in the genre {g}", "books", "SELECT title FROM books WHERE genre = '{g}'"),
    ("which genres [are there|do we have|exist]?|list the genres", "books", "SELECT DISTINCT genre FROM books"),
    ("how many books are [out of stock|sold out]?|count the books that are out of stock", "books", "SELECT COUNT(*) FROM books WHERE stock = 0"),
    ("which books are [out of stock|sold out]?|list the books that are out of stock", "books", "SELECT title FROM books WHERE stock = 0"),
    ("which books have [fewer|less] than {n} [copies|pieces|] [left|in stock]?|list books with a stock below {n}", "books", "SELECT title, stock FROM books WHERE stock < {n}"),
    ("how many books [are in stock|do we have in stock] [in total|altogether|]?|what is the total stock?", "books", "SELECT SUM(stock) FROM books"),
    ("how many [{g} books|copies of {g} books] are in stock?|what is the stock of {g} books?", "books", "SELECT SUM(stock) FROM books WHERE genre = '{g}'"),
    ("what is the [average|mean] price [of a book|of the books|]?|how much does a book cost on average?", "books", "SELECT AVG(price) FROM books"),
    ("what is the [average|mean] price of {g} books?|how much do {g} books cost on average?", "books", "SELECT AVG(price) FROM books WHERE genre = '{g}'"),
    ("what is the average price [per|by|in each|of each] genre?|average price by genre?", "books", "SELECT genre, AVG(price) FROM books GROUP BY genre"),
    ("[what|which] is the [most expensive|dearest] book?|which book costs the most?", "books", "SELECT title, price FROM books ORDER BY price DESC LIMIT 1"),
    ("[what|which] is the cheapest book?|which book costs the least?", "books", "SELECT title, price FROM books ORDER BY price LIMIT 1"),
    ("what are the {k} most expensive books?|list the {k} dearest books|top {k} books by price?", "books", "SELECT title, price FROM books ORDER BY price DESC LIMIT {k}"),
    ("what are the {k} cheapest books?|list the {k} cheapest books", "books", "SELECT title, price FROM books ORDER BY price LIMIT {k}"),
    ("which books cost [more than|over] {p}?|list books above {p}", "books", "SELECT title, price FROM books WHERE price > {p}"),
    ("which books cost less than {p}?|list books [under|below] {p}", "books", "SELECT title, price FROM books WHERE price < {p}"),
    ("how many books cost more than {p}?", "books", "SELECT COUNT(*) FROM books WHERE price > {p}"),
    ("[who wrote|who is the author of] {b}?", "books", "SELECT author FROM books WHERE title = '{b}'"),
    ("[what is the price of|how much is] {b}?|[what|how much] does {b} cost?|price of {b}?", "books", "SELECT price FROM books WHERE title = '{b}'"),
    ("how many copies of {b} [are in stock|are left|do we have]?|is {b} in stock?", "books", "SELECT stock FROM books WHERE title = '{b}'"),
    ("which books [are by {a}|did {a} write|has {a} written]?|list the books [of|by] {a}|what did {a} write?", "books", "SELECT title FROM books WHERE author = '{a}'"),
    ("how many books [did {a} write|are by {a}]?", "books", "SELECT COUNT(*) FROM books WHERE author = '{a}'"),
    ("which author has [written|] the most books?|who wrote the most books?", "books", "SELECT author, COUNT(*) FROM books GROUP BY author ORDER BY COUNT(*) DESC LIMIT 1"),
    ("which genre has the most books?", "books", "SELECT genre, COUNT(*) FROM books GROUP BY genre ORDER BY COUNT(*) DESC LIMIT 1"),
    ("how many customers [live in|are from|come from|are in] {c}?|count the customers from {c}", "customers", "SELECT COUNT(*) FROM customers WHERE city = '{c}'"),
    ("which customers [live in|are from|come from] {c}?|list the customers [in|from] {c}|who lives in {c}?", "customers", "SELECT name FROM customers WHERE city = '{c}'"),
    ("how many customers [are there|] [in each city|per city]?|count customers by city", "customers", "SELECT city, COUNT(*) FROM customers GROUP BY city"),
    ("[where does|in which city does] {u} live?|which city is {u} from?", "customers", "SELECT city FROM customers WHERE name = '{u}'"),
    ("how many books [have been|were] sold [in total|altogether|]?|what is the total [quantity|number of books] sold?", "sales", "SELECT SUM(quantity) FROM sales"),
    ("how many books were sold in {y}?", "sales", "SELECT SUM(quantity) FROM sales WHERE sold_on LIKE '{y}%'"),
    ("how many books were sold in {month} {y}?|how many copies did we sell in {month} {y}?", "sales", "SELECT SUM(quantity) FROM sales WHERE sold_on LIKE '{y}-{mm}%'"),
    ("how many sales [were there|did we have] [in {month} {y}|in the month of {month} {y}]?", "sales", "SELECT COUNT(*) FROM sales WHERE sold_on LIKE '{y}-{mm}%'"),
    ("how many copies of {b} [were|have been] sold?|how often was {b} sold?", "books sales", "SELECT SUM(s.quantity) FROM sales s JOIN books b ON b.id = s.book_id WHERE b.title = '{b}'"),
    ("[what is the best-selling book|which book sold best|which book was sold most]?|what's our bestseller?", "books sales", "SELECT b.title, SUM(s.quantity) FROM sales s JOIN books b ON b.id = s.book_id GROUP BY b.id ORDER BY SUM(s.quantity) DESC LIMIT 1"),
    ("what are the {k} best-selling books?|top {k} [bestsellers|books by sales|books by copies sold]?", "books sales", "SELECT b.title, SUM(s.quantity) FROM sales s JOIN books b ON b.id = s.book_id GROUP BY b.id ORDER BY SUM(s.quantity) DESC LIMIT {k}"),
    ("what [is|was] the [total revenue|revenue|turnover]?|how much money did we make?|how much did all sales bring in?", "books sales", "SELECT SUM(s.quantity * b.price) FROM sales s JOIN books b ON b.id = s.book_id"),
    ("what is the revenue [per|by|of each] genre?|revenue by genre?|how much did each genre bring in?", "books sales", "SELECT b.genre, SUM(s.quantity * b.price) FROM sales s JOIN books b ON b.id = s.book_id GROUP BY b.genre"),
    ("how many {g} books [were|have been] sold?|how many copies of {g} books did we sell?", "books sales", "SELECT SUM(s.quantity) FROM sales s JOIN books b ON b.id = s.book_id WHERE b.genre = '{g}'"),
    ("how many books were sold [per|by|in each] genre?|copies sold by genre?", "books sales", "SELECT b.genre, SUM(s.quantity) FROM sales s JOIN books b ON b.id = s.book_id GROUP BY b.genre"),
    ("which genre sells best?|what is the best-selling genre?", "books sales", "SELECT b.genre, SUM(s.quantity) FROM sales s JOIN books b ON b.id = s.book_id GROUP BY b.genre ORDER BY SUM(s.quantity) DESC LIMIT 1"),
    ("how many books did {u} buy?|how many copies has {u} bought?", "customers sales", "SELECT SUM(s.quantity) FROM sales s JOIN customers c ON c.id = s.customer_id WHERE c.name = '{u}'"),
    ("which customer bought the most books?|who bought the most [books|]?|who is our best customer?", "customers sales", "SELECT c.name, SUM(s.quantity) FROM sales s JOIN customers c ON c.id = s.customer_id GROUP BY c.id ORDER BY SUM(s.quantity) DESC LIMIT 1"),
    ("who are the {k} best customers [by books bought|]?|top {k} customers by books bought?", "customers sales", "SELECT c.name, SUM(s.quantity) FROM sales s JOIN customers c ON c.id = s.customer_id GROUP BY c.id ORDER BY SUM(s.quantity) DESC LIMIT {k}"),
    ("how many books were sold to customers in {c}?|how many books went to {c}?", "customers sales", "SELECT SUM(s.quantity) FROM sales s JOIN customers c ON c.id = s.customer_id WHERE c.city = '{c}'"),
    ("how many books were sold [per|in each|by] city?", "customers sales", "SELECT c.city, SUM(s.quantity) FROM sales s JOIN customers c ON c.id = s.customer_id GROUP BY c.city"),
    ("which books did {u} buy?|what did {u} buy?|list the books [bought by|of] {u}", "books customers sales", "SELECT b.title FROM sales s JOIN books b ON b.id = s.book_id JOIN customers c ON c.id = s.customer_id WHERE c.name = '{u}'"),
    ("who bought {b}?|which customers bought {b}?", "books customers sales", "SELECT c.name FROM sales s JOIN books b ON b.id = s.book_id JOIN customers c ON c.id = s.customer_id WHERE b.title = '{b}'"),
    ("how much [did|has] {u} [spend|spent]?|what is the revenue from {u}?", "books customers sales", "SELECT SUM(s.quantity * b.price) FROM sales s JOIN books b ON b.id = s.book_id JOIN customers c ON c.id = s.customer_id WHERE c.name = '{u}'"),
)  # fmt: skip


def _bookshop_question(rng: random.Random, connection: sqlite3.Connection) -> Question:
    template, tables, sql = pick(rng, _QUESTIONS)

    def one(query: str) -> str:
        return str(pick(rng, connection.execute(query).fetchall())[0])

    month = rng.randint(1, 12)
    slots = {
        "t": pick(rng, ("books", "customers", "sales")),
        "g": one("SELECT genre FROM books"),
        "b": one("SELECT title FROM books"),
        "a": one("SELECT author FROM books"),
        "c": one("SELECT city FROM customers"),
        "u": one("SELECT name FROM customers"),
        "y": one("SELECT substr(sold_on, 1, 4) FROM sales"),
        "n": str(rng.randint(2, 12)),
        "k": str(rng.randint(2, 6)),
        "p": str(rng.randint(8, 35)),
        "month": values.MONTHS[month - 1],
        "mm": f"{month:02}",
    }
    quoted = {key: value.replace("'", "''") for key, value in slots.items()}
    text = expand(rng, template, **slots)
    return Question(capitalise(text), tuple(tables.format(**slots).split()), sql.format(**quoted))


def _other_database(rng: random.Random) -> tuple[sqlite3.Connection, str, list[str], list[str]]:
    """A one-table database with random columns: connection, table, text columns, number columns."""
    table = pick(
        rng,
        (
            "employees",
            "products",
            "students",
            "cars",
            "orders",
            "movies",
            "flights",
            "plants",
            "players",
            "songs",
            "rooms",
            "cities",
            values.made_up(rng).lower(),
        ),
    )
    text_columns = [
        "name",
        *rng.sample(("city", "color", "department", "brand", "status", "country", "team", "category"), 2),
    ]
    number_columns = rng.sample(("age", "salary", "price", "year", "score", "weight", "rating", "distance", "seats"), 2)
    connection = sqlite3.connect(":memory:")
    columns = [*(f"{name} TEXT" for name in text_columns), *(f"{name} INTEGER" for name in number_columns)]
    connection.execute(f'CREATE TABLE "{table}" (id INTEGER PRIMARY KEY, {", ".join(columns)})')
    groups = [[values.made_up(rng) for _ in range(rng.randint(2, 4))] for _ in range(2)]
    marks = ", ".join("?" * (len(text_columns) + 2))
    rows = [
        (values.first_name(rng), *(pick(rng, group) for group in groups), rng.randint(1, 99), rng.randint(1, 5000))
        for _ in range(rng.randint(5, 30))
    ]
    connection.executemany(
        f'INSERT INTO "{table}" ({", ".join([*text_columns, *number_columns])}) VALUES ({marks})', rows
    )
    return connection, table, text_columns, number_columns


def _other_question(
    rng: random.Random, connection: sqlite3.Connection, table: str, texts: list[str], numbers: list[str]
) -> Question:
    column, number = pick(rng, texts[1:]), pick(rng, numbers)
    value = str(pick(rng, connection.execute(f'SELECT {column} FROM "{table}"').fetchall())[0])
    bound, top = rng.randint(2, 2000), rng.randint(2, 5)
    template, sql = pick(
        rng,
        (
            ("how many {t} are there?|count the {t}", "SELECT COUNT(*) FROM {t}"),
            ("how many {t} have the {c} {v}?|count the {t} with {c} {v}", "SELECT COUNT(*) FROM {t} WHERE {c} = '{v}'"),
            ("which {t} have the {c} {v}?|list the {t} with {c} {v}", "SELECT name FROM {t} WHERE {c} = '{v}'"),
            ("what is the average {n} [of the {t}|]?", "SELECT AVG({n}) FROM {t}"),
            ("what is the total {n} of all {t}?", "SELECT SUM({n}) FROM {t}"),
            ("what is the [highest|largest|maximum] {n}?", "SELECT MAX({n}) FROM {t}"),
            ("what is the [lowest|smallest|minimum] {n}?", "SELECT MIN({n}) FROM {t}"),
            ("how many {t} are there per {c}?|count the {t} by {c}", "SELECT {c}, COUNT(*) FROM {t} GROUP BY {c}"),
            ("what is the average {n} per {c}?", "SELECT {c}, AVG({n}) FROM {t} GROUP BY {c}"),
            ("which {t} have a {n} above {b}?", "SELECT name, {n} FROM {t} WHERE {n} > {b}"),
            ("how many {t} have a {n} below {b}?", "SELECT COUNT(*) FROM {t} WHERE {n} < {b}"),
            (
                "top {k} {t} by {n}?|list the {k} {t} with the highest {n}",
                "SELECT name, {n} FROM {t} ORDER BY {n} DESC LIMIT {k}",
            ),
            (
                "who has the highest {n}?|which of the {t} has the highest {n}?",
                "SELECT name, {n} FROM {t} ORDER BY {n} DESC LIMIT 1",
            ),
        ),
    )
    slots = {"t": table, "c": column, "v": value, "n": number, "b": str(bound), "k": str(top)}
    return Question(capitalise(expand(rng, template, **slots)), (table,), sql.format(**slots))


def _answer(rng: random.Random, reply: dict[str, Any]) -> str:
    rows = reply["rows"]
    if not rows or rows == [[None]]:
        return pick(rng, ("There are none.", "The database has nothing on that."))
    if len(rows) == 1 and len(rows[0]) == 1:
        return expand(rng, "It is {v}.|{v}.|The answer is {v}.", v=rows[0][0])
    if len(rows[0]) == 1:
        return f"{listing([str(row[0]) for row in rows])}."
    if len(rows) == 1:
        return f"{rows[0][0]} ({', '.join(str(value) for value in rows[0][1:])})."
    return f"{listing([f'{row[0]}: {row[1]}' for row in rows])}."


def _columns(connection: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in connection.execute(f'PRAGMA table_info("{table}")')]


def analyst_conversation(rng: random.Random) -> tuple[list[Tool], list[Message]]:
    """One to four questions over one database."""
    if rng.random() < 0.8:
        connection = bookshop(rng)
        ask = functools.partial(_bookshop_question, rng, connection)
    else:
        connection, table, texts, numbers = _other_database(rng)
        ask = functools.partial(_other_question, rng, connection, table, texts, numbers)
    tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
    messages: list[Message] = [{"role": "system", "content": ANALYST_PROMPT}] if rng.random() < 0.9 else []
    described: set[str] = set()
    for turn in range(rng.choices((1, 2, 3, 4), (35, 30, 20, 15))[0]):
        question = ask()
        messages.append({"role": "user", "content": question.text})
        if turn == 0:
            messages += _step("list_tables", {}, {"tables": tables})
        for table in question.tables:
            if table not in described:
                described.add(table)
                messages += _step(
                    "describe_table", {"table": table}, {"table": table, "columns": _columns(connection, table)}
                )
        reply = _run(connection, question.sql)
        messages += _step("run_query", {"sql": question.sql}, reply)
        messages.append({"role": "assistant", "content": _answer(rng, reply)})
    connection.close()
    return list(_tools()), messages


@functools.cache
def _tools() -> tuple[Tool, ...]:
    return tuple(analyst_schemas())


def _step(name: str, arguments: dict[str, Any], result: dict[str, Any]) -> list[Message]:
    return [call_message([(name, arguments)]), result_message(name, json.dumps(result, ensure_ascii=False))]
