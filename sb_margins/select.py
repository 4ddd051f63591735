"""A head by name: ``hparams/losses/<name>.yaml`` is the one place that defines it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sb_margins.errors import UserError, nearest
from sb_margins.head import Head

PLUMBING = ("classifier", "compute_cost", "base_head", "equation", "source", "about")
SIZES = ("input_size", "out_neurons")


def hparams_dir() -> Path:
    """The folder that has ``losses/``: beside the package, or inside it."""
    package = Path(__file__).resolve().parent
    for folder in (package.parent / "hparams", package / "hparams"):
        if (folder / "losses").is_dir():
            return folder
    raise UserError("no hparams folder beside or in sb_margins: install it again")


def names() -> list[str]:
    """Names of the losses, sorted."""
    return sorted(p.stem for p in (hparams_dir() / "losses").glob("*.yaml"))


def _path(loss: str) -> Path:
    if loss not in names():
        guess = nearest(str(loss), names())
        raise UserError(f"no loss '{loss}'.{guess} There are: {', '.join(names())}")
    return hparams_dir() / "losses" / f"{loss}.yaml"


def scalars(loss: str) -> dict[str, Any]:
    """Top-level plain values of a loss's YAML, nothing built."""
    import yaml

    class Plain(yaml.SafeLoader):
        """Tags (!new:, !ref, ...) become None; only plain values matter here."""

    Plain.add_multi_constructor("!", lambda *_: None)
    with open(_path(loss), encoding="utf-8") as stream:
        values = yaml.load(stream, Loader=Plain)
    return {
        k: v for k, v in values.items() if not (v is None and k in PLUMBING + SIZES)
    }


def settings(loss: str) -> dict[str, Any]:
    """The settings of a loss with their defaults, without the sizes.

    >>> settings("as")
    {'delta': 0.1, 'scale': 30.0, 'sub_centers': 1}
    """
    return {k: v for k, v in scalars(loss).items() if k not in PLUMBING + SIZES}


def head(
    loss: str,
    input_size: int,
    out_neurons: int,
    margin: float | None = None,
    scale: float | None = None,
    delta: float | None = None,
    curvature: float | None = None,
    store: bool | str | None = "auto",
    options: Mapping[str, Any] | None = None,
    **more: Any,
) -> Head:
    """Build a head by the name of its loss.

    Arguments
    ---------
    loss : str
        One of :func:`names`.
    input_size : int
        Size of the embeddings.
    out_neurons : int
        Number of training speakers.
    margin, scale, delta, curvature : float, optional
        Override the YAML's; None leaves it.
    store : bool or str
        See :class:`~sb_margins.head.Head`. Default ``"auto"``, also for None.
    options : mapping, optional
        Other settings of that YAML (``sub_centers``, ``satisfied``, ...).
    **more
        The same, as keywords.

    Raises
    ------
    ValueError
        For an unknown loss, or a setting that the loss does not have.

    Example
    -------
    >>> head("ham", input_size=8, out_neurons=4, margin=0.1).loss.margin
    0.1
    """
    from hyperpyyaml import load_hyperpyyaml

    given = {"margin": margin, "scale": scale, "delta": delta, "curvature": curvature}
    given |= dict(options or {}) | more
    given = {k: v for k, v in given.items() if v is not None}
    known = settings(loss)
    for name in given:
        if name not in known:
            defaults = ", ".join(f"{k}={v}" for k, v in known.items()) or "none"
            raise UserError(
                f"the loss '{loss}' has no setting '{name}'.{nearest(name, known)} "
                f"Its settings: {defaults}"
            )
    overrides = {"input_size": input_size, "out_neurons": out_neurons, **given}
    with open(_path(loss), encoding="utf-8") as stream:
        parts = load_hyperpyyaml(stream, overrides)
    store = "auto" if store is None else store
    return Head(parts["classifier"], parts["compute_cost"], store=store)
