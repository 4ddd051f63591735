"""Make modules from what `safe_yaml` read: known classes only, sizes looked at first.

Everything is built twice: first on PyTorch's meta device, where tensors have shapes and
no memory, under a limit; then for real.
"""

from __future__ import annotations

import functools
import importlib
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sb_margins.encoder import ENCODER_MODULES
from sb_margins.errors import UserError
from sb_margins.inference.safe_yaml import (
    HEAD,
    PRETRAINER,
    SINGLE,
    Call,
    Refused,
    is_allowed,
    read_hparams,
)

MAX_ARGUMENT = 1_000_000  # of a number given to a class
MAX_BUILT = 500_000_000  # values in tensors made while building; ECAPA-1024: 62 million
MAX_TENSOR = 100_000_000  # values in one tensor made of one second of audio
MAX_OPERATIONS = 20_000  # ResNet34 makes 1,700
MAX_SECONDS = 60.0
TOO_LARGE = (
    f"refused: the model would take more than {MAX_BUILT:.0e} values, or "
    f"{MAX_TENSOR:.0e} for one layer's output; sizes in its YAML are wrong"
)
KNOWN = ("ECAPA_TDNN", "ResNet", "ResNetTSP", "Xvector")


@dataclass
class LoadPlan:
    """What a YAML's ``Pretrainer`` would load: objects and file names by loadable."""

    loadables: dict[str, Any]
    paths: dict[str, str] = field(default_factory=dict)


META = torch.device("meta")
# Operations whose shapes are plain. PyTorch itself has some of them in Python for the
# meta device, and imports its compiler for these: 1.5 s.
_FILLS = {"uniform_", "normal_", "zero_", "fill_"}
_FACTORIES: dict[str, Callable[..., Any]] = {
    "ones": lambda size: size,
    "zeros": lambda size: size,
    "eye": lambda rows, columns=None: [rows, rows if columns is None else columns],
    "arange": lambda start, end, step=1: [math.ceil((end - start) / step)],
    "linspace": lambda start, end, steps: [steps],
    "hamming_window": lambda length, *_: [length],
    "hann_window": lambda length, *_: [length],
}
_POINTWISE = {"add", "sub", "mul", "div", "pow", "neg", "abs", "log", "log10", "exp"}
_POINTWISE |= {"sqrt", "clamp", "maximum", "minimum", "relu", "sigmoid", "tanh"}


