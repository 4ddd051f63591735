"""Mini LibriSpeech (OpenSLR 31): real readers, 66 of them, about 460 MB to fetch.

``LibriSpeech/{train-clean-5,dev-clean-2}/<speaker>/<chapter>/*.flac``. All readers
of train-clean-5 are trained on; those of dev-clean-2 are divided among the splits.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sb_margins.data.audio_files import walk
from sb_margins.data.corpus import Corpus, Entry, Listing
from sb_margins.data.splitting import shuffled
from sb_margins.errors import UserError

PARTS = ("train-clean-5", "dev-clean-2")
ADDRESS = "https://www.openslr.org/resources/31"
DEV_SHARE, TEST_SHARE = 0.25, 0.4


def default_folder(seed: int, options: Mapping[str, Any]) -> Path:
    """Where it goes when no folder is given.

    Arguments
    ---------
    seed : int
    options : mapping
        Not used.

    Returns
    -------
    Path

    Example
    -------
    >>> default_folder(1, {}).name
    'mini_librispeech'
    """
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "sb_margins" / "mini_librispeech"


def collect(folder: Path, *, seed: int, address: str = ADDRESS) -> Listing:
    """Unpack (fetching when needed) and list the corpus.

    Arguments
    ---------
    folder : Path
        Holds ``LibriSpeech/``, or ``train-clean-5.tar.gz`` and
        ``dev-clean-2.tar.gz``, or is where they will be fetched to.
    seed : int
        Of the division of dev-clean-2's readers.
    address : str
        Where the archives come from.

    Returns
    -------
    Listing

    Raises
    ------
    UserError
        When an archive cannot be fetched or is damaged.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> for name in ("train-clean-5/1/2/1-2-0000", "dev-clean-2/3/4/3-4-0000"):
    ...     path = folder / "LibriSpeech" / f"{name}.flac"
    ...     path.parent.mkdir(parents=True)
    ...     path.touch()
    >>> collect(folder, seed=1).entries[0].id
    '1-2-0000'
    """
    root = folder / "LibriSpeech" if folder.name != "LibriSpeech" else folder
    for part in PARTS:
        if not (root / part).is_dir():
            _unpack(_archive(root.parent, part, address), root, part)
    gender = _genders(root / "SPEAKERS.TXT")
    held = {p.name for p in (root / PARTS[1]).iterdir() if p.is_dir()}
    order = shuffled(held, seed, "mini_librispeech")
    n_dev, n_test = round(DEV_SHARE * len(order)), round(TEST_SHARE * len(order))
    split = dict.fromkeys(order[:n_dev], "dev")
    split.update(dict.fromkeys(order[n_dev : n_dev + n_test], "test"))
    entries = []
    for part in PARTS:
        for name in walk(root / part):
            speaker = name.split("/")[0]
            entries.append(
                Entry(
                    Path(name).stem,
                    f"{part}/{name}",
                    speaker,
                    split.get(speaker, "train"),
                    {"gender": gender[speaker]} if speaker in gender else {},
                )
            )
    if not entries:
        raise UserError(f"no audio in {root}: remove it, and it is unpacked again")
    return Listing(root, entries)


def _archive(folder: Path, part: str, address: str) -> Path:
    """The archive, fetched when it is not there; never half of one."""
    archive = folder / f"{part}.tar.gz"
    if archive.is_file():
        return archive
    from speechbrain.utils.data_utils import download_file

    partial = folder / f"{part}.partial"
    partial.unlink(missing_ok=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        download_file(f"{address}/{part}.tar.gz", str(partial))
    except OSError as error:
        raise UserError(
            f"cannot fetch {address}/{part}.tar.gz ({error}). Fetch {part}.tar.gz on "
            f"another machine and put it in {folder}; or use the demo corpus, which "
            "needs no network"
        ) from error
    partial.replace(archive)
    return archive


def _unpack(archive: Path, root: Path, part: str) -> None:
    """Into a folder beside, then renamed: an interruption leaves nothing half."""
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=".unpacking-") as place:
        try:
            with tarfile.open(archive) as tar:
                if hasattr(tarfile, "data_filter"):
                    tar.extractall(place, filter="data")
                else:
                    tar.extractall(place)
        except (tarfile.TarError, EOFError, OSError) as error:
            raise UserError(
                f"{archive} is damaged ({error}): remove it, and it is fetched again"
            ) from error
        inside = Path(place) / "LibriSpeech"
        if not (inside / part).is_dir():
            raise UserError(
                f"{archive} holds no LibriSpeech/{part}: it is another archive"
            )
        for table in inside.glob("*.TXT"):
            shutil.move(table, root / table.name)
        (inside / part).replace(root / part)


def _genders(path: Path) -> dict[str, str]:
    """From lines ``reader | sex | subset | minutes | name``."""
    if not path.is_file():
        return {}
    gender = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        words = [word.strip() for word in line.split("|")]
        if not line.startswith(";") and len(words) > 2 and words[1] in ("M", "F"):
            gender[words[0]] = words[1].lower()
    return gender


CORPUS = Corpus(
    "mini_librispeech",
    "Mini LibriSpeech: 66 real readers, fetched when it is not there",
    collect,
    help={"address": "where its archives come from"},
    default_folder=default_folder,
)
