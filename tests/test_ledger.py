"""The ledger: every whole line survives whatever happens to its writer, and is read whatever the other lines are."""

import json
import os
import signal
import threading
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from step_reports import make_step

from layerroute.errors import LedgerError
from layerroute.ledger import LedgerEntry, append, new_run_id, read


def contents(path):
    """Runs with their entries, and the ledger that was read."""
    with read(path) as ledger:
        return {run.run: entries for run in ledger.runs() if (entries := list(run.entries))}, ledger


def sizes(path):
    return {run: len(entries) for run, entries in contents(path)[0].items()}


def test_what_is_appended_is_read(tmp_path):
    path = tmp_path / "ledger.jsonl"
    steps = [make_step(prompt_tokens=number) for number in range(4)]
    for step, run, task in zip(steps, "aabb", ["t", "u\nv", "ü\u2028 [bold]", "t"], strict=True):
        append(path, step, run=run, task=task)
    runs, ledger = contents(path)
    assert {run: [entry.step for entry in entries] for run, entries in runs.items()} == {"a": steps[:2], "b": steps[2:]}
    assert [entry.task for entries in runs.values() for entry in entries] == ["t", "u\nv", "ü\u2028 [bold]", "t"]
    assert not ledger.torn
    assert not ledger.num_damaged
    assert len(path.read_text().splitlines()) == 4


def test_interleaved_runs_are_told_apart(tmp_path):
    path = tmp_path / "ledger.jsonl"
    for number, run in enumerate("abbaba"):
        append(path, make_step(), run=run, task=str(number))
    runs, _ = contents(path)
    assert list(runs) == ["a", "b"]
    assert [[entry.task for entry in entries] for entries in runs.values()] == [list("035"), list("124")]


def test_run_ids_differ():
    assert len({new_run_id() for _ in range(100)}) == 100


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_torn_last_line_is_reported_then_ended(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("l") / "ledger.jsonl"
    lengths = []
    for run in "ab":
        append(path, make_step(reason="x" * data.draw(st.sampled_from([1, 70_000]))), run=run, task="t")
        lengths.append(path.stat().st_size)
    kept = data.draw(st.integers(1, lengths[1]) | st.integers(lengths[1] - 2, lengths[1]))
    os.truncate(path, kept)
    lines_kept = sum(kept >= length - 1 for length in lengths)  # lacking only "\n", a line is still whole
    torn = kept not in {*lengths, *(length - 1 for length in lengths)}
    runs, ledger = contents(path)
    assert (ledger.torn, ledger.num_damaged) == (torn, 0)
    assert list(runs) == list("ab")[:lines_kept]
    append(path, make_step(), run="c", task="t")
    runs, ledger = contents(path)
    assert (ledger.torn, ledger.num_damaged) == (False, torn)
    assert list(runs) == [*list("ab")[:lines_kept], "c"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_a_killed_writer_costs_at_most_its_own_line(tmp_path):
    path = tmp_path / "ledger.jsonl"
    for round_number in range(5):
        before = sizes(path)["a"] if round_number else 0
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
        assert sizes(path)["a"] - before in (acknowledged, acknowledged + 1)


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
    assert sizes(path) == dict.fromkeys("abcd", 20)


ENTRY = json.loads(LedgerEntry(run="a", task="t", time="2026-11-22T00:00:00Z", step=make_step()).model_dump_json())


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"no json",
        b"\xff",
        b'{"format": 1, "run": "a"',
        b'{"format": 1, "run": "\xff"}',
        json.dumps(ENTRY | {"format": 2}).encode(),
        json.dumps(ENTRY | {"run": "\udcff"}).encode(),
        json.dumps(ENTRY | {"task": "\ud83d"}).encode(),
        json.dumps(ENTRY | {"step": {**ENTRY["step"], "prompt_tokens": 10**30}}).encode(),
        json.dumps(ENTRY | {"colour": "\x1b[2J"}).encode(),
        b"[" * 100_000,
        b"x" * (2**24 + 5),
    ],
)
def test_a_damaged_line_costs_itself_alone(tmp_path, line):
    path = tmp_path / "ledger.jsonl"
    append(path, make_step(), run="a", task="t")
    with path.open("ab") as file:
        file.write(line + b"\n")
    append(path, make_step(), run="a", task="t")
    runs, ledger = contents(path)
    assert {run: len(entries) for run, entries in runs.items()} == {"a": 2}
    assert (ledger.num_damaged, ledger.torn) == (1, False)
    (damaged,) = ledger.damaged
    assert damaged.line == 2
    assert damaged.reason
    assert len(damaged.reason) < 300


def test_a_line_that_names_two_runs_is_never_of_the_second(tmp_path):
    """Which of them pydantic takes depends on its release: it is an entry of the first, or damaged."""
    path = tmp_path / "ledger.jsonl"
    append(path, make_step(), run="a", task="t")
    with path.open("ab") as file:
        file.write(json.dumps(ENTRY)[:-1].encode() + b', "run": "b"}\n')
    runs, ledger = contents(path)
    assert runs.keys() == {"a"}
    assert len(runs["a"]) + ledger.num_damaged == 2


def test_of_very_many_damaged_lines_the_first_are_named(tmp_path):
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(b"x\n" * 10_000)
    _, ledger = contents(path)
    assert ledger.num_damaged == 10_000
    assert [damaged.line for damaged in ledger.damaged] == list(range(1, 21))


def test_text_that_no_encoding_has_is_replaced_as_it_is_written(tmp_path):
    path = tmp_path / "ledger.jsonl"
    append(path, make_step(), run="a\udcff", task="\ud83d!")
    runs, ledger = contents(path)
    assert [(run, entry.task) for run, (entry,) in runs.items()] == [("a\ufffd", "\ufffd!")]
    assert ledger.num_damaged == 0


def test_a_line_too_long_to_be_read_is_not_written(tmp_path):
    path = tmp_path / "ledger.jsonl"
    with pytest.raises(LedgerError, match="shorten it"):
        append(path, make_step(), run="a", task="x" * 2**24)
    assert not path.exists()


def test_a_ledger_comes_through_a_pipe_too(tmp_path):
    path, pipe = tmp_path / "ledger.jsonl", tmp_path / "pipe"
    for run in "aba":
        append(path, make_step(), run=run, task="t")
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(path.read_bytes()))
    writer.start()
    assert sizes(pipe) == {"a": 2, "b": 1}
    writer.join()


def test_reading_holds_no_more_than_a_line(tmp_path):
    path = tmp_path / "ledger.jsonl"
    line = json.dumps(ENTRY | {"task": "x" * 10_000}).encode() + b"\n"
    with path.open("wb") as file:
        for _ in range(2_000):
            file.write(line)
    tracemalloc.start()
    with read(path) as ledger:
        assert [sum(1 for _ in run.entries) for run in ledger.runs()] == [2_000]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50 * len(line) < path.stat().st_size


def test_missing_and_unreadable_files_name_the_remedy(tmp_path):
    with pytest.raises(LedgerError, match="--ledger"):
        read(tmp_path / "none.jsonl")
    with pytest.raises(LedgerError, match="readable file"):
        read(tmp_path)
    with pytest.raises(LedgerError, match="it is a device"):
        read(os.devnull)
    for place in (tmp_path, os.devnull):
        with pytest.raises(LedgerError, match="choose another file"):
            append(place, make_step(), run="a", task="t")
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
    assert sizes(path) == {}
    append(path, make_step(), run="a", task="t")
    assert sizes(path) == {"a": 1}
