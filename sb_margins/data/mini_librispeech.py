"""Mini LibriSpeech (OpenSLR 31): real readers, 66 of them, about 460 MB to fetch.

``LibriSpeech/{train-clean-5,dev-clean-2}/<speaker>/<chapter>/*.flac``. All readers
of train-clean-5 are trained on; those of dev-clean-2 are divided among the splits.
"""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from pathlib import Path

from sb_margins.data.corpus import (
    Corpus,
    Entry,
    Listing,
    genders,
    refuse_other_files,
    walk,
)
from sb_margins.data.splitting import shuffled
from sb_margins.errors import UserError
from sb_margins.files import unpack

PARTS = ("train-clean-5", "dev-clean-2")
ADDRESS = "https://www.openslr.org/resources/31"
DEV_SHARE, TEST_SHARE = 0.25, 0.4


def collect(folder: Path, *, seed: int, address: str = ADDRESS) -> Listing:
    """Unpack (fetching when needed) and list the corpus.

    ``folder`` holds ``LibriSpeech/``, or ``train-clean-5.tar.gz`` and
    ``dev-clean-2.tar.gz``, or is where they will be fetched to.
    """
    root = folder / "LibriSpeech" if folder.name != "LibriSpeech" else folder
    for part in PARTS:
        if not (root / part).is_dir():
            _unpack(_archive(root.parent, part, address), root, part)
    gender = genders(root / "SPEAKERS.TXT", r"\|")
    readers = {p.name for p in (root / PARTS[1]).iterdir() if p.is_dir()}
    order = shuffled(readers, seed, "mini_librispeech")
    n_dev, n_test = round(DEV_SHARE * len(order)), round(TEST_SHARE * len(order))
    split = dict.fromkeys(order[:n_dev], "dev")
    split.update(dict.fromkeys(order[n_dev : n_dev + n_test], "test"))
    entries = []
    for part in PARTS:
        for name in walk(root / part):
            reader = name.split("/")[0]
            meta = {"gender": gender[reader]} if reader in gender else {}
            path, split_name = f"{part}/{name}", split.get(reader, "train")
            entries.append(Entry(Path(name).stem, path, reader, split_name, meta))
    if not entries:
        raise UserError(f"no audio in {root}: remove it, and it is unpacked again")
    return Listing(root, entries)


def _archive(folder: Path, part: str, address: str) -> Path:
    """The archive, fetched when it is not there; never half of one."""
    archive = folder / f"{part}.tar.gz"
    if archive.is_file():
        return archive
    own = "|".join(("LibriSpeech", *(rf"{p}\.(tar\.gz|partial)" for p in PARTS)))
    refuse_other_files(folder, "mini_librispeech", own)
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
            unpack(archive, place)
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


CORPUS = Corpus(
    "mini_librispeech",
    "Mini LibriSpeech: 66 real readers, fetched when it is not there",
    collect,
    help={"address": "where its archives come from"},
    writes=True,
)
