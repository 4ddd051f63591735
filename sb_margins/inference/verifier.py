"""`SpeakerVerifier`: a model folder that answers "is this the same person?"."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from speechbrain.inference.speaker import SpeakerRecognition
from torch import Tensor, nn

from sb_margins.audio import Recording, SpeechGate, read_recording
from sb_margins.encoder import SpeakerEncoder
from sb_margins.errors import UserError, printable
from sb_margins.files import locked
from sb_margins.inference.enrolled import EnrolledSet
from sb_margins.inference.model_folder import check_kind, find_folder, load_folder
from sb_margins.inference.thresholds import (
    checked_calibration,
    checked_thresholds,
    checked_warnings,
    choose,
)
from sb_margins.similarity import Similarity, similarity_from
from sb_margins.verification.embed import embed_files
from sb_margins.verification.embeddings import Embeddings

logger = logging.getLogger(__name__)

PathLike = str | Path
PAIRS = 65536  # scored at once


@dataclass(frozen=True)
class Match:
    """One answer of `SpeakerVerifier.identify`: an enrolled speaker, a score (larger:
    more likely this speaker) and whether it is above the threshold (None without one).
    """

    name: str
    score: float
    same: bool | None


class SpeakerVerifier(SpeakerRecognition):
    """Speaker verification and identification with a trained model.

    A SpeechBrain ``SpeakerRecognition`` that adds: a threshold of choice with known
    errors, any similarity, calibrated log-likelihood ratios, batches in which no
    padding leaks into embeddings, several enrolment utterances, identification, and
    loading that runs nothing of what a model's YAML says (`from_hparams`).

    Embeddings have shape [B, D] whatever the network. ``warnings`` lists what to know
    before trusting a decision (e.g. synthetic training voices); they are logged once.
    ``gate`` (None) may be set to a `sb_margins.audio.SpeechGate`, as the verbs do:
    files with too little speech are then refused.

    Arguments
    ---------
    modules : dict of str to torch.nn.Module
        ``compute_features``, ``mean_var_norm``, ``embedding_model``.
    hparams : dict
        The model's other settings; read here: ``similarity``, ``thresholds``,
        ``calibration``, ``warnings``, ``sample_rate``.
    run_opts : dict, optional
        SpeechBrain's run options, e.g. ``{"device": "cuda", "precision": "bf16"}``.
    freeze_params : bool
        No gradients, evaluation mode. Default True.

    Example
    -------
    >>> SpeakerVerifier.from_hparams("./no_such_model")
    Traceback (most recent call last):
    ...
    sb_margins.errors.UserError: no such model folder: ./no_such_model
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module] | None = None,
        hparams: Mapping[str, Any] | None = None,
        run_opts: Any = None,
        freeze_params: bool = True,
    ) -> None:
        settings = dict(hparams or {})
        self.sample_rate = int(settings.get("sample_rate", 16000))
        super().__init__(modules, settings, run_opts, freeze_params)
        self.similarity = _similarity(settings.get("similarity")).to(self.device)
        self.thresholds = checked_thresholds(settings.get("thresholds"))
        self.calibration = checked_calibration(settings.get("calibration"))
        self.gate: SpeechGate | None = None
        self._warned = False
        self.warnings = checked_warnings(settings.get("warnings"), self.thresholds)
        self.fingerprint = self.encoder.fingerprint(self.similarity)
        self.enrolled = EnrolledSet(self.fingerprint, similarity=self.similarity)

    @functools.cached_property
    def encoder(self) -> SpeakerEncoder:
        """Its three modules, from waveforms to embeddings."""
        return SpeakerEncoder.from_modules(self.mods, self.sample_rate)

    @classmethod
    def from_hparams(  # type: ignore[override]
        cls,
        source: PathLike,
        hparams_file: str = "hyperparams.yaml",
        *,
        trust: bool = False,
        overrides: Mapping[str, Any] | None = None,
        run_opts: Any = None,
        device: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Load a model folder or a model of the Hugging Face hub.

        Arguments
        ---------
        source : str or Path
            A folder, or a hub name such as ``speechbrain/spkrec-ecapa-voxceleb``,
            with ``@REVISION`` (branch, tag, commit) where a certain one is wanted.
        hparams_file : str
            The YAML's name in it.
        trust : bool
            Load as SpeechBrain does: **whatever the model's YAML names is run**, and
            weights may go anywhere the YAML says. Default False: an allow-list.
        overrides : mapping, optional
            Top-level keys to plain values that replace those of the YAML.
        run_opts : dict, optional
            E.g. ``{"device": "cuda", "precision": "bf16"}``.
        device : str, optional
            Short for ``run_opts={"device": device}``.
        **kwargs : dict
            With ``trust=True``, as SpeechBrain's (``savedir``, ``fetch_config``, ...);
            else only ``freeze_params``.

        Raises
        ------
        UserError
            Naming what is wrong with the model, or what was refused.
        """
        if device is not None:
            run_opts = {**(run_opts or {}), "device": device}
        _check_device(run_opts)
        if trust:
            folder = str(source)
            if Path(folder).is_dir() or not kwargs.get("savedir"):
                folder = str(check_kind(find_folder(source), hparams_file))
            return super().from_hparams(
                folder,
                hparams_file,
                overrides=dict(overrides or {}),
                run_opts=run_opts,
                **kwargs,
            )
        unknown = set(kwargs) - {"freeze_params"}
        if unknown:
            raise UserError(
                f"from_hparams takes {', '.join(sorted(unknown))} only with trust=True"
            )
        hparams = load_folder(source, hparams_file, overrides)
        return cls(hparams["modules"], hparams, run_opts=run_opts, **kwargs)

    def encode_batch(
        self, wavs: Tensor, wav_lens: Tensor | None = None, normalize: bool = False
    ) -> Tensor:
        """Embeddings [B, D], float32, of a batch; padding has no influence on them.

        Arguments
        ---------
        wavs : torch.Tensor
            [B, T] or [T] waveforms at the model's rate.
        wav_lens : torch.Tensor, optional
            [B] lengths relative to T. Rows are cut to their own length, and those
            of equal length go through the network together.
        normalize : bool
            Scale embeddings to length 1. Default False.
        """
        wavs = torch.as_tensor(wavs)
        wavs = wavs.unsqueeze(0) if wavs.dim() == 1 else wavs
        if wavs.dim() != 2 or not wavs.shape[0]:
            raise UserError(f"wavs must be [batch, time], not {list(wavs.shape)}")
        wavs = wavs.to(self.device).float()
        if wav_lens is None:
            embeddings = self._encode(wavs)
        else:
            total = wavs.shape[1]
            lens = torch.as_tensor(wav_lens, dtype=torch.float64).reshape(-1)
            if len(lens) != len(wavs) or not ((lens > 0) & (lens <= 1 + 1e-6)).all():
                raise UserError("wav_lens must be one number in (0, 1] for each row")
            ends = (lens * total).round().clamp(1, total).long()
            rows: dict[int, Tensor] = {}
            for end in ends.unique().tolist():
                same = (ends == end).nonzero().flatten().tolist()
                rows.update(zip(same, self._encode(wavs[same, :end]), strict=True))
            embeddings = torch.stack([rows[i] for i in range(len(wavs))])
        if normalize:
            embeddings = nn.functional.normalize(embeddings, dim=-1)
        return embeddings

    def _encode(self, wavs: Tensor) -> Tensor:
        """[B, T] of one true length to [B, D]."""
        with torch.no_grad(), self.inference_ctx:
            embeddings = self.encoder(wavs).float()
        if not torch.isfinite(embeddings).all():
            raise UserError("the network gave an embedding that is not finite")
        return embeddings

    def forward(self, wavs: Tensor, wav_lens: Tensor | None = None) -> Tensor:
        """As `encode_batch`."""
        return self.encode_batch(wavs, wav_lens)

    def read(self, path: PathLike) -> Recording:
        """Read a file for this model; see `sb_margins.inference.read_recording`."""
        return read_recording(path, self.sample_rate)

    def load_audio(self, path: PathLike, savedir: Any = None) -> Tensor:
        """A file as a waveform [T] on the model's device; ``savedir`` is not used."""
        return torch.from_numpy(self.read(path).wav).to(self.device)

    def embed(self, paths: PathLike | Sequence[PathLike]) -> Embeddings:
        """Embeddings of files by their paths, with notes, fingerprint and similarity.

        Arguments
        ---------
        paths : str or Path, or several
            Files; one that is named twice is read once.

        Returns
        -------
        sb_margins.verification.embeddings.Embeddings
            With ``save``, for ``sb-margins verify --embeddings``.
        """
        with self.inference_ctx:
            return embed_files(
                self.encoder,
                {path: path for path in _names(paths)},
                similarity=self.similarity,
                model=self.fingerprint,
                device=self.device,
                progress=False,
                gate=self.gate,
            )

    def encode_files(
        self,
        paths: PathLike | Sequence[PathLike],
        notes: dict[str, list[str]] | None = None,
    ) -> Tensor:
        """Embeddings [N, D] of N files, on the CPU; equal lengths go together.

        Arguments
        ---------
        paths : str or Path, or several
            Files; one that is named twice is read once.
        notes : dict, optional
            Filled with what `read_recording` notes, by path.
        """
        names = _names(paths)
        embeddings = self.embed(names)
        if notes is not None:
            notes.update({name: list(n) for name, n in embeddings.notes.items()})
        return torch.from_numpy(embeddings.matrix[embeddings.rows(names)])

    def threshold(self, wanted: str | float | None = None) -> float:
        """A threshold by name or value.

        Arguments
        ---------
        wanted : str or float, optional
            A name in ``thresholds`` (``eer``, ``far1``, ``far0.1``) or a number;
            default: ``eer``.

        Raises
        ------
        UserError
            When this model has none of that name.
        """
        value = choose(self.thresholds, wanted)
        if value is None:
            raise UserError(
                "this model has no calibrated threshold; give threshold= a score found "
                "on trials of your own"
            )
        return value

    def _warn(self) -> None:
        """Log the model's warnings, once."""
        if not self._warned:
            self._warned = True
            for text in self.warnings:
                logger.warning("%s", printable(text))

    def llr(self, score: Any) -> Any:
        """Calibrated log-likelihood ratio (natural logarithm) of scores.

        Above 0 the same speaker is more likely than not, before any prior.

        Arguments
        ---------
        score : float or torch.Tensor or numpy.ndarray
            From any of the verify methods.

        Raises
        ------
        UserError
            When the model was exported without a calibration.
        """
        if self.calibration is None:
            raise UserError("this model was exported without a calibration of scores")
        return self.calibration["scale"] * score + self.calibration["offset"]

    def verify_batch(
        self,
        wavs1: Tensor,
        wavs2: Tensor,
        wav1_lens: Tensor | None = None,
        wav2_lens: Tensor | None = None,
        threshold: str | float | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Scores [B] and decisions [B] for pairs of waveforms [B, T].

        SpeechBrain's have the shape [B, 1]. T may differ between the two; for
        ``threshold`` see `threshold`.
        """
        limit = self.threshold(threshold)
        one = self.encode_batch(wavs1, wav1_lens)
        two = self.encode_batch(wavs2, wav2_lens)
        score = self.similarity(one, two)
        self._warn()
        return score, score > limit

    def verify_files(
        self,
        path_x: PathLike | Sequence[PathLike],
        path_y: PathLike,
        threshold: str | float | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """Score and decision, both 0-dim (SpeechBrain's: [1]), for two files.

        Arguments
        ---------
        path_x : str or Path, or several
            The known voice; several files are enrolled together.
        path_y : str or Path
            The voice in question.
        threshold : str or float, optional
            See `threshold`.
        **kwargs : dict
            ``savedir`` is accepted for SpeechBrain's signature, and not used.
        """
        unknown = set(kwargs) - {"savedir"}
        if unknown:
            raise UserError(f"verify_files does not take {', '.join(sorted(unknown))}")
        limit = self.threshold(threshold)
        score = self.score_files(path_x, path_y)
        self._warn()
        return score, score > limit

    def score_files(
        self,
        path_x: PathLike | Sequence[PathLike],
        path_y: PathLike,
        notes: dict[str, list[str]] | None = None,
    ) -> Tensor:
        """The score of `verify_files` without a decision, 0-dim.

        Arguments
        ---------
        path_x, path_y : str or Path
            As for `verify_files`.
        notes : dict, optional
            Filled with what is poor about the files, by path.
        """
        rows = self.encode_files([*_names(path_x), path_y], notes).to(self.device)
        return self.similarity(self.similarity.centre(rows[:-1]), rows[-1])

    def verify_list(self, pairs: Sequence[tuple[PathLike, PathLike]]) -> np.ndarray:
        """Scores [N] float32 of many pairs; every file is read and encoded once.

        Arguments
        ---------
        pairs : sequence of (path, path)
            N trials.
        """
        if not pairs:
            return np.zeros(0, np.float32)
        sides = [[str(path) for path in side] for side in zip(*pairs, strict=True)]
        embeddings = self.embed(list(dict.fromkeys(sides[0] + sides[1])))
        matrix = torch.from_numpy(embeddings.matrix).to(self.device)
        rows = [torch.from_numpy(embeddings.rows(side)) for side in sides]
        parts = zip(*[row.to(self.device).split(PAIRS) for row in rows], strict=True)
        scores = [self.similarity(matrix[one], matrix[two]) for one, two in parts]
        return torch.cat(scores).float().cpu().numpy()

    def use_enrolled(self, path: PathLike) -> EnrolledSet:
        """Keep enrolled speakers in a file from now on; what is in it.

        Arguments
        ---------
        path : str or Path
            An ``.npz`` file; made at the first `enroll`.
        """
        self.enrolled = EnrolledSet.open(path, self.fingerprint, self.similarity)
        return self.enrolled

    def enroll(
        self,
        name: str,
        files: PathLike | Sequence[PathLike],
        replace: bool = False,
        notes: dict[str, list[str]] | None = None,
    ) -> int:
        """Learn a speaker's voice, or more of it; how many recordings there are now.

        Arguments
        ---------
        name : str
            The speaker.
        files : str or Path, or several
            Recordings of that speaker alone; one that is named twice counts once.
        replace : bool
            Forget earlier recordings of this speaker. Default False.
        notes : dict, optional
            Filled with what is poor about the files, by path.
        """
        rows = self.encode_files(list(dict.fromkeys(_names(files))), notes)
        path = self.enrolled.path
        if path is None:
            return self.enrolled.add(name, rows, replace)
        with locked(path):
            self.use_enrolled(path)  # others may have added speakers meanwhile
            count = self.enrolled.add(name, rows, replace)
            self.enrolled.save()
        return count

    def identify(
        self, file: PathLike, top: int = 5, threshold: str | float | None = None
    ) -> list[Match]:
        """The enrolled speakers who are most like a recording, best first.

        Arguments
        ---------
        file : str or Path
            The recording.
        top : int
            How many to return. Default 5.
        threshold : str or float, optional
            See `threshold`; without any, no decision is made. A threshold found on
            single trials lets more false alarms pass the more speakers there are.

        Raises
        ------
        UserError
            When nobody is enrolled.
        """
        if not len(self.enrolled):
            raise UserError("nobody is enrolled; enroll speakers first")
        self._warn()
        return self.identify_embedding(self.encode_files(file)[0], top, threshold)

    def identify_embedding(
        self, embedding: Tensor, top: int = 5, threshold: str | float | None = None
    ) -> list[Match]:
        """As `identify`, for an ``embedding`` [D] that is there already."""
        limit = choose(self.thresholds, threshold)
        centres = self.enrolled.centres().to(self.device)
        query = embedding.reshape(1, -1).to(self.device).float()
        scores = self.similarity.matrix(query, centres)[0]
        if not torch.isfinite(scores).all():
            raise UserError(
                "some scores are not finite: the enrolled speakers or the embedding "
                "are damaged; enroll again"
            )
        names = self.enrolled.names
        best = scores.topk(min(max(1, top), len(names)))
        return [
            Match(names[i], s, None if limit is None else s > limit)
            for s, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]


def _names(paths: PathLike | Sequence[PathLike]) -> list[str]:
    """One path or several, as text."""
    return [str(p) for p in ([paths] if isinstance(paths, (str, Path)) else paths)]


def _similarity(given: Any) -> Similarity:
    """What compares embeddings, from the ``similarity`` of a model folder."""
    stock = given is None or isinstance(given, (str, nn.CosineSimilarity))
    if not stock and not hasattr(given, "matrix"):
        raise UserError(
            "the model's similarity must be a torch.nn.CosineSimilarity or one of "
            f"sb_margins.similarity, not {type(given).__name__}"
        )
    return similarity_from(given)


def _check_device(run_opts: Any) -> None:
    """Refuse a device that is not there."""
    given = run_opts.get("device") if isinstance(run_opts, Mapping) else None
    device = given or "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise UserError(f"no such kind of device: {device}") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device {device} is wanted but there is no GPU here")
