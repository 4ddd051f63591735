"""Files are written whole or not at all, and locked."""

from __future__ import annotations

import multiprocessing

import pytest

from sb_margins import files
from sb_margins.errors import UserError
from sb_margins.files import hash_file, locked, write_text, write_whole


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), write_whole(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_a_link_and_its_target_is_written(tmp_path):
    target, link = tmp_path / "target.txt", tmp_path / "link.txt"
    target.write_text("old")
    link.symlink_to(target)
    write_text(link, "new")
    assert link.is_symlink() and target.read_text() == "new"


def test_a_device_or_folder_is_refused(tmp_path):
    for path in (tmp_path, "/dev/null"):
        with pytest.raises(UserError, match="is not a file"):
            write_text(path, "x")


def test_what_a_killed_process_left_is_removed_and_what_a_live_one_writes_is_not(
    tmp_path,
):
    path = tmp_path / "a[1].txt"
    dead = multiprocessing.get_context("fork").Process(target=int)
    dead.start()
    dead.join()
    stale = tmp_path / f".a[1].txt.{dead.pid}.part.txt"
    live = tmp_path / ".a[1].txt.1.part.txt"
    folder = tmp_path / f".model.v-1.{dead.pid}.part.v-1"
    (folder / "below").mkdir(parents=True)
    stale.write_text("half")
    live.write_text("half")
    write_text(path, "new")
    assert sorted(tmp_path.iterdir()) == [live, path]


@pytest.mark.parametrize("at_once", [True, False])
def test_a_folder_is_replaced_as_a_whole(tmp_path, monkeypatch, at_once):
    """Also where two folders cannot be exchanged in one step."""
    if not at_once:
        monkeypatch.setattr(files, "_exchange", lambda one, two: False)
    for text in ("first", "second"):
        (tmp_path / ".a.old").mkdir()  # of a killed process
        with files.write_folder(tmp_path / "a") as folder:
            (folder / text).touch()
        assert [path.name for path in (tmp_path / "a").iterdir()] == [text]
        assert [path.name for path in tmp_path.iterdir()] == ["a"]
    with pytest.raises(ZeroDivisionError), files.write_folder(tmp_path / "a") as folder:
        raise ZeroDivisionError
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["second"]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_hash_is_sha256(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"")
    assert hash_file(path).startswith("e3b0c44298fc1c14")
    with pytest.raises(UserError, match="cannot read"):
        hash_file(tmp_path / "none")


def _hold(path, held, release):
    with locked(path):
        held.set()
        release.wait(30)


def test_one_process_holds_a_lock(tmp_path):
    path = tmp_path / "a"
    context = multiprocessing.get_context("fork")
    held, release = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(path, held, release))
    other.start()
    assert held.wait(30)
    with pytest.raises(UserError, match="taken"), locked(path, busy="taken"):
        pass
    release.set()
    other.join()
    with locked(path, busy="taken"):
        pass


def test_the_target_of_a_linked_lock_is_not_touched(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("keep")
    (tmp_path / ".a.lock").symlink_to(precious)
    with pytest.raises(UserError, match="cannot lock"), locked(tmp_path / "a"):
        pass
    assert precious.read_text() == "keep"
