"""Where a verification's audio, model and embeddings come from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sb_margins.data.manifest import Manifest
from sb_margins.data.prepared import Prepared
from sb_margins.errors import UserError
from sb_margins.verification.embed import embed_files
from sb_margins.verification.embeddings import Embeddings
from sb_margins.verification.options import VerifyOptions

# Where corpora keep the files that their lists name, and what they call them.
PREFIXES = ("", "wav", "test/wav", "dev/wav", "eval", "vox1_test_wav/wav", "data")
SUFFIXES = (".wav", ".flac", ".m4a", ".mp3", ".ogg")


@dataclass
class Located:
    """Files and speakers by utterance name.

    Arguments
    ---------
    files : dict of str to Path
    missing : list of str
        Names without a file.
    speakers : dict of str to str
        Of the names that a manifest knows.

    Example
    -------
    >>> Located({}, ["a"], {}).missing
    ['a']
    """

    files: dict[str, Path]
    missing: list[str]
    speakers: dict[str, str]


def read_manifests(paths: Iterable[str], root: str | None) -> list[Manifest]:
    """Manifests of CSVs and prepared folders.

    Arguments
    ---------
    paths : iterable of str
    root : str, optional
        Replaces the folder that their files are relative to.

    Returns
    -------
    list of Manifest

    Example
    -------
    >>> path = Path(getfixture("tmpdir")) / "dev.csv"
    >>> header = "ID,duration,wav,spk_id,sample_rate\\n"
    >>> _ = path.write_text(header + "a/1.wav,2.0,a/1.wav,a,16000\\n")
    >>> [len(manifest) for manifest in read_manifests([str(path)], root="corpus")]
    [1]
    """
    found = []
    for path in paths:
        base: str | Path | None = root
        if Path(path).is_dir():
            prepared = Prepared.load(path)
            csvs = [prepared.folder / f"{split}.csv" for split in prepared.splits]
            base = root or prepared.data_root
        else:
            csvs = [Path(path)]
        found += [Manifest.read(csv, base) for csv in csvs]
    return found


def locate(
    names: Iterable[str], data_root: str | None, manifests: Iterable[Manifest]
) -> Located:
    """The file of each utterance: a manifest's, or found under the data root.

    Arguments
    ---------
    names : iterable of str
        Utterances as the trial lists name them.
    data_root : str, optional
        A folder. Names are tried below it and its usual sub-folders (``wav``,
        ``test/wav``, ``eval``, ...), with the suffix they have, none, or another.
    manifests : iterable of Manifest

    Returns
    -------
    Located

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> (folder / "wav" / "id1").mkdir(parents=True)
    >>> _ = (folder / "wav" / "id1" / "1.wav").write_bytes(b"")
    >>> found = locate(["id1/1.wav", "id1/2.wav"], str(folder), [])
    >>> found.files["id1/1.wav"].relative_to(folder).as_posix(), found.missing
    ('wav/id1/1.wav', ['id1/2.wav'])
    """
    if data_root is not None and not Path(data_root).is_dir():
        raise UserError(f"no such data root: {data_root}")
    known: dict[str, Path] = {}
    speakers: dict[str, str] = {}
    for manifest in manifests:
        for utterance in manifest:
            known.setdefault(utterance.id, manifest.path(utterance))
            speakers.setdefault(utterance.id, utterance.spk_id)
    located = Located({}, [], {})
    prefixes = list(PREFIXES)
    for name in names:
        if name in speakers:
            located.speakers[name] = speakers[name]
        path = known.get(name)
        if path is None and data_root is not None:
            path = _below(Path(data_root), prefixes, name)
        if path is None:
            located.missing.append(name)
        else:
            located.files[name] = path
    return located


def _below(root: Path, prefixes: list[str], name: str) -> Path | None:
    stem = Path(name)
    others = [name + s for s in SUFFIXES]
    if stem.suffix.lower() in SUFFIXES:
        others = [stem.with_suffix(s).as_posix() for s in SUFFIXES]
    for number, prefix in enumerate(prefixes):
        for candidate in (name, *others):
            path = root / prefix / candidate
            if path.is_file():
                # The next name most likely lies beside it.
                prefixes.insert(0, prefixes.pop(number))
                return path
    return None


@dataclass
class System:
    """A model ready to embed, or nothing but its name when embeddings are given.

    Arguments
    ---------
    encoder : callable, optional
        [B, T] to [B, D].
    similarity : object, optional
        The model's; None: cosine.
    hash : str
        Of the model's encoder, or of the embeddings' file.
    device : str
    """

    encoder: Callable[[torch.Tensor], torch.Tensor] | None
    similarity: Any
    hash: str
    device: str


def load_system(options: VerifyOptions) -> System:
    """Load the model of the options (only allow-listed classes, plain weights).

    Arguments
    ---------
    options : VerifyOptions

    Returns
    -------
    System
    """
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if options.embeddings:
        return System(None, None, file_hash(options.embeddings), device)
    from sb_margins.inference import SpeakerVerifier

    assert options.model is not None
    model = SpeakerVerifier.from_hparams(options.model, run_opts={"device": device})
    return System(model.encoder, model.similarity, model.fingerprint, device)


def file_hash(path: str | Path) -> str:
    """The first 16 hexadecimal digits of a file's SHA-256.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a"
    >>> _ = path.write_bytes(b"")
    >>> file_hash(path)
    'e3b0c44298fc1c14'
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    return digest.hexdigest()[:16]


