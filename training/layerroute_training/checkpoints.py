"""Checkpoints of a run: complete or absent, verified when read, and only ever resumed by the run that wrote them.

A checkpoint is a folder `update-NNNNNN` of `tensors.safetensors`, `state.json` and `manifest.json` (sha256 of the other
two). Nothing in it can run code. It appears under its name when every byte is on the disk.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from layerroute.files import replacing, write_durably
from layerroute_training.errors import CheckpointError

KEEP = 2
"""How many checkpoints a run keeps: the one before the last is there should the last be damaged."""

_TENSORS, _STATE, _MANIFEST = "tensors.safetensors", "state.json", "manifest.json"
_MISSING = "nothing"


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs to go on.

    Attributes:
        update: updates done.
        tensors: by name, on the CPU.
        run: what decides the run's result, as JSON values; a run of another one must not go on from here.
    """

    update: int
    tensors: Mapping[str, Tensor]
    run: Mapping[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint under `folder` and remove all but the last `KEEP`.

    Raises:
        CheckpointError: it cannot be written, for example because the disk is full; older ones are untouched.
    """
    path = folder / f"update-{checkpoint.update:06d}"
    state = {"update": checkpoint.update, "run": checkpoint.run}
    files = {
        _TENSORS: save({name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}),
        _STATE: json.dumps(state, indent=2).encode(),
    }
    files[_MANIFEST] = json.dumps({name: hashlib.sha256(data).hexdigest() for name, data in files.items()}).encode()
    try:
        with replacing(path) as staging:  # of a damaged one of the same update, perhaps
            staging.mkdir()
            for name, data in files.items():
                write_durably(staging / name, data)
    except OSError as error:
        raise CheckpointError(
            f"cannot write the checkpoint {path} ({error.strerror}): make room on the disk and go on with --resume"
        ) from error
    for _, old in _listed(folder)[KEEP:]:
        shutil.rmtree(old, ignore_errors=True)
    return path


def newest_checkpoint(folder: Path, run: Mapping[str, Any]) -> Checkpoint | None:
    """The newest complete checkpoint under `folder`, or None if the run wrote none yet.

    Raises:
        CheckpointError: it is of another run (the message names what differs), or all of them are damaged.
    """
    listed = _listed(folder)
    for _, path in listed:
        checkpoint = _read(path)
        if checkpoint is not None:
            refuse_other_run(path, checkpoint.run, run)
            return checkpoint
    if listed:
        raise CheckpointError(f"every checkpoint under {folder} is damaged: remove that folder to train from the start")
    return None


def has_checkpoints(folder: Path) -> bool:
    """Whether a run has written checkpoints under `folder`."""
    return bool(_listed(folder))


def refuse_other_run(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Check that what is at `path` belongs to this run.

    Raises:
        CheckpointError: it does not; the message names what differs.
    """
    differing = list(_differences(found, wanted, ""))
    if differing:
        raise CheckpointError(
            f"{path} is of another run: {'; '.join(differing[:4])}: resume with the same settings, or choose another "
            "folder"
        )


def _differences(found: Any, wanted: Any, where: str) -> Iterator[str]:
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        for key in sorted({*found, *wanted}):
            inner = f"{where}.{key}" if where else str(key)
            yield from _differences(found.get(key, _MISSING), wanted.get(key, _MISSING), inner)
    elif found != wanted:
        yield f"{where} was {_short(found)} and is {_short(wanted)} now"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _listed(folder: Path) -> list[tuple[int, Path]]:
    """Checkpoints by update, newest first."""
    numbered = [(path.name.removeprefix("update-"), path) for path in folder.glob("update-*")]
    return sorted(((int(number), path) for number, path in numbered if number.isdecimal()), reverse=True)


def _read(path: Path) -> Checkpoint | None:
    """The checkpoint at `path`, or None if a byte of it is missing or wrong."""
    try:
        manifest = json.loads((path / _MANIFEST).read_bytes())
        files = {name: (path / name).read_bytes() for name in (_TENSORS, _STATE)}
    except (OSError, ValueError):
        return None
    if any(hashlib.sha256(data).hexdigest() != manifest.get(name) for name, data in files.items()):
        return None
    state = json.loads(files[_STATE])
    return Checkpoint(state["update"], load(files[_TENSORS]), state["run"])
