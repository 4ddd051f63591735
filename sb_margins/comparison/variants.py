"""A loss with some of its settings: what is trained or drawn side by side."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from sb_margins import select
from sb_margins.errors import UserError, nearest
from sb_margins.head import Head

# Settings with a key of their own in the training YAMLs.
TOP_LEVEL_KEYS = ("margin", "scale", "delta", "curvature")
# Settings of the training that belong to a loss, with their defaults: AS-Speed's.
OF_TRAINING = {"max_accumulation": 1}


@dataclass(frozen=True)
class Variant:
    """A loss and the settings that were asked for, in order; the others: defaults.

    >>> ham = Variant("ham", (("curvature", 2),))
    >>> ham.label, ham.slug, ham.flags
    ('ham, curvature=2', 'ham-curvature=2', ['--loss=ham', '--curvature=2'])
    """

    loss: str
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def label(self) -> str:
        """The name in tables and legends."""
        return ", ".join([self.loss, *(f"{k}={v}" for k, v in self.settings)])

    @property
    def slug(self) -> str:
        """The name of its folder."""
        return re.sub(r"[^\w.=+-]+", "_", self.label.replace(", ", "-"))

    @property
    def flags(self) -> list[str]:
        """The flags of ``sb-margins train`` that choose it."""
        flags = [f"--loss={self.loss}"]
        others = dict(self.settings)
        for key, value in self.settings:
            if key in TOP_LEVEL_KEYS or key in OF_TRAINING:
                flags.append(f"--{key}={json.dumps(value)}")
                del others[key]
        if others:
            flags.append(f"--loss_options={json.dumps(others)}")
        return flags

    def head(self, input_size: int = 2, out_neurons: int = 2) -> Head:
        """Build its head; invalid settings raise a ``UserError``."""
        settings = {k: v for k, v in self.settings if k not in OF_TRAINING}
        try:
            return select.head(self.loss, input_size, out_neurons, options=settings)
        except (TypeError, ValueError) as error:
            raise UserError(f"{self.label}: {error}") from error


def parse_variants(losses: Sequence[str], sets: Sequence[str] = ()) -> list[Variant]:
    """Every loss with every combination of the values in ``LOSS.SETTING=VALUE,...``.

    >>> [v.label for v in parse_variants(["am", "ham"], ["ham.curvature=2,3"])]
    ['am', 'ham, curvature=2', 'ham, curvature=3']
    """
    names = [name.strip() for name in losses if name.strip()]
    if not names:
        known = ", ".join(select.names())
        raise UserError(f"name losses, e.g. am,ham. There are: {known}")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"named twice: {', '.join(twice)}. Name each loss once")
    values: dict[str, dict[str, list[Any]]] = {}
    for name in names:
        select.settings(name)  # refuses unknown names
        values[name] = {}
    for word in sets:
        loss, setting, choices = _parse_set(word, names)
        if setting in values[loss]:
            raise UserError(f"--set {loss}.{setting} is given twice; list all values")
        values[loss][setting] = choices
    variants = [
        Variant(name, tuple(zip(choices, combination, strict=True)))
        for name, choices in values.items()
        for combination in itertools.product(*choices.values())
    ]
    for variant in variants:
        variant.head()
    return variants


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
    defaults = select.settings(loss) | OF_TRAINING
    if setting not in defaults:
        listed = ", ".join(f"{k}={v}" for k, v in defaults.items())
        raise UserError(
            f"the loss '{loss}' has no setting '{setting}'."
            f"{nearest(setting, defaults)} Its settings: {listed}"
        )
    try:
        choices = [yaml.safe_load(part) for part in text.split(",")]
    except yaml.YAMLError as error:
        raise UserError(f"--set {word}: a value is not valid YAML") from error
    if len({json.dumps(value, default=str) for value in choices}) < len(choices):
        raise UserError(f"--set {word} names a value twice")
    for value in choices:
        if isinstance(defaults[setting], float) and not isinstance(value, (int, float)):
            raise UserError(f"--set {word}: {setting} is a number, not {value!r}")
    return loss, setting, choices
