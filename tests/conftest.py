"""Fixtures for all tests, and the terminal that they and the processes they start believe to be on."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from transformers import AutoTokenizer, PreTrainedTokenizerBase

for _name in ("LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLORTERM", "TERM"):
    os.environ.pop(_name, None)
os.environ["COLUMNS"] = "80"
for _signal in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
    if signal.getsignal(_signal) is signal.SIG_IGN:  # under nohup or behind "&": what they start would ignore it too
        signal.signal(_signal, signal.default_int_handler)

# Equal examples in every run, and no verdict on the time they take.
settings.register_profile(
    "equal", derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("equal")

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerBase:
    """A small byte-level BPE (2,048 ids) with Qwen2.5's special tokens and chat template."""
    return AutoTokenizer.from_pretrained(DATA / "tokenizer")
