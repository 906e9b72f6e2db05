"""Tests of Triton kernels on a CPU. `TRITON_INTERPRET` must be set before Triton is first imported, which other tests
may have done: such a test runs in a process of its own."""

import os
import subprocess
import sys

import pytest

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETED, reason="runs in the process that test_under_the_interpreter starts")


def pass_under_the_interpreter(path: str) -> None:
    """Run a test file in a process where Triton interprets its kernels."""
    if INTERPRETED:
        pytest.skip("already there")
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", path]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert "passed" in run.stdout


def _dot_in_order(self, a, b, d, *_):
    """A product whose sums run over ascending columns, one at a time. NumPy's own leaves the order to a BLAS, whose
    choice depends on the processor and on how many columns lie beside: rows would depend on their neighbours."""
    total = d.data
    for k in range(a.data.shape[-1]):
        total = total + a.data[..., :, k, None] * b.data[..., None, k, :]
    return interpreter.TensorHandle(total, d.dtype.scalar)


if INTERPRETED:
    from triton.runtime import interpreter

    interpreter.InterpreterBuilder.create_dot = _dot_in_order
