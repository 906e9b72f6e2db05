"""Records of local files: JSON lines, a JSON list, both also gzipped, and parquet."""

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerroute_training.errors import CorpusError

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")


@dataclass(frozen=True)
class Part:
    """A file or a hub split: its name and its records, of which a line that is not JSON is None."""

    name: str
    records: Iterator[Any]


def local_parts(name: str) -> list[Part] | None:
    """The files at a path by name, or None if there is nothing at it.

    Raises:
        CorpusError: a folder without such files, a file of another kind, or a missing one that can be no hub id.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        files = sorted(child for child in path.iterdir() if child.name.endswith(SUFFIXES))
        if not files:
            raise CorpusError(f"{path}: no {', '.join(SUFFIXES)} in this folder. Give the folder that holds them")
        return [_part(file) for file in files]
    if path.is_file():
        if not path.name.endswith(SUFFIXES):
            raise CorpusError(f"{path}: not one of {', '.join(SUFFIXES)}. Convert the file")
        return [_part(path)]
    if path.name.endswith(SUFFIXES):
        raise CorpusError(f"{path}: no such file. Correct the path")
    return None


def _part(path: Path) -> Part:
    return Part(path.name.partition(".")[0], _records(path))


def _records(path: Path) -> Iterator[Any]:
    try:
        if path.suffix == ".parquet":
            yield from _parquet(path)
        elif ".jsonl" in path.suffixes:
            yield from _lines(path)
        else:
            yield from _document(path)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise CorpusError(f"{path}: damaged or unreadable ({error}). Fetch the file again") from error


def _lines(path: Path) -> Iterator[Any]:
    with _open(path) as lines:
        for line in lines:
            if line.strip():
                yield _parsed(line)


def _document(path: Path) -> Iterator[Any]:
    """A JSON list of records; some corpora keep JSON lines under this suffix."""
    with _open(path) as file:
        text = file.read()
    if not text.lstrip().startswith("["):
        yield from (_parsed(line) for line in text.splitlines() if line.strip())
        return
    try:
        yield from json.loads(text)
    except json.JSONDecodeError as error:
        raise CorpusError(f"{path}: not JSON ({error}). Fetch the file again") from error


def _parquet(path: Path) -> Iterator[Any]:
    try:
        from pyarrow import ArrowInvalid, parquet
    except ImportError as error:
        raise ImportError("reading parquet needs pyarrow: pip install layerroute[train]") from error
    try:
        for batch in parquet.ParquetFile(path).iter_batches(batch_size=1000):
            yield from batch.to_pylist()
    except ArrowInvalid as error:
        raise CorpusError(f"{path}: damaged or no parquet file ({error}). Fetch the file again") from error


def _open(path: Path) -> Any:
    return gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None
