"""What tells whether a run's folder holds the result, or the beginning, of the run that is asked for.

A folder is that of settings (:func:`~recbole_vsid.trainer.run_folder`), but the files that they name may change. So
the record of a run carries a hash of the files it read, and while a run is not finished the hash stands beside its
checkpoints in ``data_hash``.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path

from recbole_vsid.config import Config
from recbole_vsid.storage import atomic_path, content_hash, read_json

ATOMIC_FILES = (".inter", ".item", ".user", ".kg", ".link", ".net")
CONTENT_FILES = ("content_file", "content_ids", "sid_file", "sid_file_ids")


def data_files(config: Config) -> tuple[Path, ...]:
    """Paths of all data files that a run of ``config`` reads if they are there."""
    folder, name = Path(config["data_path"]), config["dataset"]
    endings = (*ATOMIC_FILES, *(f".{suffix}" for suffix in config["additional_feat_suffix"] or ()))
    files = [folder / f"{name}{ending}" for ending in endings]
    return (*files, *(Path(config[key]) for key in CONTENT_FILES if config[key]))


def data_hash(files: Iterable[Path]) -> str:
    """Hash of the bytes of those of ``files`` that are there."""
    states = [(path, path.stat()) for path in files if path.is_file()]
    return content_hash([(path.name, _file_hash(path, state.st_mtime_ns, state.st_size)) for path, state in states])


@functools.cache
def _file_hash(path: Path, modified: int, size: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


class DataNote:
    """Which files a run reads, noted beside its ``last.pth``, unless the one there is made of other files.

    Args:
        config: of the run.
        folder: of the run.
        resumed: whether it goes on from the ``last.pth`` there, which keeps what was made of the files as they were.
    """

    def __init__(self, config: Config, folder: Path, resumed: bool) -> None:
        self.files, self.path = data_files(config), folder / "data_hash"
        self.hash = data_hash(self.files)
        noted = noted_data(folder)
        self.is_known = not resumed or noted == self.hash
        self._holds = noted == self.hash or not (folder / "last.pth").exists()
        if noted != self.hash:
            self.path.unlink(missing_ok=True)

    def begin(self) -> None:
        """Note it before the training, if that is true of the ``last.pth`` there."""
        if self._holds:
            self.write()

    def write(self, *_: object) -> None:
        """Note it; to be called when this run has written ``last.pth``."""
        if self.is_known and not self.path.exists():
            with atomic_path(self.path) as temporary:
                temporary.write_text(self.hash, encoding="utf-8")

    def result(self) -> str | None:
        """What the run's record is to carry; None if it is made of files as they were at several times."""
        return self.hash if self.is_known and data_hash(self.files) == self.hash else None

    def remove(self) -> None:
        """The record has taken its place."""
        self.path.unlink(missing_ok=True)


def noted_data(folder: Path) -> str | None:
    """Hash of the files that the checkpoints in ``folder`` are made of, if that is known."""
    try:
        return (folder / "data_hash").read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        pass
    try:
        return read_json(folder / "result.json").get("data_hash") if is_finished(folder) else None
    except (OSError, ValueError, AttributeError):  # no record of ours
        return None


def is_finished(folder: Path) -> bool:
    """Whether the result in ``folder`` is not older than the checkpoint there."""
    result, last = folder / "result.json", folder / "last.pth"
    return result.is_file() and (not last.is_file() or result.stat().st_mtime >= last.stat().st_mtime)


def is_interrupted(folder: Path, files_hash: str) -> bool:
    """Whether ``folder`` holds checkpoints made of the files with that hash, and no result of theirs."""
    checkpoints = all((folder / name).is_file() for name in ("last.pth", "best.pth"))
    return checkpoints and not is_finished(folder) and noted_data(folder) == files_hash
