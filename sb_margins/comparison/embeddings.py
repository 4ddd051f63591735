"""The embeddings and prototypes of a finished cell, and the distances between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sb_margins.comparison.cells import MARKER
from sb_margins.comparison.results import CellResult
from sb_margins.data import Manifest
from sb_margins.encoder import SpeakerEncoder
from sb_margins.inference.heads import similarity_of
from sb_margins.inference.results import read_results
from sb_margins.verification.embeddings import Embeddings
from sb_margins.verification.extraction import extract

MOST_TRAIN = 600  # utterances of training speakers


@dataclass
class Geometry:
    """A trained model, as far as distances matter.

    Arguments
    ---------
    result : CellResult
    encoder : SpeakerEncoder
    classifier : Classifier
        With its weights.
    similarity : torch.nn.Module
        How its embeddings are compared.

    Example
    -------
    >>> from sb_margins.classifiers import PoincareClassifier
    >>> from sb_margins.similarity import PoincareSimilarity
    >>> nothing: Any = None
    >>> ball = PoincareClassifier(2, 2, 5.0)
    >>> model = Geometry(nothing, nothing, ball, PoincareSimilarity(5.0))
    >>> model.radii(np.array([[0.1, 0.0], [9.0, 0.0]])).round(3).tolist()
    [0.201, 0.962]
    """

    result: CellResult
    encoder: Any
    classifier: Any
    similarity: Any

    @property
    def hyperbolic(self) -> bool:
        """Whether its distances are Poincaré's."""
        return self.classifier.geometry == "poincare"

    @property
    def prototypes(self) -> np.ndarray | None:
        """[C, D] class weights; None when a class has not exactly one."""
        weight = getattr(self.classifier, "weight", None)
        if weight is None or len(weight) != self.classifier.out_neurons:
            return None
        return weight.detach().numpy()

    def distances(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """[N, M]: hyperbolic of curvature -1, or angles in radians."""
        one, two = (torch.as_tensor(x, dtype=torch.float64) for x in (a, b))
        scores = self.similarity.matrix(one, two).numpy()
        if not self.hyperbolic:
            return np.arccos(np.clip(scores, -1, 1))
        return np.maximum(-scores, 0) * self._root

    def radii(self, a: np.ndarray) -> np.ndarray:
        """[N] distances from the origin of the ball, curvature -1."""
        return self.distances(a, np.zeros((1, a.shape[1])))[:, 0]

    def edge(self) -> float:
        """Largest norm in the disc of curvature -1 that points can have."""
        if self.classifier.metric == "unit":
            return float(self.classifier.curvature) ** -0.5
        return 1.0

    @property
    def _root(self) -> float:
        unit = self.classifier.metric == "unit"
        return 1.0 if unit else float(self.classifier.curvature) ** 0.5


def read_geometry(result: CellResult) -> Geometry | None:
    """The model of a cell.

    Arguments
    ---------
    result : CellResult

    Returns
    -------
    Geometry or None
        None when its head cannot be read back.

    Example
    -------
    >>> from pathlib import Path
    >>> from sb_margins.comparison.plan import Cell
    >>> from sb_margins.comparison.variants import Variant
    >>> cell = Cell(Variant("am"), 1, Path("nowhere"))
    >>> read_geometry(CellResult(cell, [], {}, {}, {}, {}))
    Traceback (most recent call last):
    ...
    sb_margins.errors.UserError: no results folder nowhere ...
    """
    parts = read_results(result.cell.folder)
    if parts.head is None:
        return None
    encoder = SpeakerEncoder.from_modules(parts.modules).eval()
    classifier = parts.head.classifier
    return Geometry(result, encoder, classifier, similarity_of(parts.head))


def embed(model: Geometry, manifest: Manifest, name: str) -> np.ndarray:
    """Embeddings [N, D] of a manifest, kept in the cell's folder.

    Arguments
    ---------
    model : Geometry
    manifest : Manifest
    name : str
        Of the file.

    Returns
    -------
    numpy.ndarray

    Example
    -------
    >>> from pathlib import Path
    >>> from sb_margins.comparison.plan import Cell
    >>> from sb_margins.comparison.variants import Variant
    >>> folder, nothing = getfixture("tmp_path"), None
    >>> (folder / MARKER).touch()
    >>> Embeddings([], np.ones((0, 2), "f")).save(folder / "embeddings_test.npz")
    >>> result = CellResult(Cell(Variant("am"), 1, folder), [], {}, {}, {}, {})
    >>> embed(Geometry(result, 0, 0, 0), Manifest([], folder), "test").shape
    (0, 2)
    """
    folder = model.result.cell.folder
    path = folder / f"embeddings_{name}.npz"
    ids = [u.id for u in manifest]
    if path.is_file() and path.stat().st_mtime >= (folder / MARKER).stat().st_mtime:
        found = Embeddings.load(path)
        if found.ids == ids:
            return found.matrix
    found = extract(model.encoder, manifest, progress=False)
    found.save(path)
    return found.matrix


def evenly(whole: Manifest, most: int) -> Manifest:
    """The first utterances of each speaker, then the second ones, up to a number.

    Example
    -------
    >>> from sb_margins.data import Utterance
    >>> rows = [Utterance(i, i, 1.0, i[0], 16000) for i in ("a1", "a2", "b1")]
    >>> [u.id for u in evenly(Manifest(rows, "."), 2)]
    ['a1', 'b1']
    """
    seen: dict[str, int] = {}
    ranked = []
    for utterance in whole:
        seen[utterance.spk_id] = seen.get(utterance.spk_id, 0) + 1
        ranked.append((seen[utterance.spk_id], utterance))
    ranked.sort(key=lambda pair: pair[0])  # stable: first ones of each speaker first
    return Manifest([u for _, u in ranked[:most]], whole.root)


def about_speakers(manifest: Manifest) -> dict[str, dict[str, str]]:
    """What a manifest tells about each speaker.

    Example
    -------
    >>> from sb_margins.data import Utterance
    >>> one = Utterance("a", "a.wav", 1.0, "s", 16000, {"gender": "f"})
    >>> about_speakers(Manifest([one], "."))
    {'s': {'gender': 'f'}}
    """
    found: dict[str, dict[str, str]] = {}
    for utterance in manifest:
        known = found.setdefault(utterance.spk_id, {})
        known.update({k: str(v) for k, v in utterance.meta.items() if v})
    return found
