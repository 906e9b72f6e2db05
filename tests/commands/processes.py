"""Starts the command line as a process of its own, with stand-ins for what is slow to import."""

import os
import subprocess
import sys
from pathlib import Path

STUBS = Path(__file__).with_name("stubs")
COMMAND = [sys.executable, "-m", "layerroute.cli"]


def environment(**more):
    paths = [str(STUBS), str(STUBS.parents[1]), *sys.path]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"} | more


def start(*arguments, **options):
    """Start `layerroute ARGUMENTS`; options are those of `Popen`."""
    pipes = {name: options.pop(name, subprocess.PIPE) for name in ("stdout", "stderr")}
    stdin = options.pop("stdin", subprocess.DEVNULL)
    return subprocess.Popen(
        [*COMMAND, *arguments], stdin=stdin, env=environment(**options.pop("env", {})), **pipes, **options
    )


def shell(redirection, *arguments, **options):
    """Run `layerroute ARGUMENTS REDIRECTION` in a shell; exit code, stdout, stderr."""
    script = f'"$@" {redirection}'
    command = ["bash", "-c", script, "bash", *COMMAND, *arguments]
    ended = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, env=environment(), check=False, timeout=60, **options
    )
    return ended.returncode, ended.stdout.decode(), ended.stderr.decode()
