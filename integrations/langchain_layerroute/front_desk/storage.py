"""Where the demos keep their files, and who may close and delete them on the two sides of a fork."""

import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from weakref import finalize

from layerroute.forking import ForkSafeLock


class DemoFolder:
    """A folder that was named, or a temporary one, made at first use, that goes when it is removed or left behind.

    Args:
        folder: where it is; None for a temporary one.
        prefix: how the name of a temporary one begins.
    """

    def __init__(self, folder: Path | None, prefix: str) -> None:
        self._folder = folder
        self._prefix = prefix
        self._made: Path | None = None
        self._remove: finalize[..., DemoFolder] | None = None

    def path(self) -> Path:
        """Return the folder, which is there."""
        if self._folder is None and self._made is None:
            self._made = Path(tempfile.mkdtemp(prefix=self._prefix))
            self._remove = finalize(self, shutil.rmtree, self._made, ignore_errors=True)
        folder = self._folder or self._made or Path()
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def remove(self) -> None:
        """Delete a temporary folder; a later use makes another."""
        if self._remove is not None:
            self._remove()
        self._made = self._remove = None

    def leave_to_parent(self) -> None:
        """Make a temporary folder of one's own, in a forked child: the other one is its maker's to delete."""
        if self._remove is not None:
            self._remove.detach()
        self._made = self._remove = None


class SqliteFile:
    """A database of a demo, opened at first use: one connection for all threads, and another one in a forked child.

    Args:
        name: what the file is called.
        folder: where it lives, or None for a temporary folder.
        connect: opens the file at a path, and fills it if it is new.
    """

    def __init__(self, name: str, folder: Path | None, connect: Callable[[Path], sqlite3.Connection]) -> None:
        self._name = name
        self._folder = DemoFolder(folder, f"{Path(name).stem}_")
        self._connect = connect
        self._connection: sqlite3.Connection | None = None
        self._lock = ForkSafeLock(in_child=self._leave_to_parent)

    @contextmanager
    def connected(self) -> Iterator[sqlite3.Connection]:
        """The connection, for one thread at a time."""
        with self._lock:
            if self._connection is None:
                self._connection = self._connect(self._folder.path() / self._name)
            yield self._connection

    def close(self) -> None:
        """Close the file; a temporary one is deleted. A later use starts anew."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            self._folder.remove()

    def _leave_to_parent(self) -> None:
        self._of_parent, self._connection = self._connection, None  # closed here, it would lose its parent's locks
        self._folder.leave_to_parent()
