"""Scores of a training's development trials, which thresholds are found on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sb_margins.encoder import SpeakerEncoder


def dev_scores(
    modules: Mapping[str, nn.Module],
    results_dir: Path,
    similarity: nn.Module,
    device: str = "cpu",
) -> tuple[np.ndarray, np.ndarray, str] | None:
    """Scores of the development trials, for thresholds.

    Arguments
    ---------
    modules : mapping of str to torch.nn.Module
        The encoder's parts.
    results_dir : Path
        Its ``data`` folder is the prepared corpus.
    similarity : torch.nn.Module
        How embeddings are compared.
    device : str
        Where to compute. Default ``cpu``.

    Returns
    -------
    tuple or None
        scores [N], labels [N], and words for the data; None without dev trials or
        when the audio is not where it was.

    Example
    -------
    >>> dev_scores({}, getfixture("tmp_path"), nn.CosineSimilarity()) is None
    True
    """
    from sb_margins.data import Prepared
    from sb_margins.data.trials import read_trials
    from sb_margins.verification.extraction import extract
    from sb_margins.verification.scoring import score_trials

    folder = results_dir / "data"
    if not (folder / "prepare.json").is_file():
        return None
    prepared = Prepared.load(folder)
    if "dev" not in prepared.splits or not prepared.has_trials("dev"):
        return None
    if not prepared.data_root.is_dir():
        return None
    encoder = SpeakerEncoder.from_modules(modules).eval()
    encoder.to(device)
    trials = read_trials(prepared.trials("dev"))
    with torch.no_grad():
        found = extract(encoder, prepared.manifest("dev"), device=device)
    scores = score_trials(found, trials, similarity)
    if trials.labels is None:
        return None
    return scores, trials.labels, _dev_words(prepared)


def _dev_words(prepared: Any) -> str:
    corpus = str(prepared.info.get("corpus", ""))
    kind = "synthetic demo voices" if corpus == "demo" else prepared.data_root.name
    return f"dev trials of {kind}"
