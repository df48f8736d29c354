import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from metanas_med.data import download
from metanas_med.data.download import download_task, safe_extract
from metanas_med.errors import DataError, StorageError


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, 0o777
    return info


def archive_of(path: Path, *members: tarfile.TarInfo, content: bytes = b"content", mode: str = "w") -> Path:
    with tarfile.open(path, mode) as out:  # type: ignore[call-overload]
        for info in members:
            if info.type == tarfile.REGTYPE:
                info.size = len(content)
                out.addfile(info, io.BytesIO(content))
            else:
                out.addfile(info)
    return path


def everything_below(folder: Path) -> set[str]:
    return {str(found.relative_to(folder)) for found in folder.rglob("*")}


HOSTILE = {
    "parent": [member("task/../../evil.txt")],
    "absolute": [member("/tmp/metanas-evil.txt")],
    "symlink": [member("task/link", tarfile.SYMTYPE, "/etc")],
    "symlink, then a file through it": [member("task", tarfile.SYMTYPE, ".."), member("task/evil.txt")],
    "hard link": [member("task/a"), member("task/b", tarfile.LNKTYPE, "../../outside.txt")],
    "character device": [member("task/null", tarfile.CHRTYPE)],
    "block device": [member("task/disk", tarfile.BLKTYPE)],
    "pipe": [member("task/pipe", tarfile.FIFOTYPE)],
    "backslash": [member("..\\evil.txt")],
    "drive": [member("C:/evil.txt")],
    "twice": [member("task/a"), member("task/a")],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_leave_nothing(name: str, tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "x.tar", member("task/good.txt"), *HOSTILE[name])
    with pytest.raises(DataError, match="not unpacked"):
        safe_extract(archive, tmp_path / "inside" / "out")
    assert everything_below(tmp_path) == {"x.tar", "inside"}
    assert not Path("/tmp/metanas-evil.txt").exists()


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_plain_files_are_unpacked(mode: str, tmp_path: Path) -> None:
    files = [member(name) for name in ("task/a.txt", "task/._a.txt", "task/sub/b.txt", "._task")]
    archive = archive_of(tmp_path / "x.tar", member("./task", tarfile.DIRTYPE), *files, mode=mode)
    out = safe_extract(archive, tmp_path / "out")
    assert everything_below(out) == {"task", "task/a.txt", "task/sub", "task/sub/b.txt"}
    assert (out / "task/sub/b.txt").read_bytes() == b"content"
    assert not (out / "task/a.txt").stat().st_mode & 0o111
    with pytest.raises(DataError, match="already exists"):
        safe_extract(archive, out)


@pytest.mark.parametrize("damage", ["truncated", "noise", "gzip cut"])
def test_damaged_archives_leave_nothing(damage: str, tmp_path: Path) -> None:
    mode = "w:gz" if "gzip" in damage else "w"
    whole = archive_of(tmp_path / "x.tar", member("task/a.txt"), content=bytes(range(256)) * 400, mode=mode)
    data = whole.read_bytes()
    whole.write_bytes(b"noise" * 3000 if damage == "noise" else data[: len(data) // 2])
    with pytest.raises(DataError, match="not a complete tar"):
        safe_extract(whole, tmp_path / "out")
    assert everything_below(tmp_path) == {"x.tar"}


def test_an_archive_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "MAX_BYTES", 10)
    archive = archive_of(tmp_path / "x.tar", member("a"), member("b"))
    with pytest.raises(DataError, match="more than"):
        safe_extract(archive, tmp_path / "out")
    assert everything_below(tmp_path) == {"x.tar"}


def serve(monkeypatch: pytest.MonkeyPatch, address: str, checksum: str) -> None:
    """Let MONAI know one task."""
    from monai.apps.datasets import DecathlonDataset

    monkeypatch.setattr(DecathlonDataset, "resource", {"Task04_Tiny": address})
    monkeypatch.setattr(DecathlonDataset, "md5", {"Task04_Tiny": checksum})


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the archive of a task that is served from a file:// address."""
    folder = tmp_path / "served"
    folder.mkdir()
    files = [member(f"Task04_Tiny/{name}") for name in ("dataset.json", "._dataset.json")]
    archive = archive_of(folder / "t.tar", *files, content=b"{}")
    checksum = hashlib.md5(archive.read_bytes()).hexdigest()
    serve(monkeypatch, archive.as_uri(), checksum)
    return archive


def test_download_by_short_name_and_again(served: Path, tmp_path: Path) -> None:
    target = tmp_path / "data"
    folder = download_task("task04", target)
    assert folder == target / "Task04_Tiny"
    assert everything_below(target) == {"Task04_Tiny", "Task04_Tiny/dataset.json"}
    served.unlink()
    assert download_task("Task04_Tiny", target) == folder


def test_wrong_checksum_leaves_nothing(served: Path, tmp_path: Path) -> None:
    served.write_bytes(served.read_bytes() + b"x")
    with pytest.raises(DataError, match="wrong checksum"):
        download_task("Task04", tmp_path / "data")
    assert everything_below(tmp_path / "data") == set()


def test_a_missing_network_gives_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # nothing listens on port 1 of this machine
    serve(monkeypatch, "http://127.0.0.1:1/t.tar", "0" * 32)
    with pytest.raises(DataError, match="Is there a network") as caught:
        download_task("Task04", tmp_path / "data")
    assert "\n" not in str(caught.value)
    assert everything_below(tmp_path / "data") == set()


def test_an_unknown_task_suggests_a_similar_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="did you mean 'Task09_Spleen'"):
        download_task("Task9_Spleen", tmp_path)


def test_monai_knows_all_ten_tasks() -> None:
    resource, checksums = download._known()
    assert len(resource) == 10 and resource.keys() == checksums.keys()


def test_a_folder_without_dataset_json_does_not_count_as_a_task(served: Path, tmp_path: Path) -> None:
    (tmp_path / "data" / "Task04_Tiny").mkdir(parents=True)
    with pytest.raises(DataError, match="holds no dataset.json"):
        download_task("Task04", tmp_path / "data")


def test_a_folder_that_cannot_be_created_gives_matching_advice(served: Path, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(StorageError, match=r"cannot write .*Task04_Tiny: File exists\. Choose another folder\.$"):
        download_task("task04", tmp_path / "data")
