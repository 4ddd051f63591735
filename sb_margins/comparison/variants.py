"""A loss with some of its settings: what is drawn or trained side by side."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sb_margins import select
from sb_margins.errors import UserError, nearest
from sb_margins.head import Head

# Settings with a key of their own in the training YAMLs.
OWN_KEYS = ("margin", "scale", "delta", "curvature")


@dataclass(frozen=True)
class Variant:
    """One loss with the settings that were asked for; the others are its defaults.

    Arguments
    ---------
    loss : str
        A name of ``sb-margins losses``.
    settings : tuple of pairs
        Setting and value, in the order they were given.

    Example
    -------
    >>> ham = Variant("ham", (("curvature", 2),))
    >>> ham.label, ham.slug, ham.flags
    ('ham, curvature=2', 'ham-curvature=2', ['--loss=ham', '--curvature=2'])
    """

    loss: str
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def label(self) -> str:
        """What tables and legends call it."""
        return ", ".join([self.loss, *(f"{k}={v}" for k, v in self.settings)])

    @property
    def slug(self) -> str:
        """The same as the name of a folder."""
        text = "-".join([self.loss, *(f"{k}={v}" for k, v in self.settings)])
        return re.sub(r"[^\w.=+-]+", "_", text)

    @property
    def flags(self) -> list[str]:
        """What tells ``sb-margins train`` this variant."""
        words = [f"--loss={self.loss}"]
        words += [f"--{k}={json.dumps(v)}" for k, v in self.settings if k in OWN_KEYS]
        others = {k: v for k, v in self.settings if k not in OWN_KEYS}
        if others:
            words.append(f"--loss_options={json.dumps(others)}")
        return words

    def head(self, input_size: int = 2, out_neurons: int = 2) -> Head:
        """Its head; what a setting cannot be is refused here.

        Raises
        ------
        UserError
            For a value that the loss does not take.
        """
        try:
            return select.head(
                self.loss, input_size, out_neurons, options=dict(self.settings)
            )
        except UserError:
            raise
        except (TypeError, ValueError) as error:
            raise UserError(f"{self.label}: {error}") from error


def parse_variants(losses: str | Sequence[str], sets: Sequence[str]) -> list[Variant]:
    """Every loss with every combination of the values asked for.

    Arguments
    ---------
    losses : str or sequence of str
        Names, separated by commas.
    sets : sequence of str
        Words such as ``ham.curvature=2,3,5``.

    Returns
    -------
    list of Variant
        In the order of the losses.

    Raises
    ------
    UserError
        For a loss that does not exist or is named twice, a setting that it does not
        have, a value that it does not take.

    Example
    -------
    >>> found = parse_variants("am,ham", ["ham.curvature=2,3"])
    >>> [variant.label for variant in found]
    ['am', 'ham, curvature=2', 'ham, curvature=3']
    """
    if isinstance(losses, str):
        losses = losses.split(",")
    names = [name.strip() for name in losses if name.strip()]
    if not names:
        raise UserError(f"name losses, e.g. --losses am,ham. {_there_are()}")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"named twice: {', '.join(twice)}. Name each loss once")
    values: dict[str, dict[str, list[Any]]] = {}
    for name in names:
        select.settings(name)  # refuses unknown names
        values[name] = {}
    for word in sets:
        loss, setting, found = _parse_set(word, names)
        if setting in values[loss]:
            raise UserError(f"--set {loss}.{setting} is given twice; list all values")
        values[loss][setting] = found
    variants = []
    for name in names:
        keys = values[name]
        for combination in itertools.product(*keys.values()):
            variants.append(Variant(name, tuple(zip(keys, combination, strict=True))))
    for variant in variants:
        variant.head()
    return variants


def _there_are() -> str:
    return f"There are: {', '.join(select.names())}"


def _parse_set(word: str, names: Sequence[str]) -> tuple[str, str, list[Any]]:
    match = re.fullmatch(r"\s*(\w+)\.(\w+)\s*=\s*(.+)", word)
    if match is None:
        raise UserError(
            f"--set {word} is not understood: write LOSS.SETTING=VALUE[,VALUE...], "
            "e.g. --set ham.curvature=2,3,5"
        )
    loss, setting, text = match.groups()
    if loss not in names:
        raise UserError(
            f"--set {word}: '{loss}' is not among the losses {', '.join(names)}."
            f"{nearest(loss, names)}"
        )
    known = select.settings(loss)
    if setting not in known:
        has = ", ".join(f"{k}={v}" for k, v in known.items())
        raise UserError(
            f"the loss '{loss}' has no setting '{setting}'.{nearest(setting, known)} "
            f"Its settings: {has}"
        )
    import yaml

    found = [yaml.safe_load(part) for part in text.split(",")]
    if len({json.dumps(value) for value in found}) < len(found):
        raise UserError(f"--set {word} names a value twice")
    for value in found:
        if isinstance(known[setting], float) and not isinstance(value, (int, float)):
            raise UserError(f"--set {word}: {setting} is a number, not {value!r}")
    return loss, setting, found
