"""Weights files of PyTorch, read without running or allocating what they ask for.

``torch.load(weights_only=True)`` runs nothing, but a file of 389 bytes can make it take
gigabytes. Here a pickle of a few known opcodes gives names, shapes and types; bytes are
read only after these fit the module that wants them.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sb_margins.errors import UserError

MAX_PICKLE = 16 * 1024 * 1024  # bytes; ECAPA's is 60 KB
MAX_DIMENSIONS = 9
STATISTICS = ("glob_mean", "glob_std", "count")
MAX_STATISTICS = 1_000_000  # values of a mean or deviation
MAX_LABELS = 50 * 1024 * 1024  # bytes of a label file
MAX_LABEL = 2000  # of one line: Python's parser may crash on longer ones

_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_OPCODES = (
    "PROTO STOP MARK POP EMPTY_DICT EMPTY_LIST EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 "
    "NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE "
    "SHORT_BINUNICODE GLOBAL BINPUT LONG_BINPUT BINGET LONG_BINGET BINPERSID REDUCE "
    "BUILD SETITEM SETITEMS APPEND APPENDS"
)


@dataclass
class _Stored:
    """A tensor as its file describes it: nothing is read yet."""

    dtype: torch.dtype
    key: str
    count: int  # values in the storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def _stored(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _Stored:
    dtype, key, count = storage
    whole = all(type(n) is int and n >= 0 for n in (offset, count, *size, *stride))
    if not whole or not len(size) == len(stride) < MAX_DIMENSIONS:
        raise ValueError("odd tensor")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 not in size and (last >= count or math.prod(size) > count):
        raise ValueError("a tensor larger than its storage")
    return _Stored(dtype, key, count, offset, tuple(size), tuple(stride))


_CALLS = {
    ("collections", "OrderedDict"): lambda: {},
    ("torch._utils", "_rebuild_tensor_v2"): _stored,
    ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
    ("torch", "Size"): tuple,
}

_Base: Any = pickle._Unpickler  # type: ignore[attr-defined]  # in Python: no C memo


class _Unpickler(_Base):
    """Dictionaries, lists, plain values and descriptions of tensors; no more."""

    dispatch = {
        getattr(pickle, name)[0]: _Base.dispatch[getattr(pickle, name)[0]]
        for name in _OPCODES.split()
    }

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) in _CALLS:
            return _CALLS[module, name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        _, dtype, key, _, count = pid
        if not isinstance(dtype, torch.dtype) or not isinstance(key, str):
            raise pickle.UnpicklingError("a tensor without a type or a name")
        return dtype, key, count

    def _reduce(self) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        if not any(function is known for known in _CALLS.values()):
            raise pickle.UnpicklingError("it calls something unknown")
        self.stack[-1] = function(*arguments)

    def _build(self) -> None:
        self.stack.pop()  # attributes of a state dict (versions): not needed

    def _set_items(self) -> None:
        items = self.pop_mark()
        for key, value in zip(items[::2], items[1::2], strict=True):
            self._set(key, value)

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set(key, value)

    def _set(self, key: Any, value: Any) -> None:
        if not isinstance(key, (str, int)):
            raise pickle.UnpicklingError("a key is not text")
        self.stack[-1][key] = value

    dispatch[pickle.REDUCE[0]] = _reduce
    dispatch[pickle.BUILD[0]] = _build
    dispatch[pickle.SETITEM[0]] = _set_item
    dispatch[pickle.SETITEMS[0]] = _set_items


class Checkpoint:
    """A weights file, open: its content, with tensors read on demand."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                old = file.read(2) in (b"\x80\x02", b"\x80\x03", b"\x80\x04")
            self.archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            if isinstance(error, zipfile.BadZipFile) and old:
                raise UserError(
                    f"refused: {path.name} is a bare pickle or has PyTorch's format of "
                    "before 1.6; if you trust it, load and save it again with torch"
                ) from error
            raise UserError(
                f"{path.name} is truncated or not a weights file of PyTorch ({error}); "
                "get it again"
            ) from error
        entries = self.entries = {e.filename: e for e in self.archive.infolist()}
        packed = any(
            e.compress_type != zipfile.ZIP_STORED or e.compress_size != e.file_size
            for e in entries.values()
        )
        size = sum(e.file_size for e in entries.values())
        if packed or size > path.stat().st_size:
            raise UserError(f"refused: {path.name} is compressed; PyTorch's are not")
        self.content = self._unpickle()

    def _unpickle(self) -> dict[str, Any]:
        try:
            (name,) = (n for n in self.entries if n.endswith("data.pkl"))
            self.folder = name.removesuffix("data.pkl")
            if self.entries[name].file_size > MAX_PICKLE:
                raise ValueError("too many entries")
            content = _Unpickler(io.BytesIO(self.archive.read(name))).load()
        except Exception as error:  # damaged pickles fail in every way
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise UserError(
                f"refused: {self.path.name} is damaged or holds more than weights "
                f"({lines[0][:200]})"
            ) from error
        if not isinstance(content, dict) or not all(
            isinstance(key, str) for key in content
        ):
            raise UserError(f"{self.path.name} does not hold named weights")
        return content

    def tensor(self, stored: _Stored) -> Tensor:
        """The values of a described tensor."""
        name = f"{self.folder}data/{stored.key}"
        wanted = stored.count * stored.dtype.itemsize
        if name not in self.entries or self.entries[name].file_size != wanted:
            raise UserError(f"{self.path.name} is damaged: {name} has another size")
        try:
            data = bytearray(self.archive.read(name))
        except (zipfile.BadZipFile, OSError, RuntimeError, EOFError) as error:
            raise UserError(f"{self.path.name} is damaged: {error}") from error
        kind = stored.dtype
        flat = (
            torch.frombuffer(data, dtype=kind) if data else torch.empty(0, dtype=kind)
        )
        return flat.as_strided(stored.shape, stored.stride, stored.offset)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a torch file, tensors and plain values only.

    Example
    -------
    >>> path = getfixture("tmp_path") / "w.ckpt"
    >>> torch.save({"weight": torch.ones(2)}, path)
    >>> read_checkpoint(path)
    {'weight': tensor([1., 1.])}
    """
    checkpoint = Checkpoint(path)
    return {
        key: checkpoint.tensor(value) if isinstance(value, _Stored) else value
        for key, value in checkpoint.content.items()
    }


def _check_weights(own: dict[str, Tensor], content: dict[str, Any], name: str) -> None:
    """Names, shapes and kinds of a state dict against what a file describes."""
    missing = sorted(set(own) - set(content))[:3]
    extra = sorted(set(content) - set(own))[:3]
    if missing or extra:
        parts = [f"lacks {', '.join(missing)}"] if missing else []
        parts += [f"has unknown {', '.join(extra)}"] if extra else []
        raise UserError(
            f"{name}: the weights file {' and '.join(parts)}; "
            "it belongs to another model"
        )
    for key, value in content.items():
        if not isinstance(value, _Stored):
            raise UserError(f"{name}: '{key}' in the weights file is not a tensor")
        if value.shape != tuple(own[key].shape):
            raise UserError(
                f"{name}: '{key}' is {list(value.shape)} in the weights file but "
                f"{list(own[key].shape)} in the YAML; they belong to different models"
            )
        if value.dtype.is_floating_point != own[key].dtype.is_floating_point:
            raise UserError(f"{name}: '{key}' is {value.dtype}, not {own[key].dtype}")


def all_finite(value: Tensor) -> bool:
    """Whether no value is NaN or infinite; a finite sum says so, and is quicker."""
    return math.isfinite(value.sum()) or bool(value.isfinite().all())


def _check_finite(values: dict[str, Any], name: str) -> None:
    for key, value in values.items():
        if isinstance(value, Tensor) and not all_finite(value):
            raise UserError(f"{name}: '{key}' holds NaN or infinity; refused")


def _load_statistics(norm: Any, path: Path, name: str) -> None:
    """The running statistics of SpeechBrain's InputNormalization."""
    checkpoint = Checkpoint(path)
    content = {key: checkpoint.content.get(key) for key in STATISTICS}
    for key, value in content.items():
        if isinstance(value, _Stored) and value.count <= MAX_STATISTICS:
            content[key] = checkpoint.tensor(value)
    mean, deviation, count = content.values()
    sound = isinstance(mean, Tensor) and isinstance(deviation, Tensor)
    if not sound or not isinstance(count, (int, float, Tensor)):
        raise UserError(f"{name}: the file does not hold a mean, a deviation, a count")
    _check_finite(content, name)
    norm._load_statistics_dict(content)


