"""Streams that are closed, full or have lost their reader: an exit code, at most one line about it, no traceback."""

import os
import shutil
import subprocess

import pytest
from processes import shell, start
from step_reports import make_step

from layerroute import ledger

pytestmark = pytest.mark.skipif(
    shutil.which("bash") is None or not os.path.exists("/dev/full"), reason="needs bash and /dev/full"
)

COMMANDS = {
    "help": ["--help"],
    "version": ["version"],
    "report": ["report", "ledger.jsonl"],
    "report as JSON": ["report", "ledger.jsonl", "--json"],
    "demo": ["demo", "--task", "t"],
    "demo as JSON": ["demo", "--task", "t", "--json"],
    "chat": ["chat", "--message", "hi"],
}
WRONG = {"usage": ["dance"], "input": ["report", "none.jsonl"], "settings": ["train"]}
REPORTING = {"demo", "chat"}
"""Commands that write to stderr when all is well."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("streams")
    for run in "ab":
        ledger.append(folder / "ledger.jsonl", make_step(), run=run, task="t")
    return folder


def about_streams(err):
    """Lines of stderr that are no report."""
    assert "Traceback" not in err
    assert "Exception" not in err
    return [line for line in err.splitlines() if line.startswith("layerroute: ")]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_stdout_ends_with_1_and_a_line(folder, name):
    code, _, err = shell(">/dev/full", *COMMANDS[name], cwd=folder)
    assert code == 1
    assert about_streams(err) == ["layerroute: cannot write to stdout (No space left on device): send it elsewhere"]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_reader_that_has_gone_ends_it_with_1_and_in_silence(folder, name):
    reader, writer = os.pipe()
    os.close(reader)
    with start(*COMMANDS[name], cwd=folder, stdout=writer) as process:
        os.close(writer)
        err = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 1
    assert about_streams(err) == []


@pytest.mark.parametrize("name", [*COMMANDS, *WRONG])
def test_a_closed_stdout_is_told_before_anything_is_done(folder, name):
    code, _, err = shell(">&-", *(COMMANDS | WRONG)[name], cwd=folder)
    assert code == 1
    assert err == "layerroute: stdout is closed: send it to a file, or to /dev/null\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_stderr_does_not_stop_it_and_is_told_by_the_code(folder, name):
    code, out, err = shell("2>/dev/full", *COMMANDS[name], cwd=folder)
    assert code == (name in REPORTING)
    assert out
    assert err == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_closed_stdin_and_stderr_are_as_good_as_empty_ones(folder, name):
    code, out, _ = shell("<&- 2>&-", *COMMANDS[name], cwd=folder)
    assert code == 0
    assert out == shell("", *COMMANDS[name], cwd=folder)[1]


@pytest.mark.parametrize("redirection", ["", ">/dev/full", "2>/dev/full", "2>&-", "<&-"])
@pytest.mark.parametrize("name", WRONG)
def test_bad_usage_and_input_end_with_2_whatever_the_streams(folder, name, redirection):
    code, out, err = shell(redirection, *WRONG[name], cwd=folder)
    assert code == 2
    assert out == ""
    assert len(about_streams(err)) == ("2>" not in redirection)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_stdout_has_no_letters_for_is_escaped(encoding):
    with start("chat", "--message", "3 °C, 日本", env={"PYTHONIOENCODING": encoding}) as process:
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert out == "You said 3 °C, 日本.\n".encode(encoding, "backslashreplace")


@pytest.mark.parametrize("arguments", [["chat"], ["demo", "--interactive"]])
def test_a_conversation_needs_a_stdin(folder, arguments):
    code, out, err = shell("<&-", *arguments, cwd=folder)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("layerroute: stdin is closed, so there is nothing to read: give --")


@pytest.mark.parametrize("arguments", [["chat"], ["demo", "--interactive"]])
@pytest.mark.parametrize(
    ("stdin", "message"),
    [
        (b"first\nno \xff text\nthird\n", "line 2 of stdin holds '\\udcff' at character 3, the byte 0xFF"),
        (b"first\n" + b"x" * 2**20, "line 2 of stdin has more than 1,048,576 characters"),
    ],
)
def test_a_line_that_is_no_text_ends_a_conversation_and_is_named(arguments, stdin, message):
    with start(*arguments, stdin=subprocess.PIPE) as process:
        out, err = (text.decode() for text in process.communicate(stdin, timeout=60))
    assert process.returncode == 2
    assert out == {"chat": "You said first.\n", "demo": "Done: first.\n"}[arguments[0]]
    (line,) = about_streams(err)
    assert line.startswith(f"layerroute: {message}")


def test_a_stdin_that_cannot_be_read_is_told(tmp_path):
    code, _, err = shell("0>write-only", "chat", cwd=tmp_path)
    assert code == 2
    assert about_streams(err) == ["layerroute: cannot read stdin (Bad file descriptor): give a file or a pipe"]


def test_a_pipe_that_wants_no_waiting_is_waited_for(folder):
    path = folder / "long.jsonl"
    line = (folder / "ledger.jsonl").read_bytes().splitlines(keepends=True)[0]
    path.write_bytes(line * 500)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with start("report", str(path), "--json", stdout=writer) as process:
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            lines = pipe.read().count(b"visits_per_block")
    assert (process.wait(), lines) == (0, 500)
