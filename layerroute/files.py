"""Files that appear whole or not at all."""

import os
from pathlib import Path


def write_durably(path: Path, data: bytes) -> None:
    """Write a file and wait until its bytes are on the disk; for files of a folder that is renamed afterwards."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_text(path: Path, text: str) -> None:
    """Replace a file in one step: a reader sees the old text or the new one, never a part."""
    staging = path.with_name(f".{path.name}")
    staging.write_text(text, encoding="utf-8")
    os.replace(staging, path)
