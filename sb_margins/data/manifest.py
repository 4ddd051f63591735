"""One manifest format for every corpus, and the reader of everybody else's."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, overload

from sb_margins.data.tables import read_lines, read_table, write_table
from sb_margins.errors import UserError
from sb_margins.files import read_text

COLUMNS = ("ID", "duration", "wav", "spk_id", "sample_rate")
ID = ("utt_id", "ID", "id")
SPEAKER = ("spk_id", "speaker")
WAV = ("path", "wav", "file")
# How SpeechBrain's manifests say where the corpus is: $data_folder/, {data_root}/.
_PLACEHOLDER = re.compile(r"(\$\w+|\$?\{\w+\})/")


@dataclass(frozen=True, slots=True)
class Utterance:
    """One recording of one speaker."""

    id: str  # its name in trial lists; no white space
    wav: str  # posix path relative to the manifest's root
    duration: float  # seconds; 0 = not known
    spk_id: str  # "" = not known
    sample_rate: int  # Hz, of the file; 0 = not known
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
        """Read a manifest; its form is recognised.

        * a CSV with the columns ``ID,duration,wav,spk_id``, as ours and SpeechBrain's,
          or ``utt_id,spk_id,path``, as the corpus 'folder' has; others are metadata;
        * SpeechBrain's JSON, ``{ID: {"wav": ..., "spk_id": ..., "length": ...}}``;
        * Kaldi's ``wav.scp``, or the folder that holds it; the speakers are those of
          ``utt2spk`` beside it, when it is there;
        * a list of paths, one in a line, which are the IDs as well.

        ``root``: what the paths are relative to; default: the ``data_root`` in the
        ``prepare.json`` beside the manifest, else its folder. Raises a UserError that
        names the line for missing fields, an ID that stands twice, a part of a file
        (``start``) and Kaldi's commands.
        """
        path = Path(path)
        if path.is_dir():
            path /= "wav.scp"
        if not path.is_file():
            raise UserError(f"no manifest {path}. Make it with: sb-margins prepare")
        info = path.with_name("prepare.json")
        ours = info.is_file()
        if root is None and ours:
            root = json.loads(info.read_text(encoding="utf-8"))["data_root"]
        utterances: dict[str, Utterance] = {}
        for row in _rows(path):
            if row.name in utterances:
                raise UserError(f"{row.where}: the ID '{row.name}' stands there twice")
            wav = row.wav
            if not ours and _PLACEHOLDER.match(wav):
                if root is None:
                    raise UserError(
                        f"{row.where}: where is '{wav}'? Give the folder that "
                        f"{wav.split('/')[0]} stands for with --data-folder"
                    )
                wav = _PLACEHOLDER.sub("", wav, count=1)
            try:
                numbers = float(row.duration or 0), row.speaker, int(row.rate or 0)
            except ValueError as error:
                raise UserError(f"{row.where}: {error}") from error
            utterances[row.name] = Utterance(row.name, wav, *numbers, row.meta)
        return cls(utterances.values(), path.parent if root is None else root)

    def write(self, path: str | Path) -> None:
        """Write the CSV whole."""
        extra = list(dict.fromkeys(key for u in self for key in u.meta))
        write_table(
            path,
            (*COLUMNS, *extra),
            (
                (u.id, round(u.duration, 6), u.wav, u.spk_id, u.sample_rate)
                + tuple(u.meta.get(key, "") for key in extra)
                for u in self
            ),
        )

    @property
    def speakers(self) -> list[str]:
        """The distinct speakers that are known, sorted."""
        return sorted({u.spk_id for u in self} - {""})

    def path(self, utterance: Utterance) -> Path:
        """Where the utterance's audio lies."""
        return self.root / utterance.wav

    def by_id(self) -> dict[str, Utterance]:
        """The utterances by their ID."""
        return {u.id: u for u in self}

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


class _Row(NamedTuple):
    where: str  # for messages
    name: str
    wav: str
    speaker: str = ""
    duration: str = ""
    rate: str = ""
    meta: Mapping[str, str] = {}


def _rows(path: Path) -> Iterator[_Row]:
    if path.suffix.lower() == ".json":
        return _json_rows(path)
    if path.suffix.lower() == ".scp":
        return _kaldi_rows(path)
    if path.suffix.lower() == ".csv" or "," in read_text(path).split("\n", 1)[0]:
        return _csv_rows(path)
    return (_Row(f"{path}, line {n}", line, line) for n, line in read_lines(path))


