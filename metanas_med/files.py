"""Atomic writes: a file is there whole, or it is not there."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import DataError, StorageError

#: data sets in a cache folder; a name that begins with a dot is a draft, of a run that was killed
CACHE_FILES = "[!.]*.h5"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` (same suffixes); rename it to ``path`` when the block ends well.

    On any error the temporary file is removed and ``path`` stays as it was. Where ``path`` is a link, the file takes its place; what it points
    to stays as it was.
    Raises StorageError when the disk is full or the folder cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix="." + path.name)
    except OSError as error:
        raise storage_error(path, error) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        # mkstemp makes files private; give them the mode that an ordinary open() would have
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno in (*_NO_ROOM, errno.EACCES, errno.EROFS):
            raise storage_error(path, error) from error
        raise
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_folder(path: Path | str, last: str = "") -> Iterator[Path]:
    """Yield a temporary folder; at the end its files are moved to ``path``, which may exist already; ``last`` is the last.

    It lies in ``path`` where that exists, else beside it. On any error it is removed and ``path`` stays as it was. Raises StorageError as
    ``atomic_path`` does.
    """
    path = Path(path)
    # a folder that is there may be on another disk than what is beside it, or be open in a closed one
    place = path if os.path.isdir(path) else path.parent
    try:
        place.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=place, prefix=".draft."))
    except OSError as error:
        raise storage_error(path, error) from error
    try:
        yield draft
        try:
            path.mkdir(exist_ok=True)  # an ordinary folder: mkdtemp makes private ones
            for file in sorted(draft.iterdir(), key=lambda file: (file.name == last, file.name)):
                os.replace(file, path / file.name)
        except OSError as error:
            raise storage_error(path, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def check_folder(path: Path | str) -> None:
    """Raise StorageError where no folder ``path`` can be made or written to: before the work whose results are to go there."""
    path = Path(path)
    # os.path says no where a folder may not be entered, pathlib raises
    place = next(p for p in (path, *path.absolute().parents) if os.path.lexists(p))
    if os.path.islink(place) and not os.path.exists(place):
        raise StorageError(
            f"cannot write {path}: {place} is a link to {os.path.realpath(place)}, which is not there. Make that folder or choose another --out."
        )
    if not os.path.isdir(place):
        raise StorageError(f"cannot write {path}: {place} is a file, expected a folder. Choose another --out.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise StorageError(f"cannot write {path}: {place} may not be written to. Choose another --out.")


def default_cache() -> Path:
    """Return where data sets given as folders are cached when no cache is named: a folder each, since two may share a name."""
    return Path(os.environ.get("METANAS_MED_CACHE") or "~/.cache/metanas_med").expanduser()


def storage_error(path: Path, error: OSError) -> StorageError:
    """Return what to raise where ``path`` could not be written for ``error``, with advice that fits it."""
    if error.errno in _NO_ROOM:
        advice = "Free some space or choose another folder."
    elif error.errno in (errno.EACCES, errno.EPERM):
        advice = "Change the permissions of the folder or choose another one."
    elif error.errno == errno.ENAMETOOLONG:
        advice = "Choose a shorter name."
    else:
        advice = "Choose another folder."
    return StorageError(f"cannot write {path}: {error.strerror or error}. {advice}")


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path | str, text: str) -> None:
    """Write UTF-8 ``text`` to ``path`` atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path | str, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_csv(path: Path | str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
    """Write ``rows`` as CSV, atomically; the columns are those of the first row unless given.

    A name that ends in ``.xz`` is compressed, to the same bytes each time. The other form of the table, with or without ``.xz``, is removed:
    there is one.
    """
    path = Path(path)
    names = list(columns if columns is not None else (rows[0] if rows else ()))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows(rows)
    data = text.getvalue().encode()
    compressed = path.suffix == ".xz"
    if compressed:
        import lzma  # late: some builds of Python lack it

        data = lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)
    write_bytes(path, data)
    (path.with_suffix("") if compressed else path.with_name(path.name + ".xz")).unlink(missing_ok=True)


def read_csv(path: Path | str) -> list[dict[str, str]]:
    """Return the rows of a CSV that ``write_csv`` wrote; DataError where a compressed one is damaged."""
    path = Path(path)
    data = path.read_bytes()
    if path.suffix == ".xz":
        import lzma

        try:
            data = lzma.decompress(data)
        except lzma.LZMAError as error:
            raise DataError(
                f"{path} is damaged ({' '.join(str(error).split())}); take it anew from where it comes from."
            ) from error
    return list(csv.DictReader(io.StringIO(data.decode(), newline="")))


def csv_path(path: Path) -> Path:
    """Return where the table ``path``, a ``.csv``, is: there, or compressed beside it (``.csv.xz``)."""
    compressed = path.with_name(path.name + ".xz")
    return compressed if compressed.exists() else path


def sha256_file(path: Path | str) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()
