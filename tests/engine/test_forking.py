"""A child that is forked after the model was loaded: it answers, whatever its parent's threads held at that moment."""

import os
import subprocess
import sys

import pytest
from qwen2 import random_model, save

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")

PROGRAM = """
import os, sys, threading
from layerroute.engine.config import EngineConfig
from layerroute.engine.engine import shared_engine
from layerroute.engine.request import GenerationRequest, OutputConstraint, ToolSpec
from layerroute.errors import GenerationCancelledError

tool = ToolSpec("f", '{"type": "object", "properties": {"n": {"type": "boolean"}}, "required": ["n"]}')
short = GenerationRequest(tuple(range(20, 60)), max_tokens=20)
call = GenerationRequest(tuple(range(30, 60)), max_tokens=60, constraint=OutputConstraint((tool,), "required"))
config = EngineConfig(model=sys.argv[1], max_batch_size=int(sys.argv[2]))


def answers():
    return [shared_engine(config).submit(request).result().token_ids for request in (short, call)]


def child(check):
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        check()
    except BaseException as error:
        print(repr(error), flush=True)
        os._exit(1)
    os._exit(0)
"""
INHERITS = """
expected = answers()
engine = shared_engine(config)
runs, waits = (engine.submit(GenerationRequest(tuple(range(20, 60)))) for _ in range(2))
next(iter(runs.__iter__()))


def check():
    for generation in (runs, waits):
        try:
            generation.result()
        except GenerationCancelledError as error:
            assert "forked" in str(error), error
        else:
            raise AssertionError("an answer that the parent makes came out of the child")
    assert answers() == expected
    engine.close()
    assert answers() == expected
    assert child(lambda: answers() == expected or os._exit(1)) == 0, "a child of a child"


assert child(check) == 0
waits.cancel()
assert answers() == expected
"""
LOCKED = """
expected = answers()
engine = shared_engine(config)
held, done = threading.Event(), threading.Event()


def hold():
    from layerroute.engine import engine as module
    with engine._lock, engine._loading, module._engines_lock, engine.load()._grammars._lock:
        held.set()
        done.wait()


threading.Thread(target=hold, daemon=True).start()
held.wait()
assert child(lambda: answers() == expected or os._exit(1)) == 0
done.set()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    path = save(random_model(seed=3, vocab_size=len(tokenizer)), tmp_path_factory.mktemp("backbone"))
    tokenizer.save_pretrained(path)
    return path


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("program", [INHERITS, LOCKED], ids=["while-it-answers", "while-locks-are-held"])
def test_a_forked_child_starts_afresh(folder, program, rows):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + program, str(folder), str(rows)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


FILES = """
import os, sys
from pathlib import Path
from langchain_layerroute.bookshop.database import BookshopDatabase
from langchain_layerroute.front_desk.database import DeskDatabase

desk, shop = DeskDatabase(), BookshopDatabase()
order, tables = desk.find_order("A-1042"), shop.list_tables()
with desk._file.connected() as connection:
    place = Path(connection.execute("PRAGMA database_list").fetchone()[2])
    pid = os.fork()
    if not pid:
        assert (desk.find_order("A-1042"), shop.list_tables()) == (order, tables)
        sys.exit()  # in order, with all that runs at the end of a process
assert os.waitpid(pid, 0)[1] == 0
assert place.exists() and (desk.find_order("A-1042"), shop.list_tables()) == (order, tables)
desk.close()
assert not place.exists()
"""


def test_a_forked_child_opens_the_files_of_the_demos_anew():
    """Even from within a tool, whose lock the child inherits; and the parent's temporary folder stays the parent's."""
    done = subprocess.run([sys.executable, "-c", FILES], capture_output=True, text=True, timeout=240, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
