"""Where the audio of a verification lies."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from sb_margins.data.manifest import Manifest
from sb_margins.data.prepared import Prepared
from sb_margins.errors import UserError

# Where corpora keep the files that their lists name, and what they call them.
PREFIXES = ("", "wav", "test/wav", "dev/wav", "eval", "vox1_test_wav/wav", "data")
SUFFIXES = (".wav", ".flac", ".m4a", ".mp3", ".ogg")


def read_manifests(paths: Iterable[str], root: str | None) -> list[Manifest]:
    """Manifests of files and folders: all splits of one that ``prepare`` wrote.

    ``root`` replaces the folder that their files are relative to.
    """
    manifests = []
    for path in map(Path, paths):
        files = [path]
        if (path / "prepare.json").is_file():
            files = [path / f"{split}.csv" for split in Prepared.load(path).splits]
        manifests += [Manifest.read(file, root) for file in files]
    return manifests


def known_speakers(manifests: Sequence[Manifest]) -> dict[str, str]:
    """The speaker of each utterance, as far as manifests know; the first one counts."""
    return {u.id: u.spk_id for m in reversed(manifests) for u in m if u.spk_id}


def locate(
    names: Collection[str], folder: str | None, manifests: Iterable[Manifest]
) -> tuple[dict[str, Path], list[str]]:
    """The file of each utterance, and the names without one.

    A manifest's file, or one below the data folder and its usual sub-folders, with the
    suffix that the name has, none, or another.
    """
    if folder is not None and not Path(folder).is_dir():
        raise UserError(f"no such data folder: {folder}")
    known: dict[str, Path] = {}
    for manifest in manifests:
        for utterance in manifest:
            known.setdefault(utterance.id, manifest.path(utterance))
    files: dict[str, Path] = {}
    prefixes = list(PREFIXES)
    for name in names:
        path = known.get(name)
        if path is None and folder is not None:
            path = _below(Path(folder), prefixes, name)
        if path is not None:
            files[name] = path
    return files, [name for name in names if name not in files]


def _below(root: Path, prefixes: list[str], name: str) -> Path | None:
    """The file of one name; its prefix goes first: the next file is likely beside."""
    stem = Path(name)
    others = [name + suffix for suffix in SUFFIXES]
    if stem.suffix.lower() in SUFFIXES:
        others = [stem.with_suffix(suffix).as_posix() for suffix in SUFFIXES]
    for number, prefix in enumerate(prefixes):
        for candidate in (name, *others):
            path = root / prefix / candidate
            if path.is_file():
                prefixes.insert(0, prefixes.pop(number))
                return path
    return None
