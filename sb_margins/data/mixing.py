"""Old speakers beside new ones: what keeps a model from forgetting them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sb_margins.data.manifest import Manifest
from sb_margins.data.preparation import prepare, recognise
from sb_margins.data.prepared import Prepared
from sb_margins.errors import UserError


def old_speakers(folder: str | Path, place: str | Path) -> Prepared:
    """The corpus of ``old_speakers``: a prepared folder, a results folder with one, or
    recordings, which are prepared in ``place``/old_speakers."""
    for path in (Path(folder), Path(folder) / "data"):
        if (path / "prepare.json").is_file():
            prepared = Prepared.load(path)
            break
    else:
        try:
            save = Path(place) / "old_speakers"
            prepared = prepare(recognise(folder), folder, save)
        except UserError as error:
            raise UserError(f"old_speakers: {error}") from error
    if "train" not in prepared.splits:
        raise UserError(f"old_speakers: {folder} has no training speakers")
    return prepared


def mixed(own: Prepared, old: Prepared) -> tuple[Manifest, list[str]]:
    """The training utterances of both corpora, and remarks.

    Old speakers who share a name or a file with the own corpus, whatever its split, are
    left out: they may be the same people, and nobody may be trained on and tested, or
    be two classes.
    """
    mine, before = own.manifest("train"), old.manifest("train")
    names: set[str] = set()
    files: set[Path] = set()
    for split in own.splits:
        manifest = own.manifest(split)
        names.update(manifest.speakers)
        files.update(_file(manifest, u.wav) for u in manifest)
    names.update(u.spk_id for u in before if _file(before, u.wav) in files)
    kept = [
        replace(u, wav=str(before.path(u).absolute()))
        for u in before
        if u.spk_id not in names
    ]
    left, total = len({u.spk_id for u in kept}), len(before.speakers)
    if not left:
        raise UserError(
            f"old_speakers: all {total} training speakers of {old.folder} are, by name "
            "or file, in your corpus too; rename the speakers there, or leave it out"
        )
    remarks = [f"{left} old speakers are trained on too, {len(kept)} utterances"]
    if left < total:
        remarks += [
            f"{total - left} old speakers are left out: your corpus has their names "
            "or files"
        ]
    return Manifest([*mine, *kept], mine.root), remarks


def _file(manifest: Manifest, wav: str) -> Path:
    return (manifest.root / wav).absolute()
