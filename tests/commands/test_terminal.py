"""On a terminal: what a ledger or a command line holds is shown, and steers nothing."""

import json
import os
import re
import threading

import pytest
from processes import start
from step_reports import make_step

from layerroute import ledger

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs pseudo-terminals")

HOSTILE = "a\x1b]0;title\x07\x1b[2J\x9b2J\u202eb\u2066\u2028\r"
STYLES = re.compile(r"\x1b\[[0-9;]*m")
STEERING = set(map(chr, [*range(9), *range(11, 13), *range(14, 32), *range(127, 160)])) | set("\u202e\u2066\u2028")


def on_terminal(*arguments, streams=("stdout", "stderr")):
    """Run a command whose streams are a terminal; its exit code, and what the terminal got."""
    master, slave = os.openpty()
    shown = bytearray()

    def read():
        while True:
            try:
                piece = os.read(master, 4096)
            except OSError:  # Linux's way to say that the other end is closed
                return
            if not piece:
                return
            shown.extend(piece)

    process = start(*arguments, env={"TERM": "xterm-256color"}, **dict.fromkeys(streams, slave))
    os.close(slave)
    reader = threading.Thread(target=read)
    reader.start()
    code = process.wait(timeout=60)
    reader.join()
    os.close(master)
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    return code, shown.decode().replace("\r\n", "\n")


@pytest.fixture
def hostile(tmp_path):
    fields = ("model", "device", "dtype", "backend", "router", "reason", "program", "nominal_program")
    step = make_step(**{field: f"{field}{HOSTILE}" for field in fields})
    ledger.append(tmp_path / "l", step, run=f"run{HOSTILE}", task=f"task{HOSTILE}")
    return tmp_path / "l"


def test_no_field_of_a_ledger_steers_the_terminal(hostile):
    code, shown = on_terminal("report", str(hostile))
    assert code == 0
    assert "\x1b[1m" in shown  # it is one
    shown = STYLES.sub("", shown)
    assert not set(shown) & STEERING
    for field in ("run", "task", "model", "device", "program"):
        assert f"{field}a\ufffd]0;title" in shown


def test_json_on_a_terminal_is_the_same_document_in_escapes(hostile):
    code, shown = on_terminal("report", str(hostile), "--json")
    assert code == 0
    assert not set(shown) & STEERING
    (run,) = json.loads(shown)["runs"]
    assert run["run"] == f"run{HOSTILE}"
    with start("report", str(hostile), "--json") as process:
        piped = process.communicate(timeout=60)[0].decode()
    assert json.loads(piped) == json.loads(shown)
    assert "\u202e" in piped


@pytest.mark.parametrize(
    "arguments", [["report", f"none{HOSTILE}"], ["demo", "--ta\x1b[2J"], ["chat", "--scope", HOSTILE]]
)
def test_no_error_steers_the_terminal(arguments):
    code, shown = on_terminal(*arguments, streams=["stderr"])
    assert code == 2
    assert not set(shown) & STEERING


def test_no_answer_steers_the_terminal():
    for arguments in (["demo", "--task", HOSTILE], ["chat", "--message", HOSTILE]):
        code, shown = on_terminal(*arguments)
        assert code == 0
        shown = re.sub(r"\x1b\[(\?25[lh]|1A|2K)", "", STYLES.sub("", shown))  # the spinner's own
        assert not set(shown) & STEERING
        assert "title" in shown