def _load_labels(encoder: Any, path: Path, name: str) -> None:
    if path.stat().st_size > MAX_LABELS:
        raise UserError(f"{name}: {path.name} is too large for a label file (50 MB)")
    with path.open("rb") as file:
        if any(len(line) > MAX_LABEL for line in file):
            raise UserError(f"{name}: {path.name} has a label too long to be a name")
    try:
        encoder.load(path)  # Python literals, parsed and not run
    except Exception as error:
        raise UserError(f"{name}: {path.name} is not a label file: {error}") from error


def load_into(target: Any, path: Path, name: str) -> None:
    """Fill a module or a label encoder from its file; all or nothing.

    Raises ``UserError`` when the file is not what the object needs: other names or
    shapes, NaN, damaged, or holding code. ``name`` is what messages call the object.
    """
    from speechbrain.dataio.encoder import CategoricalEncoder
    from speechbrain.processing.features import InputNormalization
    from speechbrain.utils.checkpoints import hook_on_loading_state_dict_checkpoint

    if isinstance(target, CategoricalEncoder):
        _load_labels(target, path, name)
    elif isinstance(target, InputNormalization):
        _load_statistics(target, path, name)
    elif isinstance(target, nn.Module):
        checkpoint = Checkpoint(path)
        content = hook_on_loading_state_dict_checkpoint(checkpoint.content)
        _check_weights(target.state_dict(), content, name)
        weights = {key: checkpoint.tensor(value) for key, value in content.items()}
        _check_finite(weights, name)
        target.load_state_dict(weights)
    else:
        raise UserError(f"{name}: cannot load weights into a {type(target).__name__}")
