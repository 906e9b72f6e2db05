"""The analyst's database: answers questions, and cannot be written to, blocked or flooded."""

import json
import os
import sqlite3

import pytest

from langchain_layerroute.bookshop import BookshopTools, analyst_schemas
from langchain_layerroute.bookshop.database import FILE_NAME, BookshopDatabase
from langchain_layerroute.bookshop.worker import MAX_ROWS, open_to_read
from langchain_layerroute.front_desk.replies import DeskError

COLUMNS = {
    "books": ["id", "title", "author", "genre", "price", "stock"],
    "customers": ["id", "name", "city"],
    "sales": ["id", "book_id", "customer_id", "quantity", "sold_on"],
}
ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("shop")


@pytest.fixture(scope="module")
def shop(place):
    shop = BookshopDatabase(place, max_seconds=60)
    yield shop
    shop.close()


@pytest.fixture
def hasty(tmp_path):
    shop = BookshopDatabase(tmp_path, max_seconds=0.2)
    yield shop
    shop.close()


def test_schemas():
    names = [schema["function"]["name"] for schema in analyst_schemas()]
    assert names == ["list_tables", "describe_table", "run_query"]


def test_tables_and_columns(shop):
    assert shop.list_tables() == {"tables": list(COLUMNS)}
    for table, columns in COLUMNS.items():
        assert shop.describe_table(table) == {"table": table, "columns": columns}


@pytest.mark.parametrize("table", ["nothing", 'books" --', "books; DROP TABLE books", "", "sqlite_master"])
def test_unknown_tables(shop, table):
    with pytest.raises(DeskError, match="no table"):
        shop.describe_table(table)


def test_every_sale_is_of_a_known_book_to_a_known_customer(shop):
    joined = "sales JOIN books ON books.id = book_id JOIN customers ON customers.id = customer_id"
    assert (
        shop.run_query(f"SELECT COUNT(*) FROM {joined}")["rows"] == shop.run_query("SELECT COUNT(*) FROM sales")["rows"]
    )


def test_numbers_are_rounded_for_people(shop):
    reply = shop.run_query("SELECT 10.0 / 3 AS third, 2.0 AS two, 0.012345678 AS small, NULL AS none, x'00ff' AS bytes")
    assert reply == {"columns": ["third", "two", "small", "none", "bytes"], "rows": [[3.33, 2, 0.01235, None, "00ff"]]}


def test_at_most_twenty_rows_and_it_says_so(shop):
    reply = shop.run_query("SELECT id FROM sales ORDER BY id")
    assert reply["rows"] == [[number] for number in range(1, MAX_ROWS + 1)]
    assert reply["truncated"] is True
    assert "truncated" not in shop.run_query(f"SELECT id FROM sales LIMIT {MAX_ROWS}")


WRITES = [
    "DELETE FROM books",
    "UPDATE books SET price = 0",
    "INSERT INTO customers VALUES (99, 'x', 'y')",
    "DROP TABLE sales",
    "CREATE TABLE t (x)",
    "CREATE TEMP TABLE t (x)",
    "CREATE VIEW v AS SELECT 1",
    "ALTER TABLE books ADD COLUMN x",
    "WITH x AS (SELECT 1) DELETE FROM books",
    "PRAGMA writable_schema = 1",
    "PRAGMA query_only = 0",
    "SELECT * FROM pragma_table_info('books')",
    "ATTACH DATABASE 'other.sqlite' AS other",
    "VACUUM",
    "VACUUM INTO 'copy.sqlite'",
    "BEGIN",
    "SELECT load_extension('x')",
]


@pytest.mark.parametrize("sql", WRITES)
def test_writing_is_refused_and_changes_nothing(shop, place, monkeypatch, sql):
    monkeypatch.chdir(place)
    before = shop.list_tables() and (place / FILE_NAME).read_bytes()
    with pytest.raises(DeskError, match="only reading is allowed"):
        shop.run_query(sql)
    assert (place / FILE_NAME).read_bytes() == before
    assert [path.name for path in place.iterdir()] == [FILE_NAME]


def test_the_file_itself_is_open_for_reading_only(shop, place):
    shop.list_tables()
    connection = open_to_read(place / FILE_NAME)
    connection.set_authorizer(None)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        connection.execute("DELETE FROM books")


