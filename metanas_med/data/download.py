"""Download of MSD tasks from the addresses that MONAI knows, with verified checksums and safe unpacking."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import tarfile
import tempfile
import zlib
from pathlib import Path, PurePosixPath
from tarfile import EOFHeaderError  # type: ignore[attr-defined]

from ..errors import DataError, StorageError, suggest
from ..files import storage_error
from ..parse import brief, no_file

try:
    from lzma import LZMAError as _LZMAError
except ImportError:  # some builds of Python lack it
    _LZMAError = EOFError  # type: ignore[assignment, misc]

#: errors of the disk that names in an archive cause: too long, a file where a folder is, and the other way round
_BAD_NAMES = (errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.ENOTEMPTY, errno.EILSEQ)
logger = logging.getLogger(__name__)

#: Larger than any unpacked MSD task (liver: 27 GB), small enough to stop an archive that never ends.
MAX_BYTES = 100 * 2**30
MAX_MEMBERS = 100_000
#: An archive may always unpack to this much; beyond it, to this many times its own size. Scans compress to a tenth at best.
FREE_BYTES, MAX_RATIO = 2**30, 100
_MAX_HEAD = 2**20  # bytes of a long name or of extended headers, which tarfile reads into memory
_MAX_PADDING = 2**20  # zeros after the end mark


def download_task(name: str, target: Path) -> Path:
    """Return the folder ``target/name`` of an MSD task; downloads and unpacks it if it does not exist yet.

    ``name`` may be short ("Task04"). Raises DataError for an unknown task, a missing network, a wrong checksum
    or an unsafe archive, and then leaves nothing in ``target``.
    """
    resource, checksums = _known()
    full = next((known for known in resource if name.lower() in (known.lower(), known.partition("_")[0].lower())), None)
    if full is None:
        raise DataError(f"unknown task {name!r}; {suggest(name, resource)}")
    folder = Path(target) / full
    if folder.exists():
        if not (folder / "dataset.json").is_file():
            raise DataError(f"{folder} exists but holds no dataset.json; remove it or choose another folder")
        return folder
    try:
        Path(target).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target, prefix=".download-") as temporary:
            archive = Path(temporary) / f"{full}.tar"
            _fetch(full, resource[full], checksums[full], archive)
            unpacked = safe_extract(archive, Path(temporary) / "unpacked")
            inner = unpacked / full
            if not (inner / "dataset.json").is_file():
                raise DataError(f"the archive of {full} holds no {full}/dataset.json; nothing was kept")
            os.replace(inner, folder)
    except OSError as error:
        raise storage_error(folder, error) from error
    return folder


def _known() -> tuple[dict[str, str], dict[str, str]]:
    """Return MONAI's addresses and MD5 sums, by task."""
    from monai.apps.datasets import DecathlonDataset  # imported here because it takes 5 s

    return dict(DecathlonDataset.resource), dict(DecathlonDataset.md5)


def _fetch(name: str, address: str, checksum: str, archive: Path) -> None:
    """Write the archive, or raise DataError with a one-line message."""
    from urllib.error import ContentTooShortError, URLError

    from monai.apps import utils

    utils.logger.setLevel(logging.CRITICAL)  # our error says it in one line
    # MONAI downloads into the system's temporary folder, which may be smaller than a task: use the target's disk
    usual, tempfile.tempdir = tempfile.tempdir, str(archive.parent)
    try:
        utils.download_url(address, archive, hash_val=checksum, hash_type="md5", progress=os.isatty(2))
    except ContentTooShortError as error:
        raise DataError(f"the download of {name} was interrupted; try again") from error
    except URLError as error:
        raise DataError(f"cannot download {name}: {error.reason}. Is there a network? The address is {address}") from error
    except utils.HashCheckError as error:
        raise DataError(f"the download of {name} has a wrong checksum (expected MD5 {checksum}); try again") from error
    except (ConnectionError, TimeoutError, RuntimeError) as error:
        raise DataError(f"cannot download {name}: {' '.join(str(error).split())}") from error
    finally:
        tempfile.tempdir = usual


