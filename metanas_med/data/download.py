"""Download of MSD tasks from the addresses that MONAI knows, with verified checksums and safe unpacking."""

from __future__ import annotations

import logging
import os
import shutil
import tarfile
import tempfile
import zlib
from pathlib import Path, PurePosixPath

from ..errors import DataError, StorageError, suggest
from ..files import storage_error

logger = logging.getLogger(__name__)

#: Larger than any unpacked MSD task (liver: 27 GB), small enough to stop an archive that never ends.
MAX_BYTES = 100 * 2**30
MAX_MEMBERS = 100_000


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
    if target.exists():
        raise DataError(f"{target} already exists")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=".unpack-"))
    try:
        try:
            with tarfile.open(archive, "r:*") as opened:
                _extract_members(opened, temporary, archive)
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise DataError(f"{archive.name} is not a complete tar archive: {error}") from error
        os.chmod(temporary, 0o755)
        os.replace(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return target


def _extract_members(opened: tarfile.TarFile, target: Path, archive: Path) -> None:
    total = 0
    free = shutil.disk_usage(target).free
    for count, member in enumerate(opened, 1):
        path = checked_path(member)
        if any(part.startswith("._") for part in path.parts):
            continue
        total += member.size
        if count > MAX_MEMBERS or total > MAX_BYTES:
            raise DataError(f"{archive.name} unpacks to more than {MAX_MEMBERS} files or {MAX_BYTES >> 30} GiB; not unpacked")
        if total > free:
            raise StorageError(f"{archive.name} needs more than the {free >> 20} MiB that are free at {target.parent}")
        place = target.joinpath(*path.parts)
        if member.isdir():
            place.mkdir(parents=True, exist_ok=True)
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        source = opened.extractfile(member)
        if source is None or place.exists():
            raise DataError(f"{archive.name}: {member.name!r} appears twice or has no content; not unpacked")
        with source, open(place, "xb") as out:
            shutil.copyfileobj(source, out, 2**20)


def checked_path(member: tarfile.TarInfo) -> PurePosixPath:
    """Return a member's relative path; raises DataError unless it is a file or folder inside the target."""
    name = member.name
    path = PurePosixPath(name)
    if not (member.isfile() or member.isdir()) or member.issparse():
        raise DataError(f"archive member {name!r} is neither a plain file nor a folder; not unpacked")
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or (path.parts and ":" in path.parts[0]):
        raise DataError(f"archive member {name!r} would leave the target folder; not unpacked")
    return path
