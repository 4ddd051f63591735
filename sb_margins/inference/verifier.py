"""`SpeakerVerifier`: a model folder that answers "is this the same person?"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sb_margins.errors import UserError
from sb_margins.inference.embedder import PathLike, SpeakerEmbedder
from sb_margins.inference.enrolled import EnrolledSet, locked
from sb_margins.inference.thresholds import (
    checked_calibration,
    checked_thresholds,
    choose,
)
from sb_margins.similarity import CosineSimilarity


@dataclass(frozen=True)
class Match:
    """One answer of `SpeakerVerifier.identify`.

    Arguments
    ---------
    name : str
        An enrolled speaker.
    score : float
        Larger: more likely this speaker.
    same : bool or None
        Whether the score is above the threshold; None without a threshold.

    Example
    -------
    >>> Match("ann", 0.8, True).name
    'ann'
    """

    name: str
    score: float
    same: bool | None


class SpeakerVerifier(SpeakerEmbedder):
    """Speaker verification and identification with a trained model.

    A SpeechBrain ``SpeakerRecognition`` that adds: a threshold of choice with known
    errors, any similarity, calibrated log-likelihood ratios, batches in which no
    padding leaks into embeddings, several enrolment utterances, identification, and
    loading that runs nothing of what a model's YAML says (`from_hparams`).

    Embeddings have shape [B, D] whatever the network.

    Arguments
    ---------
    modules : dict of str to torch.nn.Module
        ``compute_features``, ``mean_var_norm``, ``embedding_model``.
    hparams : dict
        The model's other settings; read here: ``similarity``, ``thresholds``,
        ``calibration``, ``sample_rate``.
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
        super().__init__(modules, hparams, run_opts, freeze_params)
        settings = hparams or {}
        self.similarity = as_similarity(settings.get("similarity")).to(self.device)
        self.thresholds = checked_thresholds(settings.get("thresholds"))
        self.calibration = checked_calibration(settings.get("calibration"))
        self.fingerprint = self.encoder.fingerprint(self.similarity)
        self.enrolled = EnrolledSet(self.fingerprint)

    def threshold(self, wanted: str | float | None = None) -> float:
        """A threshold by name or value.

        Arguments
        ---------
        wanted : str or float, optional
            A name in ``thresholds`` (``eer``, ``far1``, ``far0.1``) or a number;
            default: ``eer``.

        Returns
        -------
        float

        Raises
        ------
        UserError
            When this model has none of that name.
        """
        found = choose(self.thresholds, wanted)
        if found is None:
            raise UserError(
                "this model has no calibrated threshold, so it cannot decide; give "
                "threshold= a score found on trials of your own"
            )
        return found

    def llr(self, score: Any) -> Any:
        """Calibrated log-likelihood ratio (natural logarithm) of scores.

        Arguments
        ---------
        score : float or torch.Tensor or numpy.ndarray
            From any of the verify methods.

        Returns
        -------
        float or torch.Tensor or numpy.ndarray
            Above 0: the same speaker is more likely than not, before any prior.

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
        """Score and decide for pairs of waveforms.

        Arguments
        ---------
        wavs1, wavs2 : torch.Tensor
            [B, T] each (T may differ between the two).
        wav1_lens, wav2_lens : torch.Tensor, optional
            [B] relative lengths.
        threshold : str or float, optional
            See `threshold`.

        Returns
        -------
        score : torch.Tensor
            [B]; larger: more likely the same speaker.
        decision : torch.Tensor
            [B] bool.
        """
        limit = self.threshold(threshold)
        one = self.encode_batch(wavs1, wav1_lens)
        two = self.encode_batch(wavs2, wav2_lens)
        score = self.similarity(one, two)
        return score, score > limit

    def _centre(self, embeddings: Tensor) -> Tensor:
        """[N, D] of one speaker to [1, D], as enrolment does; one stays as it is."""
        if len(embeddings) == 1:
            return embeddings
        people = EnrolledSet(self.fingerprint)
        people.add("speaker", embeddings)
        return people.centres()

    def verify_files(
        self,
        path_x: PathLike | Sequence[PathLike],
        path_y: PathLike,
        threshold: str | float | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """Score and decide for two files.

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

        Returns
        -------
        score : torch.Tensor
            0-dim; larger: more likely the same speaker.
        decision : torch.Tensor
            0-dim bool.
        """
        unknown = set(kwargs) - {"savedir"}
        if unknown:
            raise UserError(f"verify_files does not take {', '.join(sorted(unknown))}")
        limit = self.threshold(threshold)
        score = self.score_files(path_x, path_y)
        return score, score > limit

    def score_files(
        self,
        path_x: PathLike | Sequence[PathLike],
        path_y: PathLike,
        notes: dict[str, list[str]] | None = None,
    ) -> Tensor:
        """The score of two files, without a decision.

        Arguments
        ---------
        path_x : str or Path, or several
            The known voice.
        path_y : str or Path
            The voice in question.
        notes : dict, optional
            Filled with what is poor about the files, by path.

        Returns
        -------
        torch.Tensor
            0-dim.
        """
        known = [path_x] if isinstance(path_x, (str, Path)) else list(path_x)
        found = self.encode_files([*known, path_y], notes).to(self.device)
        centre = self._centre(found[:-1]).to(self.device)
        return self.similarity(centre, found[-1:]).reshape(())

    def verify_list(self, pairs: Sequence[tuple[PathLike, PathLike]]) -> np.ndarray:
        """Scores of many pairs; every file is read and encoded once.

        Arguments
        ---------
        pairs : sequence of (path, path)
            Trials.

        Returns
        -------
        numpy.ndarray
            [len(pairs)] float32 scores.
        """
        pairs = [(str(one), str(two)) for one, two in pairs]
        if not pairs:
            return np.zeros(0, np.float32)
        names = list(dict.fromkeys(name for pair in pairs for name in pair))
        row = {name: i for i, name in enumerate(names)}
        found = self.encode_files(names)
        scores = [
            self.similarity(
                found[[row[one] for one, _ in part]].to(self.device),
                found[[row[two] for _, two in part]].to(self.device),
            ).cpu()
            for part in (pairs[i : i + 65536] for i in range(0, len(pairs), 65536))
        ]
        return torch.cat(scores).numpy().astype(np.float32, copy=False)

    def use_enrolled(self, path: PathLike) -> EnrolledSet:
        """Keep enrolled speakers in a file from now on.

        Arguments
        ---------
        path : str or Path
            An ``.npz`` file; made at the first `enroll`.

        Returns
        -------
        EnrolledSet
            What is in it.
        """
        self.enrolled = EnrolledSet.open(path, self.fingerprint)
        return self.enrolled

    def enroll(
        self,
        name: str,
        files: PathLike | Sequence[PathLike],
        replace: bool = False,
        notes: dict[str, list[str]] | None = None,
    ) -> int:
        """Learn a speaker's voice, or more of it.

        Arguments
        ---------
        name : str
            The speaker.
        files : str or Path, or several
            Recordings of that speaker alone.
        replace : bool
            Forget earlier recordings of this speaker. Default False.
        notes : dict, optional
            Filled with what is poor about the files, by path.

        Returns
        -------
        int
            How many recordings the speaker now has.
        """
        files = [files] if isinstance(files, (str, Path)) else list(files)
        found = self.encode_files(files, notes)
        path = self.enrolled.path
        if path is None:
            return self.enrolled.add(name, found, replace)
        with locked(path):
            self.use_enrolled(path)  # others may have added speakers meanwhile
            count = self.enrolled.add(name, found, replace)
            self.enrolled.save()
        return count

    def identify(
        self, file: PathLike, top: int = 5, threshold: str | float | None = None
    ) -> list[Match]:
        """The enrolled speakers who are most like a recording.

        Arguments
        ---------
        file : str or Path
            The recording.
        top : int
            How many to return. Default 5.
        threshold : str or float, optional
            See `threshold`; without any, no decision is made. A threshold found on
            single trials lets more false alarms pass the more speakers there are.

        Returns
        -------
        list of Match
            Best first.

        Raises
        ------
        UserError
            When nobody is enrolled.
        """
        if not len(self.enrolled):
            raise UserError("nobody is enrolled; enroll speakers first")
        return self.identify_embedding(self.encode_files([file])[0], top, threshold)

    def identify_embedding(
        self, embedding: Tensor, top: int = 5, threshold: str | float | None = None
    ) -> list[Match]:
        """As `identify`, for an embedding that is there already.

        Arguments
        ---------
        embedding : torch.Tensor
            [D].
        top : int
            How many to return. Default 5.
        threshold : str or float, optional
            See `threshold`.

        Returns
        -------
        list of Match
            Best first.
        """
        limit = choose(self.thresholds, threshold)
        centres = self.enrolled.centres().to(self.device)
        query = embedding.reshape(1, -1).to(self.device).float()
        compare: Any = self.similarity
        scores = compare.matrix(query, centres)[0]
        best = scores.topk(min(max(1, top), len(self.enrolled)))
        return [
            Match(self.enrolled.names[i], s, None if limit is None else s > limit)
            for s, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]


def as_similarity(given: Any) -> nn.Module:
    """What compares embeddings, from the ``similarity`` of a model folder."""
    if given is None or isinstance(given, nn.CosineSimilarity) or given == "cosine":
        return CosineSimilarity()
    if isinstance(given, nn.Module) and hasattr(given, "matrix"):
        return given
    raise UserError(
        "the model's similarity must be a torch.nn.CosineSimilarity or one of "
        f"sb_margins.similarity, not {type(given).__name__}"
    )
