"""Files: written whole or not at all, hashed, locked."""

from __future__ import annotations

import codecs
import ctypes
import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from sb_margins.errors import UserError

if TYPE_CHECKING:
    import numpy as np


@contextmanager
def write_whole(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it over ``path`` at the end.

    A reader, or a run after a crash, sees the old file or the new one. The file
    behind a symbolic link is replaced, not the link. After an error the temporary
    file is removed and the old file stays; what a killed process left is removed by
    the next write into the same folder.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise UserError(f"{path} is not a file; name another output")
    with _beside(target, path) as temporary:
        yield temporary
        temporary.replace(target)


@contextmanager
def write_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; put it in the place of ``path`` at the
    end. As `write_whole`: what was there before, or all that is new."""
    target = Path(os.path.realpath(path))
    with _beside(target, path) as temporary:
        temporary.mkdir()
        yield temporary
        old = target.with_name(f".{target.name}.old")
        if target.exists() and not _exchange(temporary, target):
            # Not in one step on this system: a kill here leaves the old folder's
            # content in the one ending in .old.
            _remove(old)
            target.rename(old)
        if not target.exists():
            temporary.rename(target)
        _remove(old)


@contextmanager
def _beside(target: Path, path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``target`` (``path`` in messages), removed at the end."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for left in target.parent.glob(".*.part*"):
            process = re.search(r"\.(\d+)\.part(\..*)?$", left.name)
            if process and not _runs(int(process[1])):
                _remove(left)
        _remove(temporary)
        yield temporary
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _exchange(one: Path, two: Path) -> bool:
    """Swap two paths in one step, where the system can (Linux, macOS)."""
    libc = ctypes.CDLL(None, use_errno=True)
    paths = os.fsencode(one), os.fsencode(two)
    swap = 2  # RENAME_EXCHANGE, RENAME_SWAP
    try:
        if sys.platform == "darwin":
            return libc.renamex_np(*paths, swap) == 0
        here = -100  # AT_FDCWD
        return libc.renameat2(here, paths[0], here, paths[1], swap) == 0
    except AttributeError:
        return False


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's process
    return True


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file whole, with ``\\n`` line ends."""
    with write_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file, or of a UTF-16 one that says so (as PowerShell's)."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text (byte {error.start}). Latin-1? Convert it: "
            f"iconv -f latin1 -t utf-8 '{path}'"
        ) from error
    if "\0" in text:
        raise UserError(f"{path} is not a text file, or is UTF-16 without its mark")
    return text


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON with sorted keys whole: the same content, the same bytes."""
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)
    write_text(path, text + "\n")


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """All arrays of an ``.npz`` file; nothing pickled is read."""
    import numpy as np

    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
            if size > max(1 << 28, 64 * os.path.getsize(path)):
                raise ValueError(f"it unpacks to {size} bytes")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        for array in arrays.values():
            if not isinstance(array, np.ndarray):
                raise ValueError("a member is not an array")
            if array.dtype.kind == "U" and array.dtype.itemsize:
                codes = np.dtype(np.uint32).newbyteorder(array.dtype.byteorder)
                letters = np.ascontiguousarray(array).reshape(-1).view(codes)
                if letters.max(initial=0) > sys.maxunicode:
                    raise ValueError("a text in it is not Unicode")
        return arrays
    except Exception as error:  # damaged archives and arrays fail in every way
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UserError(f"{path} cannot be read as an .npz file: {why}") from error


def unpack(archive: str | Path, folder: str | Path) -> None:
    """A tar archive into a folder, without what points out of it."""
    with tarfile.open(archive) as tar:
        if hasattr(tarfile, "data_filter"):
            tar.extractall(folder, filter="data")
        else:  # before Python 3.10.12 and 3.11.4
            tar.extractall(folder)


def hash_file(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    return digest.hexdigest()


def hash_text(text: str) -> str:
    """The SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def locked(path: str | Path, busy: str | None = None) -> Iterator[IO[str]]:
    """Hold the lock of ``path``, a file of its own (``.<name>.lock``) beside it.

    Waits for the lock, or raises ``UserError(busy)`` when ``busy`` is given and
    another process holds it. The lock lasts as long as the yielded file is open,
    also in a child process that inherits it.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path.with_name(f".{path.name}.lock"), flags, 0o666)
    except OSError as error:
        raise UserError(f"cannot lock {path}: {error.strerror}") from error
    with os.fdopen(descriptor, "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError as error:
            raise UserError(busy or "") from error
        yield file
