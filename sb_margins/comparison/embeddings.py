"""The embeddings and prototypes of a finished cell, and the distances between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sb_margins.comparison.cells import MARKER
from sb_margins.comparison.results import CellResult
from sb_margins.data import Manifest
from sb_margins.encoder import SpeakerEncoder
from sb_margins.inference.results import read_results
from sb_margins.similarity import similarity_of
from sb_margins.verification.embed import embed_files
from sb_margins.verification.embeddings import Embeddings


@dataclass
class TrainedModel:
    """A trained model, as far as distances matter."""

    result: CellResult
    encoder: Any
    classifier: Any  # with its weights
    similarity: Any

    @property
    def hyperbolic(self) -> bool:
        return self.classifier.geometry == "poincare"

    @property
    def prototypes(self) -> np.ndarray | None:
        """Class weights [C, D]; None when a class has not exactly one."""
        weight = getattr(self.classifier, "weight", None)
        if weight is None or len(weight) != self.classifier.out_neurons:
            return None
        return weight.detach().numpy()

    def distances(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """[N, M]: Poincaré distances of curvature -1, or angles in radians."""
        one, two = (torch.as_tensor(x, dtype=torch.float64) for x in (a, b))
        scores = self.similarity.matrix(one, two).numpy()
        if not self.hyperbolic:
            return np.arccos(np.clip(scores, -1, 1))
        unit = self.classifier.metric == "unit"
        root = 1.0 if unit else float(self.classifier.curvature) ** 0.5
        return np.maximum(-scores, 0) * root

    def among(self, points: np.ndarray) -> np.ndarray:
        """``distances`` [N, N] between points, exactly symmetric."""
        d = self.distances(points, points)
        d = (d + d.T) / 2
        np.fill_diagonal(d, 0.0)
        return d

    def radii(self, points: np.ndarray) -> np.ndarray:
        """[N] distances from the origin of the ball, curvature -1."""
        return self.distances(points, np.zeros((1, points.shape[1])))[:, 0]

    @property
    def edge(self) -> float:
        """The largest norm of points in the disc of curvature -1."""
        if self.classifier.metric == "unit":
            return float(self.classifier.curvature) ** -0.5
        return 1.0


def read_model(result: CellResult) -> TrainedModel | None:
    """The model of a cell; None when its head is not one of ours."""
    parts = read_results(result.cell.folder)
    if parts.head is None:
        return None
    encoder = SpeakerEncoder.from_modules(parts.modules).eval()
    similarity = similarity_of(parts.head)
    return TrainedModel(result, encoder, parts.head.classifier, similarity)


def embed(model: TrainedModel, manifest: Manifest, name: str) -> np.ndarray:
    """Embeddings [N, D] of a manifest, kept in the cell's folder."""
    folder = model.result.cell.folder
    path = folder / f"embeddings_{name}.npz"
    ids = [u.id for u in manifest]
    if path.is_file() and path.stat().st_mtime >= (folder / MARKER).stat().st_mtime:
        kept = Embeddings.load(path)
        if kept.ids == ids:
            return kept.matrix
    embeddings = embed_files(model.encoder, manifest, progress=False)
    embeddings.save(path)
    return embeddings.matrix


def evenly(whole: Manifest, most: int) -> Manifest:
    """The first utterances of each speaker, then the second ones, up to ``most``."""
    seen: Counter[str] = Counter()
    ranks = []
    for utterance in whole:
        seen[utterance.spk_id] += 1
        ranks.append(seen[utterance.spk_id])
    order = np.argsort(ranks, kind="stable")[:most]
    return Manifest([whole[int(i)] for i in order], whole.root)


def choose_points(
    speakers: Sequence[str], *, most_speakers: int = 10, most_each: int = 8
) -> list[int]:
    """Rows of a few utterances of a few speakers, evenly from the sorted speakers."""
    names = sorted(set(speakers))
    spread = np.linspace(0, len(names) - 1, min(most_speakers, len(names))).round()
    rows: list[int] = []
    for name in (names[int(i)] for i in spread):
        rows += [row for row, s in enumerate(speakers) if s == name][:most_each]
    return rows


def about_speakers(manifest: Manifest) -> dict[str, dict[str, str]]:
    """The metadata of each speaker in a manifest."""
    about: dict[str, dict[str, str]] = {}
    for utterance in manifest:
        known = about.setdefault(utterance.spk_id, {})
        known.update({k: str(v) for k, v in utterance.meta.items() if v})
    return about