def safe_extract(archive: Path, target: Path) -> Path:
    """Return ``target`` after unpacking a tar archive's regular files and folders into it; ``target`` must not exist.

    ``._*`` files (macOS) are skipped. Raises DataError for a member that is not a file or folder, for a path that leaves
    ``target`` and for an archive that is far too large; ``target`` is then not created. Owners, modes and times are not restored.
    """
    target = Path(target)
    if os.path.lexists(target):
        raise DataError(f"{target} already exists")
    if reason := no_file(archive):
        raise DataError(f"{archive}: {reason}")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=".unpack-"))
    try:
        try:
            with tarfile.open(archive, "r:*", tarinfo=_Member) as opened:
                _extract_members(opened, temporary, archive)
                _check_end(opened)
        except OSError as error:
            if error.errno not in (None, *_BAD_NAMES):  # a full disk, no permission
                raise
            raise DataError(f"{archive.name} cannot be unpacked: {error.strerror or error}; not unpacked") from error
        except (tarfile.TarError, EOFError, zlib.error, _LZMAError, ValueError, OverflowError, MemoryError) as error:
            reason = " ".join(str(error).partition(":\n")[0].split())[:200] or type(error).__name__
            raise DataError(f"{archive.name} is not a complete tar archive: {reason}") from error
        os.chmod(temporary, 0o755)
        os.replace(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return target


class _Member(tarfile.TarInfo):
    """A member whose long headers are bounded; it notes whether the archive ends with its end mark."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> _Member:
        try:
            return super().fromtarfile(tarfile)  # type: ignore[return-value]
        except EOFHeaderError:
            tarfile.found_end = True  # type: ignore[attr-defined]
            raise

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if not (self.isreg() or self.size <= _MAX_HEAD):
            raise tarfile.ReadError(f"a header of {self.size} bytes")
        if self.size < 0:
            raise tarfile.ReadError(f"a member of {self.size} bytes")
        return super()._proc_member(archive)  # type: ignore[misc]


def _check_end(opened: tarfile.TarFile) -> None:
    """Raise ReadError if an archive has no end mark, or much behind it; reads to the end, where checksums are compared."""
    if not getattr(opened, "found_end", False):  # tarfile itself ignores the rest after a damaged member
        raise tarfile.ReadError("it ends before its end mark")
    rest = opened.fileobj.read(_MAX_PADDING + 1)  # type: ignore[union-attr]
    if any(rest) or len(rest) > _MAX_PADDING:
        raise tarfile.ReadError("found bytes behind its end mark")


def _extract_members(opened: tarfile.TarFile, target: Path, archive: Path) -> None:
    total = 0
    free = shutil.disk_usage(target).free
    most = min(MAX_BYTES, max(FREE_BYTES, MAX_RATIO * archive.stat().st_size))
    spelled: dict[str, str] = {}
    for count, member in enumerate(opened, 1):
        path = checked_path(member)
        if any(part.startswith("._") for part in path.parts):
            continue
        total += member.size
        if count > MAX_MEMBERS or total > most:
            raise DataError(f"{archive.name} unpacks to more than {MAX_MEMBERS} files or {most >> 30} GiB; not unpacked")
        for place in (path, *path.parents):  # some disks keep one file for both spellings
            if spelled.setdefault(str(place).casefold(), str(place)) != str(place):
                raise DataError(f"{archive.name}: {brief(member.name)} appears twice, in other letters; not unpacked")
        if total > free:
            raise StorageError(f"{archive.name} needs more than the {free >> 20} MiB that are free at {target.parent}")
        place = target.joinpath(*path.parts)
        if member.isdir():
            place.mkdir(parents=True, exist_ok=True)
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        source = opened.extractfile(member)
        if source is None or place.exists():
            raise DataError(f"{archive.name}: {brief(member.name)} appears twice or has no content; not unpacked")
        with source, open(place, "xb") as out:
            shutil.copyfileobj(source, out, 2**20)


def checked_path(member: tarfile.TarInfo) -> PurePosixPath:
    """Return a member's relative path; raises DataError unless it is a file or folder inside the target."""
    name = member.name
    path = PurePosixPath(name)
    if not (member.isfile() or member.isdir()) or member.issparse():
        raise DataError(f"archive member {brief(name)} is neither a plain file nor a folder; not unpacked")
    if (
        path.is_absolute()
        or ".." in path.parts
        or "\\" in name
        or not name.isprintable()
        or (path.parts and ":" in path.parts[0])
    ):
        raise DataError(f"archive member {brief(name)} would leave the target folder or is no plain name; not unpacked")
    return path
