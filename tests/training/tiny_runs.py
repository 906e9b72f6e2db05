"""A tiny checkpoint, steps for it, and configurations that train in a second."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
from qwen2 import random_model, save
from transformers import AutoTokenizer

from layerroute_training.config import override
from layerroute_training.cutting import build_steps
from layerroute_training.data import StepData, tokenizer_digest
from layerroute_training.recipes import default
from layerroute_training.rows import Row

TOKENIZER = Path(__file__).parent.parent / "data" / "tokenizer"
TOOL = {
    "type": "function",
    "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}},
}


def checkpoint(folder: Path) -> Path:
    """Six random blocks of width 32, with the tests' tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    save(random_model(vocab_size=len(tokenizer), max_position_embeddings=1024), folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(TOKENIZER / name, folder)
    return folder


def conversations(count: int, first: int = 0, split: str = "train") -> list[Row]:
    """Conversations of one tool call and one planning step each, no two alike."""
    rows = []
    for number in range(first, first + count):
        call = {"type": "function", "function": {"name": "add", "arguments": {"a": number}}}
        messages = [
            {"role": "user", "content": f"add {number} " + "please " * (number % 7)},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "name": "add", "content": str(number + 1)},
            {"role": "assistant", "content": f"the sum is {number + 1}"},
        ]
        rows.append(Row(f"row-{number}", "made", split, [TOOL], messages))
    return rows


def data(folder: Path) -> StepData:
    """24 steps to train on and 12 held-out ones, in the tokens of the checkpoint in `folder`."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    train, _ = build_steps({"corpora": conversations(12)}, tokenizer, window=512)
    dev, _ = build_steps({"corpora": conversations(6, 100, "dev")}, tokenizer, window=512)
    return StepData(train, dev, {"tokenizer": tokenizer_digest(folder)})


def only(steps: StepData, chosen: np.ndarray) -> StepData:
    """The same with these training steps only."""
    return StepData(steps.train.select(chosen), steps.dev, steps.notes)


SETTINGS = (
    "schedule.updates=6",
    "schedule.batch=2",
    "schedule.accumulation=2",
    "schedule.warmup=2",
    "lora.rank=2",
    "lora.dropout=0.1",
    "checkpoint_every=2",
    "log_every=1",
)


def settings(folder: Path, *more: str) -> list[str]:
    """Settings of a tiny run on the checkpoint in `folder`."""
    return [f"model={folder}", *SETTINGS, *more]


def config(folder: Path, *more: str):
    """Configuration of a tiny run."""
    return override(default(), settings(folder, *more))


def train_command(folder: Path, steps: Path, out: Path, *more: str) -> list[str]:
    """Arguments of `layerroute train` for a tiny run."""
    words = [word for setting in settings(folder) for word in ("--set", setting)]
    return ["train", *words, "--steps", str(steps), "--out", str(out), "--quiet", *more]


def environment() -> dict[str, str]:
    """For subprocesses that import this project as pytest does."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
