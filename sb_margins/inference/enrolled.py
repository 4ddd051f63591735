"""Speakers who are known by name, kept in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sb_margins.encoder import check_fingerprint
from sb_margins.errors import UserError, nearest
from sb_margins.files import read_arrays, write_whole
from sb_margins.similarity import similarity_from

FORMAT = 2
_ARRAYS = ("format", "model", "names", "sums", "counts")


class EnrolledSet:
    """Named speakers, each as the centre of the embeddings of their utterances.

    The centre is the one of the similarity (`Similarity.centre`): the mean of the
    embeddings as it prepares them. Sums are kept, so utterances can be added later.

    Arguments
    ---------
    model : str
        The fingerprint of the model whose embeddings these are.
    path : str or Path, optional
        The file that keeps the set; None keeps it in memory only.
    similarity : optional
        How embeddings are compared, see `sb_margins.similarity.similarity_from`;
        default: cosine.

    Example
    -------
    >>> people = EnrolledSet("model-1")
    >>> people.add("ann", torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
    2
    >>> people.names, people.centres()
    (['ann'], tensor([[0.5000, 0.5000]]))
    """

    def __init__(
        self, model: str, path: str | Path | None = None, similarity: Any = None
    ) -> None:
        self.model = model
        self.path = None if path is None else Path(path)
        self.similarity = similarity_from(similarity)
        self.names: list[str] = []
        self._rows: dict[str, int] = {}
        self._sums = np.zeros((0, 0))  # [speakers, D] of prepared embeddings
        self._counts = np.zeros(0, np.int64)
        self._centres: Tensor | None = None

    @classmethod
    def open(cls, path: str | Path, model: str, similarity: Any = None) -> EnrolledSet:
        """The set that a file keeps; an empty one when there is no file yet.

        Arguments
        ---------
        path : str or Path
            An ``.npz`` file.
        model : str
            The fingerprint of the model in use.
        similarity : optional
            The model's; default: cosine.

        Returns
        -------
        EnrolledSet

        Raises
        ------
        UserError
            When the file is damaged, or was made with another model.
        """
        people = cls(model, path, similarity)
        path = Path(path)
        if path.is_dir():
            raise UserError(
                f"{path} is a folder; name a file such as {path}/people.npz"
            )
        if path.exists():
            people._take(read_arrays(path))
        return people

    def _take(self, arrays: dict[str, np.ndarray]) -> None:
        path = self.path
        if not {"format", "model", "names"} <= set(arrays):
            raise UserError(f"{path} is not a set of enrolled speakers")
        check_fingerprint(
            str(arrays["model"]),
            self.model,
            str(path),
            "Enroll the recordings again, in another file.",
        )
        damaged = UserError(f"{path} is damaged; restore it or enroll again")
        if str(arrays["format"]) != str(FORMAT) or set(arrays) != set(_ARRAYS):
            raise damaged
        names, sums, counts = (arrays[name] for name in ("names", "sums", "counts"))
        speakers = (len(names),) if names.ndim == 1 and names.dtype.kind == "U" else ()
        sound = (
            sums.ndim == 2
            and sums.dtype.kind == "f"
            and counts.dtype.kind == "i"
            and sums.shape[:1] == counts.shape == speakers
            and len(set(names.tolist())) == len(names)
            and all(map(_is_name, names.tolist()))
            and bool(np.isfinite(sums).all())
            and bool((counts > 0).all())
        )
        if not sound:
            raise damaged
        self.names = names.tolist()
        self._rows = {name: i for i, name in enumerate(self.names)}
        self._sums = sums.astype(np.float64)
        self._counts = counts.astype(np.int64)

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def add(self, name: str, embeddings: Tensor, replace: bool = False) -> int:
        """Add utterances of a speaker, new or known.

        Arguments
        ---------
        name : str
            The speaker.
        embeddings : torch.Tensor
            [N, D], N >= 1.
        replace : bool
            Forget earlier utterances of this speaker. Default False.

        Returns
        -------
        int
            How many utterances the speaker now has.

        Raises
        ------
        UserError
            For an empty name, or embeddings of another size, zero or not finite.
        """
        if not _is_name(name):
            raise UserError(f"{name!r} is not a name for a speaker")
        prepared = self._prepared(embeddings, f"'{name}'").sum(axis=0, keepdims=True)
        if name not in self._rows:
            self._append([name], prepared, len(embeddings))
            return len(embeddings)
        row = self._rows[name]
        if replace:
            self._sums[row] = self._counts[row] = 0
        self._sums[row] += prepared[0]
        self._counts[row] += len(embeddings)
        self._centres = None
        return int(self._counts[row])

    def add_many(self, names: list[str], embeddings: Tensor) -> None:
        """Add one utterance each of many new speakers, at once.

        Arguments
        ---------
        names : list of str
            N names that are not in the set.
        embeddings : torch.Tensor
            [N, D].

        Raises
        ------
        UserError
            For names that are there already or twice, or bad embeddings.
        """
        known = any(name in self._rows or not _is_name(name) for name in names)
        if known or len(set(names)) != len(names) or len(names) != len(embeddings):
            raise UserError("add_many takes new names, each once, one embedding each")
        self._append(names, self._prepared(embeddings, "add_many"), 1)

    def _prepared(self, embeddings: Tensor, who: str) -> np.ndarray:
        """[N, D] float64 rows as the similarity prepares them, checked."""
        rows = embeddings.detach().cpu().double()
        if rows.dim() != 2 or not len(rows) or not rows.isfinite().all():
            raise UserError(f"{who}: embeddings must be [N, D] finite numbers, N > 0")
        if len(self) and rows.shape[1] != self._sums.shape[1]:
            raise UserError(
                f"{who}: embeddings of {rows.shape[1]} numbers, but the set has "
                f"{self._sums.shape[1]}"
            )
        if not rows.any(dim=1).all():
            raise UserError(f"{who}: an embedding is zero; it has no direction")
        return self.similarity.prepare(rows).numpy()

    def _append(self, names: list[str], sums: np.ndarray, count: int) -> None:
        before = self._sums if len(self) else sums[:0]
        self._rows.update({name: len(self) + i for i, name in enumerate(names)})
        self.names.extend(names)
        self._sums = np.vstack([before, sums])
        self._counts = np.append(self._counts, np.full(len(names), count))
        self._centres = None

    def remove(self, name: str) -> None:
        """Forget a speaker.

        Arguments
        ---------
        name : str
            The speaker.

        Raises
        ------
        UserError
            When there is none of that name.
        """
        if name not in self._rows:
            raise UserError(
                f"no speaker '{name}' is enrolled.{nearest(name, self.names)}"
            )
        row = self._rows[name]
        del self.names[row]
        self._rows = {known: i for i, known in enumerate(self.names)}
        self._sums = np.delete(self._sums, row, axis=0)
        self._counts = np.delete(self._counts, row)
        self._centres = None

    def count(self, name: str) -> int:
        """How many utterances a speaker was enrolled with."""
        return int(self._counts[self._rows[name]])

    def centres(self) -> Tensor:
        """[N, D] float32 centres, in the order of ``names``; kept until a change."""
        if self._centres is None:
            means = self._sums / self._counts[:, None]
            self._centres = torch.from_numpy(means.astype(np.float32))
        return self._centres

    def save(self) -> None:
        """Write the file, whole or not at all.

        Raises
        ------
        UserError
            When the set has no file, or it cannot be written.
        """
        if self.path is None:
            raise UserError("this set has no file; open it with EnrolledSet.open(path)")
        with write_whole(self.path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                format=np.array(FORMAT),
                model=np.array(self.model),
                names=np.array(self.names, dtype=np.str_),
                sums=self._sums.astype(np.float32),
                counts=self._counts,
            )


def _is_name(name: str) -> bool:
    return bool(name) and name == name.strip() and name.isprintable()
