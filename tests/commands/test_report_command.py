"""`layerroute report`: every run again, and no more of a damaged ledger lost than its damaged lines."""

import io
import json
import os
import sys

import pytest
from step_reports import make_step

from layerroute import ledger
from layerroute.cli import main
from layerroute.report import StepReport


def fill(path):
    for run, task in [("a", "t"), ("a", "u"), ("b", "t")]:
        ledger.append(path, make_step(), run=run, task=task)


def test_report_shows_the_runs(tmp_path, capsys):
    fill(tmp_path / "l.jsonl")
    assert main(["report", str(tmp_path / "l.jsonl")]) == 0
    out, err = capsys.readouterr()
    assert out.count("■■■·") == 3
    assert out.count("run ") == 2
    assert err == ""


def test_report_json(tmp_path, capsys):
    fill(tmp_path / "l.jsonl")
    assert main(["report", str(tmp_path / "l.jsonl"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [[task["task"] for task in run["tasks"]] for run in document["runs"]] == [["t", "u"], ["t"]]
    assert document["runs"][0]["summary"]["total"]["prompt_tokens"] == 20
    assert StepReport.model_validate(document["runs"][0]["tasks"][0]["steps"][0]) == make_step()
    assert document["torn"] is False
    assert document["damaged"] == {"lines": 0, "first": []}


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_is_json_in_every_encoding(tmp_path, monkeypatch, encoding):
    ledger.append(tmp_path / "l.jsonl", make_step(), run="a", task="日本 ü \x1b")
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    assert main(["report", str(tmp_path / "l.jsonl"), "--json"]) == 0
    sys.stdout.flush()
    assert json.loads(raw.getvalue().decode(encoding))["runs"][0]["tasks"][0]["task"] == "日本 ü \x1b"


def test_a_step_takes_a_line_of_the_document(tmp_path, capsys):
    fill(tmp_path / "l.jsonl")
    main(["report", str(tmp_path / "l.jsonl"), "--json"])
    steps = [line for line in capsys.readouterr().out.splitlines() if '"visits_per_block"' in line]
    assert [StepReport.model_validate_json(line.lstrip(",")) for line in steps] == [make_step()] * 3


def test_numbers_that_json_does_not_have_become_null(tmp_path, capsys):
    ledger.append(tmp_path / "l.jsonl", make_step(tool_call_probability=float("nan")), run="a", task="t")
    assert main(["report", str(tmp_path / "l.jsonl"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert document["runs"][0]["tasks"][0]["steps"][0]["tool_call_probability"] is None


def damage(path, *lines):
    """Put lines that are no entries after the first."""
    first, *rest = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + b"".join(line + b"\n" for line in lines) + b"".join(rest))


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_damaged_lines_are_left_out_and_named(tmp_path, capsys, as_json):
    path = tmp_path / "l.jsonl"
    fill(path)
    damage(path, b"x", b'{"format": 1, "run": "b", "task": "\\udcff"}', b"", b"y", b"z")
    assert main(["report", str(path), *as_json]) == 1
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert line.startswith(f"layerroute: left out of {path}: line 2 (")
    assert "line 3 (Invalid JSON: lone leading surrogate" in line
    assert line.endswith("; 2 more damaged lines")
    if as_json:
        document = json.loads(out)
        assert [run["run"] for run in document["runs"]] == ["a", "b"]
        assert document["damaged"]["lines"] == 5
        assert sorted(damaged["line"] for damaged in document["damaged"]["first"]) == [2, 3, 4, 5, 6]
    else:
        assert out.count("■■■·") == 3


@pytest.mark.parametrize("as_json", [[], ["--json"]])
@pytest.mark.parametrize("content", [b"a thesis\n", b'{"format": 1, "run": "a"}\n', b"\0" * 10_000 + b"\n"])
def test_a_file_without_any_entry_is_no_ledger(tmp_path, capsys, content, as_json):
    (tmp_path / "l").write_bytes(content)
    assert main(["report", str(tmp_path / "l"), *as_json]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "holds no entry (line 1: " in line


def test_interleaved_runs_are_shown_one_after_the_other(tmp_path, capsys):
    for run, task in ["a0", "b1", "a2", "b3"]:
        ledger.append(tmp_path / "l.jsonl", make_step(), run=run, task=task)
    main(["report", str(tmp_path / "l.jsonl")])
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line in ("run a", "run b", *"0123")] == ["run a", "0", "2", "run b", "1", "3"]


def test_report_says_that_a_line_is_torn(tmp_path, capsys):
    path = tmp_path / "l.jsonl"
    fill(path)
    os.truncate(path, path.stat().st_size - 9)
    assert main(["report", str(path)]) == 0
    out, err = capsys.readouterr()
    assert out.count("■■■·") == 2
    assert "cut short" in err
    main(["report", str(path), "--json"])
    assert json.loads(capsys.readouterr().out)["torn"] is True


def test_report_of_nothing(tmp_path, capsys):
    assert main(["report", str(tmp_path / "none.jsonl")]) == 2
    assert "--ledger" in capsys.readouterr().err
    (tmp_path / "empty.jsonl").touch()
    assert main(["report", str(tmp_path / "empty.jsonl")]) == 0
    assert "no steps yet" in capsys.readouterr().out
