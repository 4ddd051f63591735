"""What a downloaded model may build: named classes, looked up without surprises.

The list is of modules whose classes were read and only compute: no class in them opens
a file, a socket or a process, imports by name, or evaluates text. A class must be
*defined* in its module, so that nothing is reached through a re-export or an attribute.
"""

from __future__ import annotations

import importlib

from torch import nn

from sb_margins.errors import UserError

# Every torch.nn.Module subclass defined in these modules.
MODULES = frozenset(
    {
        "speechbrain.lobes.features",
        "speechbrain.lobes.models.CRDNN",
        "speechbrain.lobes.models.ContextNet",
        "speechbrain.lobes.models.ECAPA_TDNN",
        "speechbrain.lobes.models.ResNet",
        "speechbrain.lobes.models.Xvector",
        "speechbrain.nnet.CNN",
        "speechbrain.nnet.RNN",
        "speechbrain.nnet.activations",
        "speechbrain.nnet.attention",
        "speechbrain.nnet.containers",
        "speechbrain.nnet.dropout",
        "speechbrain.nnet.embedding",
        "speechbrain.nnet.linear",
        "speechbrain.nnet.losses",
        "speechbrain.nnet.normalization",
        "speechbrain.nnet.pooling",
        "speechbrain.processing.features",
        "sb_margins.classifiers",
        "sb_margins.similarity",
    }
)

# Single classes that are not modules of a network.
CLASSES = frozenset(
    {
        "speechbrain.dataio.encoder.CategoricalEncoder",
        "speechbrain.dataio.preprocess.AudioNormalizer",
    }
)

PRETRAINER = "speechbrain.utils.parameter_transfer.Pretrainer"


def refusal(what: str) -> UserError:
    """The error for something that a safe load does not do.

    Arguments
    ---------
    what : str
        The thing, by name.

    Returns
    -------
    UserError
        With the way out.

    Example
    -------
    >>> raise refusal("!apply:os.system")
    Traceback (most recent call last):
    ...
    sb_margins.errors.UserError: refused: !apply:os.system. ...
    """
    return UserError(
        f"refused: {what}. A model folder could run any program through its YAML, so "
        "only known network classes are built. If you trust whoever made this "
        "model, load it with trust=True (--trust)"
    )


def is_allowed(name: str) -> bool:
    """Whether a dotted name may be looked up at all; nothing is imported.

    Arguments
    ---------
    name : str
        As written after ``!new:``.

    Returns
    -------
    bool

    Example
    -------
    >>> is_allowed("torch.nn.Linear"), is_allowed("torch.nn.modules.module.torch.load")
    (True, False)
    """
    module, _, last = name.rpartition(".")
    if not last.isidentifier() or last.startswith("_"):
        return False
    return module in MODULES or module == "torch.nn" or name in CLASSES


def locate(name: str) -> type:
    """The class of an allowed name.

    Arguments
    ---------
    name : str
        As written after ``!new:``.

    Returns
    -------
    type
        A class defined in the named module.

    Raises
    ------
    UserError
        For anything else.

    Example
    -------
    >>> locate("torch.nn.Linear").__name__
    'Linear'
    >>> locate("speechbrain.lobes.features.torch")
    Traceback (most recent call last):
    ...
    sb_margins.errors.UserError: refused: speechbrain.lobes.features.torch ...
    """
    if not is_allowed(name):
        raise refusal(name)
    home, _, last = name.rpartition(".")
    found = vars(importlib.import_module(home)).get(last)
    if not isinstance(found, type):
        raise refusal(f"{name} (not a class)")
    if name in CLASSES:
        return found
    own = found.__module__ == home
    if home == "torch.nn":
        own = found.__module__.startswith("torch.nn.modules.")
    if not own or not issubclass(found, nn.Module):
        raise refusal(f"{name} (not a network class of {home})")
    return found