def _csv_rows(path: Path) -> Iterator[_Row]:
    rates = {"duration": ("duration", ""), "sample_rate": ("sample_rate", "")}
    for line, known, meta in read_table(path, ID=ID, wav=WAV, spk_id=SPEAKER, **rates):
        where = f"{path}, line {line}"
        name, wav, speaker, duration, rate = known.values()
        if not (name and wav and speaker):
            raise UserError(f"{where}: no ID, speaker or path")
        if meta.get("stop"):
            _refuse_part(where, meta.get("start"))
        yield _Row(where, name, wav, speaker, duration, rate, meta)


def _json_rows(path: Path) -> Iterator[_Row]:
    text = read_text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:  # too many digits is a ValueError
        raise UserError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected {{ID: {{'wav': ..., 'spk_id': ...}}, ...}}")
    for name, entry in content.items():
        where = f"{path}, '{name}'"
        if not isinstance(entry, dict):
            raise UserError(f"{where}: expected {{'wav': ..., 'spk_id': ...}}")
        wav, speaker = (
            next((entry.pop(key) for key in keys if key in entry), "")
            for keys in (WAV, SPEAKER)
        )
        if isinstance(wav, dict):  # SpeechBrain's {"file", "start", "stop"}
            _refuse_part(where, wav.get("start"))
            wav = wav.get("file")
        if not (name and isinstance(wav, str) and wav):
            raise UserError(f"{where}: no 'wav', the path of a file")
        _refuse_part(where, entry.get("start"))
        seconds, rate = entry.pop("duration", None), entry.pop("sample_rate", None)
        seconds = entry.pop("length", None) if seconds is None else seconds
        meta = {key: str(value) for key, value in entry.items()}
        numbers = str(seconds or ""), str(rate or "")
        yield _Row(where, name, wav, str(speaker), *numbers, meta)


def _kaldi_rows(path: Path) -> Iterator[_Row]:
    if path.with_name("segments").is_file():
        raise UserError(
            f"{path.with_name('segments')}: parts of files are not read. Write them to "
            "files (Kaldi: extract-segments), with a wav.scp of those"
        )
    utt2spk = path.with_name("utt2spk")
    speakers = read_utt2spk(utt2spk) if utt2spk.is_file() else None
    for number, line in read_lines(path):
        where = f"{path}, line {number}"
        name, *rest = line.split(maxsplit=1)
        wav = rest[0] if rest else ""
        if wav.endswith("|"):
            raise UserError(
                f"{where}: '{wav}' is a command, which a manifest may not run. Run it "
                "once, into a file (Kaldi: wav-copy), and name that file"
            )
        if not wav or re.search(r"\.ark:\d+$", wav):
            raise UserError(f"{where}: expected 'utterance path', found '{line}'")
        if speakers is not None and name not in speakers:
            raise UserError(f"{where}: '{name}' is not in {utt2spk}")
        yield _Row(where, name, wav, speakers[name] if speakers else "")


def read_utt2spk(path: str | Path) -> dict[str, str]:
    """The speaker of each utterance: lines ``utterance speaker``, or a CSV."""
    path = Path(path)
    if path.suffix.lower() == ".csv":
        table = read_table(path, ID=ID, spk_id=SPEAKER)
        pairs = [(row.line, [*row.known.values()]) for row in table]
    else:
        pairs = [(number, line.split()) for number, line in read_lines(path)]
    speakers: dict[str, str] = {}
    for number, words in pairs:
        if len(words) != 2 or not all(words):
            raise UserError(f"{path}, line {number}: expected 'utterance speaker'")
        name, speaker = words
        if speakers.setdefault(name, speaker) != speaker:
            raise UserError(
                f"{path}, line {number}: '{name}' is of {speaker}, and of "
                f"{speakers[name]} above"
            )
    return speakers


def _refuse_part(where: str, start: Any) -> None:
    """SpeechBrain's manifests may cut files, which verification does not."""
    if str(start or "0").strip("0."):
        raise UserError(
            f"{where}: it starts at sample {start}; parts of files are not read. Cut "
            "them into files"
        )
