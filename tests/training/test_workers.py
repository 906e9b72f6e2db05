"""Work of several processes: in order, and over when it is over, however it ends."""

import os
import signal
import subprocess
import sys
import time
from multiprocessing import active_children
from pathlib import Path

import pytest

from layerroute_training.errors import CorpusError, WorkerError
from layerroute_training.workers import available_cores, in_order


class Doubler:
    """Work for a worker; some tasks end it."""

    def __init__(self, more):
        self.more = more

    def __call__(self, task):
        if task == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if task == "fail":
            raise CorpusError("row 7: no such role")
        if task == "sleep":
            time.sleep(60)
        return 2 * task + self.more


def work(tasks, processes):
    with in_order(Doubler, (1,), tasks, processes) as results:
        return list(results)


@pytest.mark.parametrize("processes", [1, 3])
def test_results_come_in_the_order_of_the_tasks(processes):
    assert work(iter(range(40)), processes) == [2 * task + 1 for task in range(40)]
    assert not active_children()


@pytest.mark.parametrize("processes", [1, 2])
def test_what_the_work_raises_is_raised(processes):
    with pytest.raises(CorpusError, match="row 7: no such role"):
        work([1, "fail", "sleep", "sleep"], processes)
    assert not active_children()


def test_a_worker_that_is_killed_ends_the_work():
    with pytest.raises(WorkerError, match="use fewer processes"):
        work([1, 2, "die", *range(50)], 2)
    assert not active_children()


def test_who_leaves_early_leaves_no_worker():
    def leave():
        with in_order(Doubler, (1,), [1, "sleep", "sleep"], 2) as results:
            assert next(results) == 3
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        leave()
    assert not active_children()


SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
from test_workers import Doubler, in_order

if __name__ == "__main__":
    try:
        with in_order(Doubler, (1,), [1, "sleep", "sleep"], 2) as results:
            print(next(results), flush=True)
            next(results)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


@pytest.fixture
def parent(tmp_path):
    """A process, in a session of its own, whose workers have begun what takes long."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(folder=str(Path(__file__).parent)))
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout.readline() == "3\n"
    return process


def test_of_ctrl_c_the_parent_speaks_alone(parent):
    os.killpg(parent.pid, signal.SIGINT)  # as a terminal does
    assert parent.communicate() == ("interrupted\n", "")  # complete when no process holds the pipes any more
    assert parent.returncode == 0


def test_workers_end_with_a_parent_that_is_killed(parent):
    parent.kill()
    assert parent.communicate()[0] == ""


def test_processes_of_one_machine_share_its_cores(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(12)), raising=False)
    assert available_cores() == 12
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert available_cores() == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert available_cores() == 1
