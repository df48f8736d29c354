"""Faults of downloaded archives: members that leave the folder, are no files, or unpack to far more than there is."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from metanas_med.data.download import safe_extract
from metanas_med.errors import UserError

from .corpus import Fault, special_files

CONTENT = b"a scan" * 50
KINDS = {"a symbolic link": tarfile.SYMTYPE, "a hard link": tarfile.LNKTYPE}
Member = tuple[tarfile.TarInfo, bytes]


def member(
    name: str, content: bytes = CONTENT, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644, **fields: Any
) -> Member:
    """Return the head and the content of a member of an archive."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, mode
    info.size = len(content) if kind == tarfile.REGTYPE else 0
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def archive_of(*members: Member) -> bytes:
    """Return the bytes of a tar archive."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content) if info.isreg() else None)
    return out.getvalue()


GOOD = (member("Task/dataset.json"), member("Task/imagesTr/a.nii.gz"))
WHOLE = archive_of(*GOOD)


def read(path: Path) -> dict[str, bytes]:
    """Return the files that an archive was unpacked to. After an error nothing may be left, anywhere."""
    place = path.parent
    before = {found for found in place.rglob("*")}
    try:
        out = safe_extract(path, place / "in" / "out")
    except UserError:
        left = {found for found in place.rglob("*")} - before - {place / "in"}
        assert not left, f"left behind: {left}"
        raise
    found = {str(file.relative_to(out)): file.read_bytes() for file in out.rglob("*") if file.is_file()}
    for file in out.rglob("*"):
        mode = file.lstat().st_mode
        assert stat.S_ISREG(mode) or stat.S_ISDIR(mode), file
        assert not mode & (stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX), f"{file} has mode {mode:o}"
    assert {found for found in place.rglob("*") if out not in (found, *found.parents)} - before - {place / "in"} == set()
    return found


def _right(found: Any) -> bool:
    return found == {"Task/dataset.json": CONTENT, "Task/imagesTr/a.nii.gz": CONTENT}


def _bytes(
    name: str, content: bytes, accept: Any = None, valid: bool = False, kind: str = "archives", suffix: str = "tar", **more: Any
) -> Fault:
    def make(folder: Path) -> Path:
        (folder / f"given.{suffix}").write_bytes(content)
        return folder / f"given.{suffix}"

    return Fault(f"{kind}: {name}", kind, make, read, accept, valid, **more)


def _members() -> Iterator[Fault]:
    kind = "members of archives"
    for name in (
        "../evil",
        "Task/../../evil",
        "Task/..",
        "..",
        "/tmp/evil",
        "//evil",
        "Task\\..\\..\\evil",
        "C:/evil",
        "C:evil",
        "Task/./../../evil",
        "Task/" + "a" * 300,
        "a/" * 3000 + "b",
        "",
        ".",
        "./",
        "/",
    ):
        yield _bytes(f"a file called {name[:30]!r}", archive_of(*GOOD, member(name)), kind=kind, named=False)
    for name in ("../evil", "/evil", "Task/../../evil", "Task/" + "a" * 300):
        yield _bytes(
            f"a folder called {name[:30]!r}", archive_of(*GOOD, member(name, kind=tarfile.DIRTYPE)), kind=kind, named=False
        )
    for what, code in KINDS.items():
        for target in ("/etc/passwd", "../../evil", "Task/dataset.json", "nothing", ".", "/dev/zero"):
            yield _bytes(
                f"{what} to {target}", archive_of(*GOOD, member("Task/link", kind=code, link=target)), kind=kind, named=False
            )
        yield _bytes(
            f"{what} to .., then a file through it",
            archive_of(member("Task", kind=code, link=".."), member("Task/evil")),
            kind=kind,
            named=False,
        )
    for what, code in (
        ("a pipe", tarfile.FIFOTYPE),
        ("a character device", tarfile.CHRTYPE),
        ("a block device", tarfile.BLKTYPE),
    ):
        yield _bytes(what, archive_of(*GOOD, member("Task/x", kind=code, devmajor=1, devminor=5)), kind=kind, named=False)
    yield _bytes("a sparse file", archive_of(*GOOD, member("Task/x", kind=tarfile.GNUTYPE_SPARSE)), kind=kind, named=False)
    yield _bytes("an unknown kind", archive_of(*GOOD, member("Task/x", kind=b"Z")), kind=kind, named=False)
    for mode in (0o4755, 0o2755, 0o1777, 0o7777, 0):
        content = archive_of(*(member(info.name, mode=mode, uid=0, uname="root") for info, _ in GOOD))
        yield _bytes(f"files of mode {mode:o}", content, _right, valid=True, kind=kind)
    yield _bytes("a file twice", archive_of(*GOOD, GOOD[0]), kind=kind, named=False)
    yield _bytes("a file twice by two names", archive_of(*GOOD, member("Task/./dataset.json")), kind=kind, named=False)
    yield _bytes("a file where a folder is", archive_of(*GOOD, member("Task/imagesTr")), kind=kind, named=False)
    yield _bytes("a folder where a file is", archive_of(*GOOD, member("Task/dataset.json/x")), kind=kind, named=False)
    yield _bytes(
        "a folder in place of a file",
        archive_of(*GOOD, member("Task/dataset.json", kind=tarfile.DIRTYPE)),
        kind=kind,
        named=False,
    )
    yield _bytes("names that differ in case alone", archive_of(*GOOD, member("Task/Dataset.json")), kind=kind, named=False)
    yield _bytes("folders that differ in case alone", archive_of(*GOOD, member("Task/IMAGESTR/b")), kind=kind, named=False)
    yield _bytes("escapes in a name", archive_of(*GOOD, member("Task/\x1b[2J")), kind=kind, named=False)
    yield _bytes("lines in a name", archive_of(*GOOD, member("Task/a\nb")), kind=kind, named=False)
    yield _bytes(
        "files of macOS", archive_of(*GOOD, member("Task/._dataset.json"), member("._Task")), _right, valid=True, kind=kind
    )


def _bombs() -> Iterator[Fault]:
    kind = "archive bombs"
    zeros = 2**30
    head = member("Task/zeros", b"")[0]
    head.size = zeros
    tar = head.tobuf()
    block = bytes(2**20)
    # one MiB of zeros at a time: a stream of many members
    for suffix, packer in (("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)):
        content = packer(tar) + packer(block) * 60  # the rest is cut off: a larger claim than there is
        yield _bytes(f"1 GiB claimed, {suffix}", content, kind=kind, suffix=f"tar.{suffix}", named=False)
    for size in (2**40, 2**62, 8**11 - 1):
        info = member("Task/zeros", b"")[0]
        info.size = size
        yield _bytes(f"a member of {size} bytes", info.tobuf(tarfile.GNU_FORMAT) + bytes(2048), kind=kind, named=False)
    info = member("Task/zeros", b"")[0]
    info.size = -1024
    yield _bytes("a member of negative size", info.tobuf(tarfile.GNU_FORMAT) + bytes(2048), kind=kind, named=False)
    pax = member("Task/a", b"")[0]
    pax.pax_headers = {"comment": "x" * (8 * 2**20)}
    yield _bytes("a head of 8 MiB", pax.tobuf(tarfile.PAX_FORMAT) + WHOLE, kind=kind, named=False)
    for code in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
        info = member("Task/long", kind=code)[0]
        info.size = 1200 * 2**20
        content = gzip.compress(info.tobuf()) + gzip.compress(block) * 1200
        yield _bytes(f"a head of 1200 MiB, kind {code!r}", content, kind=kind, suffix="tar.gz", named=False)
    info = member("Task/zeros", b"")[0]
    info.size = 2 * zeros
    yield _bytes("1 KB that unpacks to 2 GiB", gzip.compress(info.tobuf()) + gzip.compress(block) * 2, kind=kind, named=False)
    yield _bytes("1 GiB of zeros behind the end", gzip.compress(WHOLE) + gzip.compress(block) * 1024, kind=kind, suffix="tar.gz")
    yield _bytes("a member behind the end", WHOLE + archive_of(member("Task/late")), kind=kind)
    second = bytearray(WHOLE)
    second[1024 + 150] ^= 1
    yield _bytes("a damaged second head", bytes(second), kind=kind)
    for key, value in (
        ("size", "99999999999999999"),
        ("size", "x"),
        ("size", "-5"),
        ("path", "../../evil"),
        ("linkpath", "/etc/passwd"),
        ("GNU.sparse.size", "9" * 30),
        ("GNU.sparse.map", "x"),
    ):
        pax = member("Task/a", b"")[0]
        pax.pax_headers = {key: value}
        content = pax.tobuf(tarfile.PAX_FORMAT) + bytes(1024)
        yield _bytes(
            f"a head that gives {key} {value[:12]}", content, lambda found: found in ({"Task/a": b""}, {}), kind=kind, named=False
        )
    many = archive_of(*(member(f"Task/{number}", b"") for number in range(2000)))
    yield _bytes("2000 empty files", many, lambda found: len(found) == 2000, kind=kind)
    nested = gzip.compress(gzip.compress(gzip.compress(bytes(2**27))))
    yield _bytes("gzip in gzip in gzip", nested, kind=kind, suffix="tar.gz")


def _damaged() -> Iterator[Fault]:
    kind = "damaged archives"
    for suffix, packer in (("tar", bytes), ("tar.gz", gzip.compress), ("tar.bz2", bz2.compress), ("tar.xz", lzma.compress)):
        whole = packer(WHOLE)
        yield _bytes(f"whole, {suffix}", whole, _right, valid=True, kind=kind, suffix=suffix)
        for share in (0.0, 0.1, 0.4, 0.7):
            yield _bytes(f"{share:.0%} of {suffix}", whole[: int(len(whole) * share)], _right, kind=kind, suffix=suffix)
        if suffix != "tar":
            for place in (len(whole) // 3, len(whole) // 2, len(whole) - 3):
                broken = bytearray(whole)
                broken[place] ^= 16
                yield _bytes(f"a bit of byte {place} of {suffix}", bytes(broken), _right, kind=kind, suffix=suffix)
    for place in (0, 100, 124, 148, 156, 257):
        broken = bytearray(WHOLE)
        broken[place] ^= 1
        yield _bytes(f"a bit of byte {place} of the first head", bytes(broken), kind=kind)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed:
        packed.writestr("../evil", "x")
    for name, content in (
        ("zip", out.getvalue()),
        ("text", b"an archive" * 100),
        ("nothing", b""),
        ("zeros", bytes(10_240)),
        ("noise", os.urandom(4096)),
    ):
        yield _bytes(name, content, (lambda found: found == {}) if name == "zeros" else None, kind=kind)
    for name, make in special_files("given.tar"):
        yield Fault(f"{kind}: {name}", kind, make, read)


ARCHIVE_FAULTS = [fault for group in (_members, _bombs, _damaged) for fault in group()]
