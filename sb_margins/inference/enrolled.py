"""Speakers who are known by name, kept in one file."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sb_margins.errors import UserError, nearest

FORMAT = 1
_ARRAYS = ("format", "model", "names", "directions", "norms", "counts")


class EnrolledSet:
    """Named speakers, each as the centre of the embeddings of their utterances.

    The centre of a speaker has the mean direction of the embeddings, each counting
    equally, and their mean length; so for cosine scores it is the usual mean of
    normalised embeddings, and on the Poincaré ball it stays as far out as the
    embeddings themselves. Sums are kept, so utterances can be added later.

    Arguments
    ---------
    model : str
        The fingerprint of the model whose embeddings these are.
    path : str or Path, optional
        The file that keeps the set; None keeps it in memory only.

    Example
    -------
    >>> people = EnrolledSet("model-1")
    >>> people.add("ann", torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
    2
    >>> people.names, people.centres()
    (['ann'], tensor([[1.4142, 1.4142]]))
    """

    def __init__(self, model: str, path: str | Path | None = None) -> None:
        self.model = model
        self.path = None if path is None else Path(path)
        self.names: list[str] = []
        self._rows: dict[str, int] = {}
        self._directions = np.zeros((0, 0), np.float64)
        self._norms = np.zeros(0, np.float64)
        self._counts = np.zeros(0, np.int64)
        self._centres: Tensor | None = None

    @classmethod
    def open(cls, path: str | Path, model: str) -> EnrolledSet:
        """The set that a file keeps; an empty one when there is no file yet.

        Arguments
        ---------
        path : str or Path
            An ``.npz`` file.
        model : str
            The fingerprint of the model in use.

        Returns
        -------
        EnrolledSet

        Raises
        ------
        UserError
            When the file is damaged, or was made with another model.

        Example
        -------
        >>> path = getfixture("tmp_path") / "people.npz"
        >>> people = EnrolledSet.open(path, "model-1")
        >>> _ = people.add("bob", torch.ones(1, 2))
        >>> people.save()
        >>> EnrolledSet.open(path, "model-1").names
        ['bob']
        """
        people = cls(model, path)
        path = Path(path)
        if path.is_dir():
            raise UserError(
                f"{path} is a folder; name a file such as {path}/people.npz"
            )
        if not path.exists():
            return people
        try:
            with np.load(path, allow_pickle=False) as kept:
                found = {name: kept[name] for name in _ARRAYS}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"{path} is not a set of enrolled speakers: {error}") from (
                error
            )
        people._take(found)
        return people

    def _take(self, found: dict[str, np.ndarray]) -> None:
        if int(found["format"]) != FORMAT:
            raise UserError(f"{self.path} is of another version; enroll again")
        if str(found["model"]) != self.model:
            raise UserError(
                f"{self.path} was made with another model; embeddings of different "
                "models cannot be compared, so enroll again in another file"
            )
        names = [str(name) for name in found["names"]]
        directions, norms = found["directions"], found["norms"]
        whole = (
            directions.ndim == 2
            and len(set(names)) == len(names) == len(directions)
            and norms.shape == found["counts"].shape == (len(names),)
            and np.isfinite(directions).all()
            and np.isfinite(norms).all()
            and (found["counts"] > 0).all()
        )
        if not whole:
            raise UserError(f"{self.path} is damaged; restore it or enroll again")
        self.names, self._rows = names, {name: i for i, name in enumerate(names)}
        self._directions = directions.astype(np.float64)
        self._norms = norms.astype(np.float64)
        self._counts = found["counts"].astype(np.int64)

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
            For an empty name, or embeddings of another size or not finite.
        """
        rows = embeddings.detach().cpu().to(torch.float64).numpy()
        if not name or name != name.strip() or not name.isprintable():
            raise UserError(f"{name!r} is not a name for a speaker")
        if rows.ndim != 2 or not len(rows) or not np.isfinite(rows).all():
            raise UserError(
                f"'{name}': embeddings must be [N, D] finite numbers, N > 0"
            )
        if not len(self):
            self._directions = np.zeros((0, rows.shape[1]))
        if rows.shape[1] != self._directions.shape[1]:
            raise UserError(
                f"'{name}': embeddings of {rows.shape[1]} numbers, but the set has "
                f"{self._directions.shape[1]}"
            )
        norms = np.linalg.norm(rows, axis=1)
        if (norms == 0).any():
            raise UserError(f"'{name}': an embedding is zero; it has no direction")
        if name not in self._rows:
            self._rows[name] = len(self.names)
            self.names.append(name)
            self._directions = np.vstack([self._directions, np.zeros(rows.shape[1])])
            self._norms = np.append(self._norms, 0.0)
            self._counts = np.append(self._counts, 0)
        row = self._rows[name]
        if replace:
            self._directions[row] = self._norms[row] = self._counts[row] = 0
        self._directions[row] += (rows / norms[:, None]).sum(axis=0)
        self._norms[row] += norms.sum()
        self._counts[row] += len(rows)
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
        known = [name for name in names if name in self._rows]
        if known or len(set(names)) != len(names) or len(names) != len(embeddings):
            raise UserError("add_many takes new names, each once, one embedding each")
        rows = embeddings.detach().cpu().to(torch.float64).numpy()
        norms = np.linalg.norm(rows, axis=1)
        if not np.isfinite(norms).all() or not (norms > 0).all():
            raise UserError("embeddings must be finite and not zero")
        if len(self) and rows.shape[1] != self._directions.shape[1]:
            raise UserError("embeddings have another size than those of the set")
        before = self._directions if len(self) else rows[:0]
        self._rows.update({name: len(self) + i for i, name in enumerate(names)})
        self.names.extend(names)
        self._directions = np.vstack([before, rows / norms[:, None]])
        self._norms = np.concatenate([self._norms, norms])
        self._counts = np.concatenate([self._counts, np.ones(len(names), np.int64)])
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
        row = self._rows.pop(name)
        del self.names[row]
        self._rows = {known: i for i, known in enumerate(self.names)}
        self._directions = np.delete(self._directions, row, axis=0)
        self._norms = np.delete(self._norms, row)
        self._counts = np.delete(self._counts, row)
        self._centres = None

    def count(self, name: str) -> int:
        """How many utterances a speaker was enrolled with."""
        return int(self._counts[self._rows[name]])

    def centres(self) -> Tensor:
        """[N, D] float32 centres, in the order of ``names``; kept until a change."""
        if self._centres is None:
            length = np.linalg.norm(self._directions, axis=1, keepdims=True)
            mean = (self._norms / np.maximum(self._counts, 1))[:, None]
            centres = self._directions / np.maximum(length, 1e-12) * mean
            self._centres = torch.from_numpy(centres.astype(np.float32))
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
        made = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with made.open("wb") as file:
                np.savez(
                    file,
                    format=np.array(FORMAT),
                    model=np.array(self.model),
                    names=np.array(self.names, dtype=np.str_),
                    directions=self._directions.astype(np.float32),
                    norms=self._norms,
                    counts=self._counts,
                )
            made.replace(self.path)
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error}") from error
        finally:
            made.unlink(missing_ok=True)


@contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Only one process at a time changes a set.

    Arguments
    ---------
    path : str or Path
        The set's file; the lock is a file beside it.

    Example
    -------
    >>> with locked(getfixture("tmp_path") / "people.npz"):
    ...     pass
    """
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        yield
        return
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
