"""Signals that end a process: one line and their exit code, whatever is going on just then."""

import os
import signal
import subprocess

import pytest
from processes import start

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs signals")

CODES = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}
SEND = "import os, signal, time, weakref\ndef send(name='SIGINT'): os.kill(os.getpid(), getattr(signal, name))\n"


def ended(arguments, during_import, **options):
    """Run a command that imports the stand-in for torch; exit code, stdout, stderr."""
    with start(*arguments, env={"DURING_IMPORT": SEND + during_import}, **options) as process:
        out, err = process.communicate(timeout=60)
    return process.returncode, out.decode(), err.decode()


@pytest.mark.parametrize("name", CODES)
@pytest.mark.parametrize("arguments", [["version"], ["demo", "--task", "t"], ["demo", "--task", "t", "--json"]])
def test_a_signal_during_an_import_is_a_line_and_a_code(arguments, name):
    assert ended(arguments, f"send({name!r}); time.sleep(60)") == (CODES[name], "", "interrupted\n")


@pytest.mark.parametrize(
    "during_import",
    [
        "class A: pass\na = A(); ref = weakref.ref(a, lambda _: send()); del a; time.sleep(60)",
        "class A:\n    def __del__(self): send()\na = A(); del a; time.sleep(60)",
    ],
    ids=["weak reference", "finaliser"],
)
def test_a_signal_where_nothing_can_be_raised_is_raised_a_moment_later(during_import):
    assert ended(["version"], during_import) == (130, "", "interrupted\n")


@pytest.mark.parametrize("swallowing", ["raise ImportError('no torch')", "raise SystemExit(3)", "pass"])
def test_a_signal_that_an_import_makes_something_else_of_is_still_one(swallowing):
    during_import = f"try:\n    send(); time.sleep(60)\nexcept BaseException:\n    {swallowing}"
    code, _, err = ended(["version"], during_import)
    assert (code, err) == (130, "interrupted\n")


def test_a_signal_that_an_import_swallows_is_raised_again():
    during_import = "try:\n    send(); time.sleep(60)\nexcept BaseException: pass\ntime.sleep(60)"
    assert ended(["version"], during_import) == (130, "", "interrupted\n")


def test_what_is_done_because_of_a_signal_is_not_interrupted_by_it():
    during_import = (
        "class Context:\n    def __enter__(self): pass\n"
        "    def __exit__(self, *_): time.sleep(0.3); print('left', end=' ')\n"
        "try:\n    with Context(): send(); time.sleep(60)\n"
        "finally:\n"
        "    try: raise ValueError\n"
        "    except ValueError: time.sleep(0.3)\n"
        "    print('cleaned up')"
    )
    assert ended(["version"], during_import) == (130, "left cleaned up\n", "interrupted\n")


def test_a_command_that_has_heard_the_signal_ends_in_its_own_way():
    during_import = (
        "from layerroute.parts import Parts\n"
        "parts = Parts()\n"
        "parts.attempt('one', lambda: (send(), time.sleep(60)))\n"
        "time.sleep(0.3); print(parts.failed)"
    )
    code, out, err = ended(["version"], during_import)
    assert (code, err) == (130, "interrupted\n")
    assert out.startswith("{'one': 'interrupted'}\n")
    assert "torch" in out


def test_the_second_signal_ends_it_at_once():
    during_import = "try:\n    send(); time.sleep(60)\nfinally:\n    send(); time.sleep(60)"
    assert ended(["version"], during_import) == (-signal.SIGINT, "", "")


@pytest.mark.parametrize(
    "at_exit",
    [
        "import atexit; atexit.register(lambda: (send(), time.sleep(60)))",
        "import threading\n"
        "def late():\n    threading.main_thread().join(); send(); time.sleep(60)\n"
        "threading.Thread(target=late).start()",
    ],
    ids=["atexit", "thread"],
)
def test_a_signal_while_the_interpreter_ends_leaves_no_traceback(at_exit):
    code, out, err = ended(["version"], at_exit)
    assert (code, err) == (-signal.SIGINT, "")
    assert "torch" in out


@pytest.mark.parametrize("name", CODES)
def test_a_signal_that_is_ignored_stays_ignored(name):
    number = getattr(signal, name)
    code, out, err = ended(["version"], f"send({name!r})", preexec_fn=lambda: signal.signal(number, signal.SIG_IGN))
    assert (code, err) == (0, "")
    assert "torch" in out


def test_torchrun_ends_its_workers_wherever_they_wait():
    more = {"TORCHELASTIC_RUN_ID": "1", "DURING_IMPORT": f"{SEND}send('SIGTERM'); time.sleep(60)"}
    with start("version", env=more) as process:
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (-signal.SIGTERM, b"")


def test_a_forked_child_is_ended_by_signals_as_any_process_is():
    during_import = (
        "child = os.fork()\n"
        "if not child:\n    send('SIGTERM'); time.sleep(60)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    code, out, err = ended(["version"], during_import)
    assert (code, err) == (0, "")
    assert out.startswith(f"{-signal.SIGTERM}\n")


def test_an_interrupted_conversation_ends_with_130():
    with start("chat", stdin=subprocess.PIPE) as process:
        process.stdin.write(b"hi\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"You said hi.\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, b"")
    assert err.endswith(b"\ninterrupted\n")
    assert b"Traceback" not in err


def test_a_bug_is_shown_as_one_and_steers_no_terminal():
    code, out, err = ended(["version"], "raise ZeroDivisionError('\\x1b[2J')")
    assert (code, out) == (1, "")
    assert err.endswith("ZeroDivisionError: \ufffd[2J\n")
    assert "Traceback" in err
