"""Atomic writes: a file is complete, or it does not exist."""

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

#: data sets in a cache folder; a name that begins with a dot is an unfinished file of a killed run
CACHE_FILES = "[!.]*.h5"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path next to ``path`` (same suffixes); rename it to ``path`` if the block succeeds.

    On any error the temporary file is removed and ``path`` is unchanged. If ``path`` is a link, the file replaces the link
    and the link's target is unchanged. Raises StorageError if the disk is full or the folder is not writable.
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
        # mkstemp makes files private; give them the mode of an ordinary open()
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
    """Yield a temporary folder; at the end its files are moved to ``path``, which may exist, with the file ``last`` moved last.

    The temporary folder is in ``path`` if that exists, else next to it. On any error it is removed and ``path`` is unchanged.
    Raises StorageError as ``atomic_path`` does.
    """
    path = Path(path)
    # an existing folder may be on another disk than its parent, or its parent may not be writable
    place = path if os.path.isdir(path) else path.parent
    try:
        place.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=place, prefix=".draft."))
    except OSError as error:
        raise storage_error(path, error) from error
    try:
        yield draft
        try:
            path.mkdir(exist_ok=True)  # an ordinary folder, because mkdtemp makes private ones
            for file in sorted(draft.iterdir(), key=lambda file: (file.name == last, file.name)):
                os.replace(file, path / file.name)
        except OSError as error:
            raise storage_error(path, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def check_folder(path: Path | str) -> None:
    """Raise StorageError if a folder ``path`` cannot be created or written to; call it before the work that writes there."""
    path = Path(path)
    # os.path returns False for a folder without access, pathlib raises an error
    place = next(p for p in (path, *path.absolute().parents) if os.path.lexists(p))
    if os.path.islink(place) and not os.path.exists(place):
        raise StorageError(
            f"cannot write {path}: {place} is a link to {os.path.realpath(place)}, which does not exist. "
            "Create that folder or choose another --out."
        )
    if not os.path.isdir(place):
        raise StorageError(f"cannot write {path}: {place} is a file, expected a folder. Choose another --out.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise StorageError(f"cannot write {path}: {place} is not writable. Choose another --out.")


def default_cache() -> Path:
    """Return the folder that caches data sets if no cache is given; each gets its own subfolder, because names may repeat."""
    return Path(os.environ.get("METANAS_MED_CACHE") or "~/.cache/metanas_med").expanduser()


def storage_error(path: Path, error: OSError) -> StorageError:
    """Return the StorageError for a ``path`` that could not be written because of ``error``, with matching advice."""
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
    """Write ``value`` as indented JSON, atomically; NaN and infinity raise ValueError."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_csv(path: Path | str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
    """Write ``rows`` as CSV, atomically; the columns are those of the first row unless given.

    A name that ends in ``.xz`` gives a compressed file with reproducible bytes. The other form of the table, with or without
    ``.xz``, is removed, so that only one exists.
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
        import lzma  # imported here because some builds of Python lack it

        data = lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)
    write_bytes(path, data)
    (path.with_suffix("") if compressed else path.with_name(path.name + ".xz")).unlink(missing_ok=True)


def read_csv(path: Path | str) -> list[dict[str, str]]:
    """Return the rows of a CSV file written by ``write_csv``; raises DataError if a compressed file is damaged."""
    path = Path(path)
    data = path.read_bytes()
    if path.suffix == ".xz":
        import lzma

        try:
            data = lzma.decompress(data)
        except lzma.LZMAError as error:
            raise DataError(f"{path} is damaged ({' '.join(str(error).split())}); copy it again from its source.") from error
    return list(csv.DictReader(io.StringIO(data.decode(), newline="")))


def csv_path(path: Path) -> Path:
    """Return the path of the table ``path`` (``.csv``), or of its compressed form (``.csv.xz``) if that exists."""
    compressed = path.with_name(path.name + ".xz")
    return compressed if compressed.exists() else path


def sha256_file(path: Path | str) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()
