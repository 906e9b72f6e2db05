"""Arguments and names of files that are no UTF-8, or that would steer a terminal."""

import os
import re
from pathlib import Path

import pytest
from processes import start
from step_reports import make_step

from layerroute import ledger
from layerroute.cli import main
from layerroute.commands.shared import print_path

NO_TEXT = os.fsdecode(b"a\xffb") if os.name == "posix" else "a\udcffb"
ODD_NAMES = [
    "a\nb",
    "\x1b[31mred",
    "a b'\"",
    "-",
    "--",
    "~",
    "%s",
    "\u202eb",
    "ü" * 100,
    *([NO_TEXT] * (os.name == "posix")),
]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["demo", "--task", "fine", "--task", NO_TEXT], "--task"),
        (["demo", "--model", NO_TEXT], "--model"),
        (["demo", "--router", NO_TEXT], "--router"),
        (["chat", "--message", NO_TEXT], "--message"),
        (["chat", "--message", "hi", "--system", NO_TEXT], "--system"),
        (["chat", "--adapter", NO_TEXT], "--adapter"),
        (["train", "--data", "x", NO_TEXT], "--data"),
        (["train", "--set", NO_TEXT], "--set"),
        (["evaluate", "x", NO_TEXT], "BUNDLE"),
        (["bench", "--shape", NO_TEXT], "--shape"),
    ],
)
def test_an_argument_that_is_no_text_is_refused_by_name(arguments, named, capsys):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"layerroute: {named} holds '\\udcff' at character 1, the byte 0xFF that is no UTF-8")
    assert err.count("\n") == 1


def test_bytes_of_a_real_command_line_are_refused_too():
    with start("chat", "--message", b"a\xffb") as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, b"")
    assert err.startswith(b"layerroute: --message holds ")


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_ledger_may_have_any_name(name, tmp_path, capsys):
    path = tmp_path / name
    ledger.append(path, make_step(), run="a", task="t")
    assert main(["report", str(path)]) == 0
    assert "run a" in capsys.readouterr().out


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_file_that_is_not_there_is_told_on_one_line_that_steers_no_terminal(name, tmp_path, capsys):
    assert main(["report", str(tmp_path / name)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("layerroute: no ledger ")
    assert re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", err) is None
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["dance\x1b[2J"], ["chat", "--s\x1b[2J"], ["chat", "--s=\u202e"], ["bench", "--steps", "\x9b"]]
)
def test_wrong_usage_steers_no_terminal(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert not set(capsys.readouterr().err) & set("\x1b\x9b\u202e")


def test_a_path_is_printed_as_the_bytes_that_it_is(capsysbinary):
    print_path(Path(NO_TEXT) / "ü\x1b")
    assert capsysbinary.readouterr().out == os.fsencode(f"{NO_TEXT}/ü\x1b\n")