def _on_meta(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """What an operation gives on the meta device, also one that names another."""
    name = func.overloadpacket.__name__
    if name in _FILLS:
        return args[0]
    if name == "lift_fresh":  # of torch.tensor(data)
        return args[0].to(META)
    if kwargs.get("device") is not None:
        kwargs = {**kwargs, "device": META}
        if name in _FACTORIES and (name != "arange" or len(args) > 1):
            return torch.empty(_FACTORIES[name](*args), **kwargs)
    if name == "repeat":
        x, times = args
        sizes = zip([1] * (len(times) - x.dim()) + [*x.shape], times, strict=True)
        return torch.empty([size * n for size, n in sizes], dtype=x.dtype, device=META)
    if name == "_fft_r2c" and args[3]:  # of one side
        *shape, length = args[0].shape
        shape.append(length // 2 + 1)
        return torch.empty(shape, dtype=torch.complex64, device=META)
    if name in ("sum", "amax") and len(args) == 2 and args[0].is_floating_point():
        x, axes = args
        return torch.empty(
            np.delete(x.shape, axes).tolist(), dtype=x.dtype, device=META
        )
    if name == "mm" and args[0].shape[1] == args[1].shape[0]:
        return args[0].new_empty(len(args[0]), args[1].shape[1])
    if name in _POINTWISE:
        tensors = [value for value in args if isinstance(value, Tensor)]
        if all(value.dtype == torch.float32 for value in tensors):
            shape = np.broadcast_shapes(*(value.shape for value in tensors))
            return torch.empty(shape, device=META)
    return func(*args, **kwargs)


class _Limit(TorchDispatchMode):
    """Puts tensors onto the meta device, and counts their values."""

    def __init__(self, total: float) -> None:
        super().__init__()
        self.total = total
        self.operations = 0
        self.until = time.monotonic() + MAX_SECONDS

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else PyTorch imports its compiler: 1.5 s

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = _on_meta(func, args, kwargs or {})
        for value in result if isinstance(result, (list, tuple)) else (result,):
            size = value.numel() if isinstance(value, Tensor) else 0
            self.total -= size
            if self.total < 0 or size > MAX_TENSOR:
                raise UserError(TOO_LARGE)
        self.operations += 1
        if self.operations > MAX_OPERATIONS or time.monotonic() > self.until:
            raise UserError(
                f"refused: building the model takes over {MAX_OPERATIONS} steps or "
                f"{MAX_SECONDS:.0f} s; sizes in its YAML are wrong"
            )
        return result


def locate(name: str) -> Any:
    """The class (or our `select.head`) of an allowed name, defined where it is named.

    Example
    -------
    >>> locate("torch.nn.Linear").__name__
    'Linear'
    >>> locate("speechbrain.lobes.features.torch")
    Traceback (most recent call last):
    ...
    sb_margins.inference.safe_yaml.Refused: refused: ...
    """
    module, _, last = name.rpartition(".")
    single = any(entry.partition(":")[2] == name for entry in SINGLE)
    if not single and not is_allowed("new", name):
        raise Refused(name)
    value = vars(importlib.import_module(module)).get(last)
    if single:
        return value
    if not isinstance(value, type) or not issubclass(value, nn.Module):
        raise Refused(f"{name} (not a network class)")
    home = value.__module__
    if home != module and not (
        module == "torch.nn" and home.startswith("torch.nn.modules.")
    ):
        raise Refused(f"{name} (not a class of {module})")
    return value


def _check_numbers(name: str, values: Iterable[Any]) -> None:
    for value in values:
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, (list, tuple)):
            _check_numbers(name, value)
        elif isinstance(value, (int, float)) and not abs(value) <= MAX_ARGUMENT:
            raise UserError(f"refused: {name} with {value}: the number is too large")


class _Builder:
    """Values of a read YAML, every call made once."""

    def __init__(self) -> None:
        self.done: dict[int, Any] = {}

    def build(self, value: Any) -> Any:
        if not isinstance(value, (Call, list, dict)):
            return value
        if id(value) not in self.done:
            if isinstance(value, Call):
                built = self.call(value)
            elif isinstance(value, list):
                built = [self.build(item) for item in value]
            else:
                built = {key: self.build(item) for key, item in value.items()}
            self.done[id(value)] = built
        return self.done[id(value)]

    def call(self, call: Call) -> Any:
        args, kwargs = self.build(call.args), self.build(call.kwargs)
        if call.name == PRETRAINER:
            return _plan(args, kwargs)
        _check_numbers(call.name, [*args, *kwargs.values()])
        if call.name == HEAD and "<" in repr(kwargs):  # HyperPyYAML would resolve it
            raise Refused(f"a reference inside the arguments of {HEAD}")
        made = locate(call.name)
        if call.kind == "name":
            return functools.partial(made, *args, **kwargs) if args or kwargs else made
        try:
            return made(*args, **kwargs)
        except UserError:
            raise
        except Exception as error:  # whatever a class says about its arguments
            raise UserError(
                f"{call.name} cannot be built from its YAML: {error}"
            ) from error


def _plan(args: list, kwargs: dict) -> LoadPlan:
    extra = set(kwargs) - {"loadables", "paths", "collect_in"}
    if args or extra:
        named = ", ".join(sorted(extra)) or "unnamed arguments"
        raise Refused(f"{named} of the Pretrainer")
    loadables, paths = kwargs.get("loadables") or {}, kwargs.get("paths") or {}
    if not isinstance(loadables, dict) or not isinstance(paths, dict):
        raise UserError("the Pretrainer's loadables and paths must be mappings")
    return LoadPlan(dict(loadables), {str(k): str(v) for k, v in paths.items()})


def _check_sizes(values: Mapping[str, Any]) -> None:
    """Build on the meta device, and put one second of audio through the encoder."""
    from speechbrain.processing.features import InputNormalization

    with _Limit(MAX_BUILT):
        shapes = _Builder().build(dict(values))
    modules = shapes.get("modules")
    modules = modules if isinstance(modules, dict) else shapes
    parts: list[Any] = [modules.get(name) for name in ENCODER_MODULES]
    if not all(isinstance(part, nn.Module) for part in parts):
        return
    for module in nn.ModuleList(parts).eval().modules():
        # SpeechBrain's wrapper for autocast does not know the meta device.
        forward = getattr(type(module).forward, "__wrapped__", None)
        if forward is not None:
            module.forward = functools.partial(forward, module)
    features, norm, network = parts
    try:
        with torch.no_grad(), _Limit(math.inf):
            found = features(torch.zeros(1, shapes.get("sample_rate", 16000)))
            if not isinstance(norm, InputNormalization):  # keeps the shape
                found = norm(found, torch.ones(1))
            if type(network).__name__ not in KNOWN:
                network(found)
                return
        # Of these networks the sizes of layers bound the outputs: 40 ms saved.
        widest = max(len(weight) for weight in network.parameters())
        if found.numel() * widest > MAX_TENSOR:
            raise UserError(TOO_LARGE)
    except UserError:
        raise
    except Exception as error:  # whatever the shapes lead to
        raise UserError(f"the model's parts do not fit together: {error}") from error


def build(values: Mapping[str, Any]) -> dict[str, Any]:
    """Objects for the calls in what `read_hparams` gave."""
    rate = values.get("sample_rate", 16000)
    if type(rate) is not int or not 1000 <= rate <= 192_000:
        raise UserError(f"the YAML's sample_rate {rate!r} is not a rate of audio in Hz")
    _check_sizes(values)
    return _Builder().build(dict(values))


def safe_hparams(text: str, overrides: Mapping[str, Any] | None = None) -> dict:
    """Build all of a YAML text from allowed classes only.

    References, copies, arithmetic and tuples mean what they mean in HyperPyYAML;
    ``!apply:``, ``!applyref:``, ``!module:``, ``!include:``, attribute references,
    merge keys and Python tags are refused, and so is any class that is not on the
    list of `sb_margins.inference.safe_yaml`.

    Arguments
    ---------
    text : str
        The YAML.
    overrides : mapping, optional
        Top-level keys to plain values that replace those of the file.

    Returns
    -------
    dict
        As ``load_hyperpyyaml`` would return, the Pretrainer as a `LoadPlan`.

    Raises
    ------
    UserError
        Naming what was refused, or what is wrong.

    Example
    -------
    >>> built = safe_hparams(
    ...     "n: 3\\nnet: !new:torch.nn.Linear [!ref <n>, !ref <n> * 2]"
    ... )
    >>> built["net"]
    Linear(in_features=3, out_features=6, bias=True)
    >>> safe_hparams("x: !new:subprocess.Popen [ls]")
    Traceback (most recent call last):
    ...
    sb_margins.inference.safe_yaml.Refused: refused: !new:subprocess.Popen. ...
    """
    values = build(read_hparams(text, None, overrides))
    return {name: value for name, value in values.items() if name[:2] != "__"}
