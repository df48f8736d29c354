"""Atomic writes: a file is complete, or it does not exist."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import DataError, StorageError
from .machine import is_running, machine_tag

#: data sets in a cache folder; a name that begins with a dot is an unfinished file of a killed run
CACHE_FILES = "[!.]*.h5"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: errors that name a cause outside the program
_REPORTED = (*_NO_ROOM, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.EIO, errno.ESTALE, errno.ENODEV)
#: unfinished files and folders: the machine and the process that write them. Older versions noted neither
_UNFINISHED = re.compile(r"\.(?:tmp|draft)-(?P<tag>[0-9a-f]{6})-(?P<pid>\d+)-|\.draft\.[a-z0-9_]{8}$|\.[a-z0-9_]{8}\.[^.]+\.h5$")
#: age after which an unfinished file of another machine is taken to be of a job that ended
_OLD_SECONDS = 24 * 3600.0


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path next to ``path`` (same suffixes); rename it to ``path`` if the block succeeds.

    On any error the temporary file is removed and ``path`` is unchanged. If ``path`` is a link, the file replaces the link
    and the link's target is unchanged. Raises StorageError if the disk is full or the folder is not writable.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # the end of the name is enough for writers that look at suffixes, and a long name must not become too long
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=_prefix("tmp"), suffix="." + path.name[-40:])
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
        if error.errno in _REPORTED:
            raise storage_error(path, error) from error
        raise
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_folder(path: Path | str, last: Sequence[str] = ()) -> Iterator[Path]:
    """Yield a temporary folder; at the end its files are moved to ``path``, which may exist; those of ``last`` last, in order.

    The temporary folder is in ``path`` if that exists, else next to it. On any error it is removed and ``path`` is unchanged.
    Raises StorageError as ``atomic_path`` does.
    """
    path = Path(path)
    # an existing folder may be on another disk than its parent, or its parent may not be writable
    place = path if os.path.isdir(path) else path.parent
    try:
        place.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=place, prefix=_prefix("draft")))
    except OSError as error:
        raise storage_error(path, error) from error
    try:
        yield draft
        try:
            path.mkdir(exist_ok=True)  # an ordinary folder, because mkdtemp makes private ones
            turn = {name: number for number, name in enumerate(last)}
            for file in sorted(draft.iterdir(), key=lambda file: (turn.get(file.name, -1), file.name)):
                os.replace(file, path / file.name)
        except OSError as error:
            raise storage_error(path, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _prefix(kind: str) -> str:
    """Return the start of the name of an unfinished file, which says whose it is."""
    return f".{kind}-{machine_tag()}-{os.getpid()}-"


def clear_leftovers(folder: Path | str, gone: tuple[str, int] | None = None) -> int:
    """Return how many unfinished files and drafts below ``folder`` were removed: those of jobs that have ended.

    Such are those of a process of this machine that no longer runs, of the process ``gone`` (its machine's tag and its
    number), and all that nobody changed for a day. Hidden files of other programs stay.
    """
    num_removed = 0
    for place, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path, found = Path(place, name), _UNFINISHED.match(name)
            if found and _is_left(path, found["tag"], int(found["pid"] or 0), gone):
                num_removed += 1
                if name in folders:
                    folders.remove(name)
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    with suppress(OSError):
                        path.unlink()
    return num_removed


def _is_left(path: Path, tag: str | None, pid: int, gone: tuple[str, int] | None) -> bool:
    if tag and ((tag, pid) == gone or (tag == machine_tag() and not is_running(pid))):
        return True
    try:
        return os.lstat(path).st_mtime < time.time() - _OLD_SECONDS
    except OSError:
        return False


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
    elif error.errno in (errno.EIO, errno.ESTALE, errno.ENODEV):
        advice = "Check the disk or the network drive."
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
