"""How a loss's margin, scale or delta moves during training.

A schedule is a pure function of progress in epochs or steps, and progress is what
SpeechBrain checkpoints anyway; so a resumed run is on the curve without any state of
its own.
"""

from __future__ import annotations

import math
from typing import Any

from torch import nn

SHAPES = ("constant", "linear", "exponential", "saturating")
_DECADES = math.log(1e-3)


def ramp(fraction: float, shape: str = "linear") -> float:
    """The share of a ramp that is done, exactly 0 and 1 at its ends and outside.

    ``linear``: x. ``exponential``: (1000^x - 1) / 999, slow then fast.
    ``saturating``: 1 - 0.001^x, fast then slow (97 % at half of the ramp; the curve
    that wespeaker and 3D-Speaker call exponential). ``constant``: 1 throughout.
    """
    if shape not in SHAPES:
        raise ValueError(f"no schedule shape '{shape}'; choose from {list(SHAPES)}")
    x = min(1.0, max(0.0, fraction))
    if shape == "constant" or x == 1.0:
        return 1.0
    if shape == "linear":
        return x
    if shape == "saturating":
        return 1 - math.exp(x * _DECADES)
    return math.expm1(-x * _DECADES) / math.expm1(-_DECADES)


class LossSchedule:
    """Moves one setting of a loss from ``initial`` to its final value.

    The parts of a joint loss move each to their own final value.

    Arguments
    ---------
    setting : str
        Attribute of the loss: ``margin``, ``scale`` or ``delta``.
    initial : float, optional
        Value until ``start``; None: the final one throughout.
    final : float, optional
        Value from ``end`` on; default: the one the loss was built with.
    start, end : float
        The ramp, 0 being the start of training.
    shape : str
        ``linear``, ``exponential``, ``saturating`` or ``constant``.
    unit : str
        Of ``start`` and ``end``: ``epochs`` (fractions count) or ``steps`` (batches).

    Raises
    ------
    ValueError
        For a ramp that ends before it starts, an unknown shape or unit.

    Example
    -------
    >>> class Loss(nn.Module):
    ...     margin = 0.2
    >>> schedule, loss = LossSchedule("margin", start=2, end=4), Loss()
    >>> [round(schedule(loss, epoch), 2) for epoch in (0, 2, 3, 4, 9)]
    [0.0, 0.0, 0.1, 0.2, 0.2]
    """

    def __init__(
        self,
        setting: str = "margin",
        *,
        initial: float | None = 0.0,
        final: float | None = None,
        start: float = 0.0,
        end: float = 0.0,
        shape: str = "linear",
        unit: str = "epochs",
    ):
        if end < start:
            raise ValueError(f"a schedule ends ({end}) before it starts ({start})")
        if unit not in ("epochs", "steps"):
            raise ValueError(f"a schedule counts 'epochs' or 'steps', not '{unit}'")
        ramp(0.0, shape)
        self.setting, self.initial, self.final = setting, initial, final
        self.start, self.end, self.shape, self.unit = start, end, shape, unit
        self._finals: list[float | None] = []

    def value(self, progress: float, final: float) -> float:
        """The value after ``progress`` units, ``final`` being the one at the end."""
        if self.initial is None:
            return final
        if self.end == self.start:
            done = 1.0 if progress >= self.end else 0.0
        else:
            done = (progress - self.start) / (self.end - self.start)
        share = ramp(done, self.shape)
        if share == 1:  # exactly
            return final
        return self.initial + (final - self.initial) * share

    def __call__(
        self, loss: nn.Module, progress: float, steps: float | None = None
    ) -> float | None:
        """Set the loss's value for this progress.

        ``progress``: epochs done, fractions included; ``steps``: batches done, for a
        schedule in steps. Returns the value set (of the first part), None when the
        loss has no such setting: it is left alone.
        """
        if self.unit == "steps":
            if steps is None:
                raise ValueError("a schedule in steps needs the number of steps done")
            progress = steps
        parts = list(getattr(loss, "losses", [loss]))
        if not self._finals:
            built = [getattr(part, self.setting, None) for part in parts]
            self._finals = [
                f if self.final is None or f is None else self.final for f in built
            ]
            for part, final in zip(parts, self._finals, strict=True):
                check: Any = getattr(part, "sensible", None)
                for end in (self.initial, self.final):
                    if check and final is not None and end is not None:
                        check(self.setting, end)
        first = None
        for part, final in zip(parts, self._finals, strict=True):
            if final is not None:
                value = self.value(progress, float(final))
                if value != getattr(part, self.setting):  # some are fixed at 0
                    setattr(part, self.setting, value)
                first = value if first is None else first
        return first


def current(loss: nn.Module, setting: str) -> float | None:
    """A setting's value now (of the first part that has it), None without any."""
    for part in getattr(loss, "losses", [loss]):
        value = getattr(part, setting, None)
        if value is not None:
            return float(value)
    return None