def test_the_authorizer_alone_refuses_writing(shop, place):
    shop.list_tables()
    with pytest.raises(sqlite3.DatabaseError, match="not authorized"):
        open_to_read(place / FILE_NAME).execute("DELETE FROM books")


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT 1; SELECT 2", "one statement"),
        ("SELECT 1; DROP TABLE books", "one statement"),
        ("", "write one SELECT"),
        ("-- nothing", "write one SELECT"),
        ("REINDEX", "write one SELECT"),
        ("SELEC 1", "syntax error"),
        ("SELECT nope FROM books", "no such column: nope"),
        ("SELECT * FROM shelves", "no such table: shelves"),
        ("SELECT ?", "bindings"),
        ("SELECT randomblob(1000000000)", "too big"),
        ("SELECT 9e999", "too large"),
    ],
)
def test_bad_queries_are_refused_in_words(shop, sql, message):
    with pytest.raises(DeskError, match=message):
        shop.run_query(sql)
    assert shop.run_query("SELECT 1")["rows"] == [[1]]


def doubling(levels, of):
    """Table expressions each of which names the one before it twice; SQLite writes them out as it compiles."""
    steps = [f"t{level + 1} AS ({of.format(f't{level}')})" for level in range(levels)]
    return f"WITH {', '.join(['t0 AS (SELECT 1 AS x)', *steps])} SELECT count(*) FROM t{levels}"


@pytest.mark.parametrize(
    "sql",
    [
        ENDLESS,
        "SELECT printf('%.*c', 2000000000, 'x')",
        "SELECT count(*) FROM sales a, sales b, sales c, sales d",
        f"SELECT count(*) FROM {', '.join(f'sales s{number}' for number in range(60))}",
        ENDLESS.replace("count(*) FROM n", "x FROM n ORDER BY x DESC"),
        ENDLESS.replace("count(*)", "sum(length(hex(zeroblob(4000))))"),
        doubling(40, "SELECT 1 AS x FROM {0}, {0} AS other"),
        doubling(40, "SELECT x FROM {0} UNION ALL SELECT x FROM {0}"),
    ],
    ids=range(8),
)
def test_no_statement_outruns_its_time_or_memory(hasty, sql):
    with pytest.raises(DeskError, match=r"took longer than 0\.2 s|too much memory|too big"):
        hasty.run_query(sql)


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT hex(zeroblob(4000)) FROM sales", "the result is longer than 20000 characters"),
        (f"SELECT {', '.join(['1'] * 1900)} FROM sales", "the result is longer than 20000 characters"),
        ("SELECT group_concat(a.title) FROM books a, books b", "too big"),
        ("SELECT zeroblob(2000000000)", "too big"),
        ("SELECT replace(hex(zeroblob(1000)), '0', hex(zeroblob(1000)))", "too big"),
        (f"SELECT nothing_of_this_name_{'x' * 9_000}", "no such column: nothing"),
        (f"SELECT {'(' * 5_000}1{')' * 5_000}", "too|overflow"),
        ("SELECT '\x00'", "null character"),
    ],
    ids=range(8),
)
def test_no_result_floods_the_model(shop, sql, message):
    with pytest.raises(DeskError, match=message) as caught:
        shop.run_query(sql)
    assert len(str(caught.value)) <= 300


def test_patterns_that_match_in_many_ways_end(shop):
    long = "(SELECT hex(zeroblob(4900)) AS s)"
    for pattern in ("'%0%0%0%0%0%0%0%0%0%0%0%0%0%0%0%0%1'", "'%' || replace(substr(s, 1, 2000), '0', '_0') || '1'"):
        assert shop.run_query(f"SELECT s LIKE {pattern} FROM {long}")["rows"] == [[0]]


def test_a_process_that_dies_is_started_anew(shop):
    shop.list_tables()
    shop._process._process.kill()
    shop._process._process.wait()
    assert shop.list_tables() == {"tables": list(COLUMNS)}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_has_a_process_of_its_own(shop):
    shop.list_tables()
    child = os.fork()
    if not child:
        same = shop.list_tables() == {"tables": list(COLUMNS)}
        shop.close()
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert shop._process.usable


def test_a_folder_that_cannot_be_written_is_an_error_in_words(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DeskError, match="the database failed"):
        BookshopDatabase(tmp_path / "file").list_tables()


def test_tools_answer_in_json():
    with BookshopTools() as shop:
        tools = {tool.name: tool for tool in shop.tools()}
        assert json.loads(tools["list_tables"].invoke({})) == {"tables": list(COLUMNS)}
        query = "SELECT title FROM books WHERE stock = 0 ORDER BY title"
        assert json.loads(tools["run_query"].invoke({"sql": query})) == {
            "columns": ["title"],
            "rows": [["A Field of Small Fires"], ["Street Food at Home"]],
        }
        assert "error" in json.loads(tools["run_query"].invoke({"sql": "SELECT '\ud800'"}))
        assert json.loads(tools["describe_table"].invoke({"table": "x"})) == {"error": "no table x"}