def embed(
    system: System, options: VerifyOptions, files: Any, *, skip_bad: bool = False
) -> Embeddings:
    """Embeddings of files with the options' settings and cache.

    Arguments
    ---------
    system : System
    options : VerifyOptions
    files : Manifest or mapping of str to Path
    skip_bad : bool

    Returns
    -------
    Embeddings
    """
    assert system.encoder is not None
    cache: Path | None = Path(options.output_folder) / "cache"
    if options.cache != "auto":
        cache = None if options.cache == "none" else Path(options.cache)
    return embed_files(
        system.encoder,
        files,
        device=system.device,
        cache=cache,
        similarity=system.similarity,
        crops=options.crops,
        crop_seconds=options.crop_seconds,
        bf16=options.precision == "bf16",
        batch_seconds=options.batch_seconds,
        skip_bad=skip_bad,
    )


def load_cohort(
    system: System, options: VerifyOptions
) -> tuple[Embeddings, dict[str, str]]:
    """Embeddings of the cohort, and its speakers.

    Arguments
    ---------
    system : System
    options : VerifyOptions

    Returns
    -------
    tuple of Embeddings and dict of str to str
        The speaker of each utterance: the manifest's, else the first part of names
        like ``id00012/x/1.wav``, else empty.
    """
    assert options.cohort is not None
    path = options.cohort
    speakers: dict[str, str] = {}
    rng = np.random.default_rng(options.seed)
    if path.endswith(".npz"):
        found = Embeddings.load(path)
        chosen = _draw(rng, len(found), options.cohort_size)
        found = Embeddings([found.ids[i] for i in chosen], found.matrix[chosen])
        if all("/" in name for name in found.ids):
            speakers = {name: name.split("/")[0] for name in found.ids}
        return found, speakers
    if system.encoder is None:
        raise UserError(
            "with --embeddings the cohort must be an .npz of the same model"
        )
    if not Path(path).is_file():
        raise UserError(f"no cohort {path}: give a manifest CSV or an .npz")
    (manifest,) = read_manifests([path], None)
    chosen = _draw(rng, len(manifest), options.cohort_size)
    manifest = Manifest([manifest[int(i)] for i in chosen], manifest.root)
    found = embed(system, options, manifest, skip_bad=options.skip_bad)
    return found, {u.id: u.spk_id for u in manifest}


def _draw(rng: np.random.Generator, count: int, wanted: int) -> np.ndarray:
    """Sorted indices: all, or so many without replacement."""
    if wanted <= 0 or wanted >= count:
        return np.arange(count)
    return np.sort(rng.choice(count, wanted, replace=False))
