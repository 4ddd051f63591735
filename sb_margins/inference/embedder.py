"""The encoding half of the verifier: audio in, embeddings out, padding nowhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from speechbrain.inference.speaker import SpeakerRecognition
from torch import Tensor, nn

from sb_margins.audio import Recording, read_recording
from sb_margins.encoder import SpeakerEncoder
from sb_margins.errors import UserError
from sb_margins.inference.model_folder import find_folder, load_folder
from sb_margins.verification.embed import embed_files

PathLike = str | Path


class SpeakerEmbedder(SpeakerRecognition):
    """Loads a model, reads files, makes embeddings; `SpeakerVerifier` adds the rest.

    Embeddings have shape [B, D] whatever the network.

    Arguments
    ---------
    modules : dict of str to torch.nn.Module
        ``compute_features``, ``mean_var_norm``, ``embedding_model``.
    hparams : dict
        The model's other settings; read here: ``sample_rate``.
    run_opts : dict, optional
        SpeechBrain's run options, e.g. ``{"device": "cuda", "precision": "bf16"}``.
    freeze_params : bool
        No gradients, evaluation mode. Default True.

    Example
    -------
    >>> SpeakerEmbedder.from_hparams("./no_such_model")
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
        SpeakerEncoder.from_modules(modules or {})  # all three are there
        super().__init__(modules, settings, run_opts, freeze_params)
        self.fingerprint = self.encoder.fingerprint()

    @property
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
        **kwargs: Any,
    ) -> Any:
        """Load a model folder or a model of the Hugging Face hub.

        Arguments
        ---------
        source : str or Path
            A folder, or a hub name such as ``speechbrain/spkrec-ecapa-voxceleb``.
        hparams_file : str
            The YAML's name in it.
        trust : bool
            Load as SpeechBrain does: **whatever the model's YAML names is run**, and
            weights may go anywhere the YAML says. Default False: an allow-list.
        overrides : mapping, optional
            Top-level keys to plain values that replace those of the YAML.
        run_opts : dict, optional
            E.g. ``{"device": "cuda", "precision": "bf16"}``.
        **kwargs : dict
            With ``trust=True``, as SpeechBrain's (``savedir``, ``fetch_config``, ...);
            else only ``freeze_params``.

        Returns
        -------
        SpeakerEmbedder
            Of the class it is called on.

        Raises
        ------
        UserError
            Naming what is wrong with the model, or what was refused.
        """
        run_opts = checked_run_opts(run_opts)
        if trust:
            folder = str(source)
            if Path(folder).is_dir() or not kwargs.get("savedir"):
                folder = str(find_folder(source))
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
        """Embeddings of a batch; padding has no influence on them.

        Arguments
        ---------
        wavs : torch.Tensor
            [B, T] or [T] waveforms at the model's rate.
        wav_lens : torch.Tensor, optional
            [B] lengths relative to T. Rows are cut to their own length, and those
            of equal length go through the network together.
        normalize : bool
            Scale embeddings to length 1. Default False.

        Returns
        -------
        torch.Tensor
            [B, D] float32.
        """
        wavs = torch.as_tensor(wavs)
        wavs = wavs.unsqueeze(0) if wavs.dim() == 1 else wavs
        if wavs.dim() != 2 or not wavs.shape[0]:
            raise UserError(f"wavs must be [batch, time], not {list(wavs.shape)}")
        wavs = wavs.to(self.device).float()
        if wav_lens is None:
            found = self._encode(wavs)
        else:
            total = wavs.shape[1]
            lens = torch.as_tensor(wav_lens, dtype=torch.float64).reshape(-1)
            if len(lens) != len(wavs) or not ((lens > 0) & (lens <= 1 + 1e-6)).all():
                raise UserError("wav_lens must be one number in (0, 1] for each row")
            ends = (lens * total).round().clamp(1, total).long().tolist()
            rows: list[Tensor | None] = [None] * len(ends)
            for end in sorted(set(ends)):
                same = [i for i, own in enumerate(ends) if own == end]
                for i, row in zip(same, self._encode(wavs[same, :end]), strict=True):
                    rows[i] = row
            found = torch.stack([row for row in rows if row is not None])
        if normalize:
            found = torch.nn.functional.normalize(found, dim=-1)
        return found

    def _encode(self, wavs: Tensor) -> Tensor:
        """[B, T] of one true length to [B, D]."""
        with torch.no_grad(), self.inference_ctx:
            found = self.encoder(wavs).float()
        if not torch.isfinite(found).all():
            raise UserError("the network gave an embedding that is not finite")
        return found

    def read(self, path: PathLike) -> Recording:
        """Read a file for this model; see `sb_margins.inference.read_recording`."""
        return read_recording(path, self.sample_rate)

    def load_audio(self, path: PathLike, savedir: Any = None) -> Tensor:
        """A file as a waveform for `encode_batch`.

        Arguments
        ---------
        path : str or Path
            A local file.
        savedir : optional
            Not used; kept for SpeechBrain's signature.

        Returns
        -------
        torch.Tensor
            [T] on the model's device.
        """
        return torch.from_numpy(self.read(path).wav).to(self.device)

    def encode_files(
        self, paths: Sequence[PathLike], notes: dict[str, list[str]] | None = None
    ) -> Tensor:
        """Embeddings of files, each read once, equal lengths together.

        Arguments
        ---------
        paths : sequence of str or Path
            Files; one that is named twice is read once.
        notes : dict, optional
            Filled with what `read_recording` notes, by path.

        Returns
        -------
        torch.Tensor
            [len(paths), D] float32 on the CPU, in the order given.
        """
        names = [str(p) for p in ([paths] if isinstance(paths, (str, Path)) else paths)]
        with self.inference_ctx:
            embeddings = embed_files(
                self.encoder,
                {name: name for name in names},
                similarity=getattr(self, "similarity", None),
                device=self.device,
                progress=False,
            )
        if notes is not None:
            notes.update({name: list(n) for name, n in embeddings.notes.items()})
        return torch.from_numpy(embeddings.matrix[embeddings.rows(names)])

    def forward(self, wavs: Tensor, wav_lens: Tensor | None = None) -> Tensor:
        """As `encode_batch`."""
        return self.encode_batch(wavs, wav_lens)


def checked_run_opts(run_opts: Any) -> Any:
    """SpeechBrain's run options, their device one that is there."""
    if not isinstance(run_opts, Mapping):
        return run_opts
    device = run_opts.get("device")
    try:
        kind = torch.device(device or "cpu").type
    except RuntimeError as error:
        raise UserError(f"no such kind of device: {device}") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device {device} is wanted but there is no GPU here")
    return dict(run_opts)
