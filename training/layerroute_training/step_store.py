"""Columns of numbers and text as a folder of xz files that notices damage.

`index.json` holds the metadata, and of every column its file, type, length and the SHA-256 of the file.
"""

import hashlib
import json
import lzma
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerroute.files import read_folder, replacing, write_durably
from layerroute_training.errors import CorpusError

FORMAT = 1
_INDEX = "index.json"
_XZ = [{"id": lzma.FILTER_LZMA2, "preset": 1, "dict_size": 1 << 24}]  # tool schemas recur far apart


def write_columns(folder: Path, columns: Mapping[str, NDArray[Any]], metadata: Mapping[str, Any]) -> None:
    """Write one file per column and the index; `folder` appears complete or not at all.

    Raises:
        CorpusError: `folder` exists and is not one that this function wrote.
    """
    if folder.exists() and not (folder / _INDEX).is_file():
        raise CorpusError(f"{folder} exists and holds no saved steps: name another folder, or remove it")
    with replacing(folder) as staging:
        staging.mkdir()
        index: dict[str, Any] = {"format": FORMAT, "metadata": dict(metadata), "columns": {}}
        for name, column in columns.items():
            little = column.astype(column.dtype.newbyteorder("<"))
            data = lzma.compress(little.tobytes(), filters=_XZ)
            write_durably(staging / f"{name}.xz", data)
            checksum = hashlib.sha256(data).hexdigest()
            index["columns"][name] = {"type": little.dtype.str, "length": len(column), "sha256": checksum}
        write_durably(staging / _INDEX, json.dumps(index, indent=1, ensure_ascii=False).encode())


def read_columns(folder: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The columns and the metadata that `write_columns` wrote; the arrays are read-only.

    Raises:
        CorpusError: the folder or a file is missing, cut off, edited, or of another version of this package.
    """
    return read_folder(folder, _read_columns, CorpusError)


def _read_columns(folder: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    try:
        index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        if index["format"] != FORMAT:
            raise CorpusError(f"{folder} has format {index['format']}, not {FORMAT}: save the steps again")
        columns = {name: _read(folder / f"{name}.xz", entry) for name, entry in index["columns"].items()}
        return columns, index["metadata"]
    except FileNotFoundError as error:
        raise CorpusError(f"{error.filename} is missing: name a folder of saved steps, or save them again") from None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError):
        raise CorpusError(f"{folder / _INDEX} is damaged: save the steps again") from None


def _read(path: Path, entry: Mapping[str, Any]) -> NDArray[Any]:
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise CorpusError(f"{path} is not the file that was saved (its SHA-256 differs): save the steps again")
    return np.frombuffer(lzma.decompress(data), dtype=np.dtype(entry["type"]))
