"""The ledger: every whole line survives whatever happens to its writer."""

import json
import os
import signal
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from step_reports import make_step

from layerroute.errors import LedgerError
from layerroute.ledger import append, new_run_id, read


def test_what_is_appended_is_read(tmp_path):
    path = tmp_path / "ledger.jsonl"
    steps = [make_step(prompt_tokens=number) for number in range(4)]
    for step, run, task in zip(steps, "aabb", ["t", "u\nv", "ü\u2028 [bold]", "t"], strict=True):
        append(path, step, run=run, task=task)
    ledger = read(path)
    assert [run.run for run in ledger.runs] == ["a", "b"]
    assert [run.steps for run in ledger.runs] == [tuple(steps[:2]), tuple(steps[2:])]
    assert [entry.task for run in ledger.runs for entry in run.entries] == ["t", "u\nv", "ü\u2028 [bold]", "t"]
    assert not ledger.torn
    assert len(path.read_text().splitlines()) == 4


def test_interleaved_runs_are_told_apart(tmp_path):
    path = tmp_path / "ledger.jsonl"
    for run in "abab":
        append(path, make_step(), run=run, task="t")
    assert [(run.run, len(run.steps)) for run in read(path).runs] == [("a", 2), ("b", 2)]


def test_run_ids_differ():
    assert len({new_run_id() for _ in range(100)}) == 100


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_torn_last_line_is_reported_then_repaired(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("l") / "ledger.jsonl"
    lengths = []
    for run in "ab":
        append(path, make_step(reason="x" * data.draw(st.sampled_from([1, 70_000]))), run=run, task="t")
        lengths.append(path.stat().st_size)
    kept = data.draw(st.integers(1, lengths[1]) | st.integers(lengths[1] - 2, lengths[1]))
    os.truncate(path, kept)
    lines_kept = sum(kept >= length - 1 for length in lengths)  # lacking only "\n", a line is still whole
    torn = kept not in {*lengths, *(length - 1 for length in lengths)}
    ledger = read(path)
    assert ledger.torn == torn
    assert [run.run for run in ledger.runs] == list("ab")[:lines_kept]
    append(path, make_step(), run="c", task="t")
    ledger = read(path)
    assert not ledger.torn
    assert [run.run for run in ledger.runs] == [*list("ab")[:lines_kept], "c"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_a_killed_writer_costs_at_most_its_own_line(tmp_path):
    path = tmp_path / "ledger.jsonl"
    for round_number in range(5):
        before = len(read(path).runs[0].steps) if round_number else 0
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            while True:
                append(path, make_step(), run="a", task="t")
                os.write(writer, b".")
        acknowledged = len(os.read(reader, 3)) + len(os.read(reader, 40))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(writer)
        while piece := os.read(reader, 1000):
            acknowledged += len(piece)
        os.close(reader)
        assert len(read(path).runs[0].steps) - before in (acknowledged, acknowledged + 1)


def test_threads_do_not_mix_their_lines(tmp_path):
    path = tmp_path / "ledger.jsonl"

    def write(run):
        for _ in range(20):
            append(path, make_step(), run=run, task="t")

    threads = [threading.Thread(target=write, args=(run,)) for run in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted((run.run, len(run.steps)) for run in read(path).runs) == [(run, 20) for run in "abcd"]


@pytest.mark.parametrize(
    "line", ["", "{}", "no json", '{"format": 1, "run": "a"', "\xff", json.dumps({"format": 2, "run": "a"})]
)
def test_a_bad_line_in_the_middle_is_named(tmp_path, line):
    path = tmp_path / "ledger.jsonl"
    append(path, make_step(), run="a", task="t")
    with path.open("ab") as file:
        file.write(line.encode("latin-1") + b"\n")
    append(path, make_step(), run="a", task="t")
    with pytest.raises(LedgerError, match=r"line 2 of .*ledger\.jsonl is no ledger entry \(.*\): remove that line"):
        read(path)


def test_missing_and_unreadable_files_name_the_remedy(tmp_path):
    with pytest.raises(LedgerError, match="--ledger"):
        read(tmp_path / "none.jsonl")
    with pytest.raises(LedgerError, match="readable file"):
        read(tmp_path)
    with pytest.raises(LedgerError, match="choose another file"):
        append(tmp_path, make_step(), run="a", task="t")
    with pytest.raises(LedgerError, match="choose another file"):
        append(tmp_path / "no" / "folder", make_step(), run="a", task="t")


@pytest.mark.parametrize("content", ["a thesis", "a thesis\nits last line", '{"format": 1, "run": "\na thesis'])
def test_other_files_are_left_alone(tmp_path, content):
    path = tmp_path / "thesis.tex"
    path.write_text(content)
    with pytest.raises(LedgerError, match="is no ledger"):
        append(path, make_step(), run="a", task="t")
    assert path.read_text() == content


def test_an_empty_file_is_an_empty_ledger(tmp_path):
    path = tmp_path / "ledger.jsonl"
    path.touch()
    assert read(path).runs == ()
    append(path, make_step(), run="a", task="t")
    assert len(read(path).runs) == 1
