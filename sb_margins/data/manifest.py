"""One manifest format for every corpus: a CSV that SpeechBrain reads as well."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

from sb_margins.data.tables import read_table, write_table
from sb_margins.errors import UserError

COLUMNS = ("ID", "duration", "wav", "spk_id", "sample_rate")


@dataclass(frozen=True, slots=True)
class Utterance:
    """One recording of one speaker."""

    id: str  # its name in trial lists; no white space
    wav: str  # posix path relative to the manifest's root
    duration: float  # seconds
    spk_id: str
    sample_rate: int  # Hz, of the file
    meta: Mapping[str, str] = field(default_factory=dict, hash=False)  # gender, ...


class Manifest(Sequence[Utterance]):
    """The utterances of one split, in order, and the folder they lie in.

    The ``wav`` paths are relative to ``root``.

    >>> one = Utterance("a/1.wav", "a/1.wav", 2.5, "a", 16000)
    >>> manifest = Manifest([one], "corpus")
    >>> manifest.speakers, len(manifest), manifest.path(manifest[0]).as_posix()
    (['a'], 1, 'corpus/a/1.wav')
    """

    def __init__(self, utterances: Iterable[Utterance], root: str | Path) -> None:
        self.root = Path(root)
        self._utterances = list(utterances)

    @classmethod
    def read(cls, path: str | Path, root: str | Path | None = None) -> Manifest:
        """Read a CSV with the columns ``ID,duration,wav,spk_id,sample_rate,...``.

        Also ``utt_id,spk_id,path`` as in the corpus 'folder'; a duration and a rate
        that the table does not have are 0. ``root``: where the audio lies; default:
        the ``data_root`` in the ``prepare.json`` beside the CSV, else the CSV's folder.
        """
        path = Path(path)
        if not path.is_file():
            raise UserError(f"no manifest {path}. Make it with: sb-margins prepare")
        table = read_table(
            path,
            ID=("ID", "utt_id", "id"),
            wav=("wav", "path", "file"),
            spk_id=("spk_id", "speaker"),
            duration=("duration", ""),
            sample_rate=("sample_rate", ""),
        )
        utterances = []
        for line, known, meta in table:
            name, wav, speaker, duration, rate = known.values()
            try:
                numbers = float(duration or 0), speaker, int(rate or 0)
            except ValueError as error:
                raise UserError(f"{path}, line {line}: {error}") from error
            utterances.append(Utterance(name, wav, *numbers, meta))
        manifest = cls(utterances, _root_of(path) if root is None else root)
        if len(manifest.by_id()) != len(manifest):
            raise UserError(f"{path} names an ID twice; every ID must be distinct")
        return manifest

    def write(self, path: str | Path) -> None:
        """Write the CSV whole."""
        extra = list(dict.fromkeys(key for u in self._utterances for key in u.meta))
        write_table(
            path,
            (*COLUMNS, *extra),
            (
                (u.id, round(u.duration, 6), u.wav, u.spk_id, u.sample_rate)
                + tuple(u.meta.get(key, "") for key in extra)
                for u in self._utterances
            ),
        )

    @property
    def speakers(self) -> list[str]:
        """The distinct speakers, sorted."""
        return sorted({u.spk_id for u in self._utterances})

    def path(self, utterance: Utterance) -> Path:
        """Where the utterance's audio lies."""
        return self.root / utterance.wav

    def by_id(self) -> dict[str, Utterance]:
        """The utterances by their ID."""
        return {u.id: u for u in self._utterances}

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """What ``speechbrain.dataio.dataset.DynamicItemDataset`` takes.

        ``wav`` is the absolute path here. Better than ``from_csv`` for odd file
        names: that one takes a ``$`` in a path for a variable.
        """
        return {
            u.id: {
                **u.meta,
                "duration": u.duration,
                "wav": str(self.path(u)),
                "spk_id": u.spk_id,
                "sample_rate": u.sample_rate,
            }
            for u in self._utterances
        }

    def __len__(self) -> int:
        return len(self._utterances)

    def __iter__(self) -> Iterator[Utterance]:
        return iter(self._utterances)

    @overload
    def __getitem__(self, index: int) -> Utterance: ...

    @overload
    def __getitem__(self, index: slice) -> list[Utterance]: ...

    def __getitem__(self, index: int | slice) -> Utterance | list[Utterance]:
        return self._utterances[index]

    def __repr__(self) -> str:
        return f"Manifest({len(self)} utterances, root={str(self.root)!r})"


def _root_of(path: Path) -> Path:
    info = path.parent / "prepare.json"
    if info.is_file():
        return Path(json.loads(info.read_text(encoding="utf-8"))["data_root"])
    return path.parent
