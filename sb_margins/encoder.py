"""Speech to embedding: the three modules of a SpeechBrain recipe, as one."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from speechbrain.lobes.models.ECAPA_TDNN import AttentiveStatisticsPooling
from speechbrain.nnet.CNN import Conv1d
from torch import Tensor, nn

from sb_margins.errors import UserError
from sb_margins.similarity import similarity_from

# The parts of an encoder, as SpeechBrain's recipes name them.
ENCODER_MODULES = ("compute_features", "mean_var_norm", "embedding_model")
# Of the way in which a fingerprint is made; another one begins with another number.
FINGERPRINT_VERSION = "2"


class ContextConv1d(nn.Conv1d):
    """A convolution of kernel size 1 whose last two thirds of channels do not vary.

    So has the attention of ECAPA-TDNN its input: frames [B, C, T], and their mean and
    deviation, the same in each frame, which are multiplied once instead of T times.
    """

    described_as = nn.Conv1d  # to `fingerprint`

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3 C, T] to [B, D, T]."""
        frames, context = x.tensor_split([x.shape[1] // 3], 1)
        own, shared = self.weight.tensor_split([x.shape[1] // 3], 1)
        out = torch.conv1d(frames, own, self.bias)
        return out + torch.conv1d(context[..., :1], shared)


def without_needless_work(network: nn.Module) -> nn.Module:
    """Spare SpeechBrain's networks work that changes nothing. Changes ``network``.

    "same" padding of a convolution of kernel size 1 adds nothing, but copies the whole
    tensor, forward and backward: 4 to 10 % of a CPU step of ECAPA-TDNN, and equal bit
    for bit. See `ContextConv1d` for another 8 to 15 %, equal to rounding. State dicts
    stay as they are.
    """
    for module in network.modules():
        if isinstance(module, Conv1d) and module.padding == "same":
            if module.kernel_size == module.stride == 1:
                module.padding = "valid"
        if isinstance(module, AttentiveStatisticsPooling) and module.global_context:
            conv = module.tdnn.conv.conv
            if type(conv) is nn.Conv1d and conv.kernel_size == (1,):
                conv.__class__ = ContextConv1d
    return network


def constants_to(module: nn.Module, device: torch.device | str) -> None:
    """Move the tensors that are plain attributes: windows, frequencies of filters.

    SpeechBrain's features keep them on the CPU and copy them to the device at each
    call, which waits for it. Changes ``module``.
    """
    for part in module.modules():
        for name, value in list(vars(part).items()):
            if isinstance(value, Tensor):
                setattr(part, name, value.to(device))
            elif isinstance(value, torch.device):  # where more of them are made
                setattr(part, name, torch.device(device))


class SpeakerEncoder(nn.Module):
    """Features, normalisation and embedding network in a row.

    It has no length argument on purpose: every row of a batch must be speech from
    its first to its last sample, because zero-padding changes the embeddings.

    Arguments
    ---------
    compute_features : callable
        [B, T] waveforms to [B, frames, features], e.g. SpeechBrain's ``Fbank``.
    mean_var_norm : callable
        (features, relative lengths [B]) to features, e.g. ``InputNormalization``.
    embedding_model : torch.nn.Module
        Features to [B, 1, D] or [B, D], e.g. ``ECAPA_TDNN``.
    sample_rate : int
        Of the waveforms, in Hz.

    Example
    -------
    >>> from speechbrain.lobes.features import Fbank
    >>> from speechbrain.lobes.models.Xvector import Xvector
    >>> from speechbrain.processing.features import InputNormalization
    >>> network = Xvector(
    ...     in_channels=40,
    ...     tdnn_blocks=2,
    ...     tdnn_channels=[8, 8],
    ...     tdnn_kernel_sizes=[3, 1],
    ...     tdnn_dilations=[1, 1],
    ...     lin_neurons=12,
    ... )
    >>> norm = InputNormalization(norm_type="sentence", std_norm=False)
    >>> encoder = SpeakerEncoder(Fbank(n_mels=40), norm, network)
    >>> encoder(torch.rand(2, 16000)).shape
    torch.Size([2, 12])
    """

    def __init__(
        self,
        compute_features: Any,
        mean_var_norm: Any,
        embedding_model: nn.Module,
        sample_rate: int = 16000,
    ) -> None:
        super().__init__()
        self.compute_features = compute_features
        self.mean_var_norm = mean_var_norm
        self.embedding_model = without_needless_work(embedding_model)
        self.sample_rate = int(sample_rate)
        self.training = embedding_model.training

    @classmethod
    def from_modules(
        cls, modules: Mapping[str, nn.Module] | nn.ModuleDict, sample_rate: int = 16000
    ) -> SpeakerEncoder:
        """The encoder of a recipe's ``modules`` (its head does not matter)."""
        absent = [name for name in ENCODER_MODULES if name not in modules]
        if absent:
            raise UserError(f"the model lacks the modules {', '.join(absent)}")
        parts = {name: modules[name] for name in ENCODER_MODULES}
        return cls(**parts, sample_rate=sample_rate)  # type: ignore[arg-type]

    def forward(self, wavs: Tensor) -> Tensor:
        """Waveforms [B, T] at the model's rate to embeddings [B, D], not normalised."""
        lengths = torch.ones(wavs.shape[0], device=wavs.device)
        feats = self.mean_var_norm(self.compute_features(wavs), lengths)
        return self.embedding_model(feats).reshape(wavs.shape[0], -1)

    def fingerprint(self, similarity: Any = None) -> str:
        """A short name that changes whenever embeddings or their scores would.

        Made of every setting of the three modules, their weights and statistics, the
        sampling rate and the similarity (None: the cosine). Neither the device nor
        where a model lies matter.
        """
        settings = similarity_from(similarity).settings()
        return fingerprint(self, json.dumps(settings, sort_keys=True))


def fingerprint(module: nn.Module, extra: str = "") -> str:
    """As `SpeakerEncoder.fingerprint`, of any module."""
    digest = hashlib.sha256(extra.encode())
    for line in _description("", module, set()):
        digest.update(line.encode() + b"\n")
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        if isinstance(value, Tensor):
            digest.update(f"{value.dtype} {list(value.shape)}".encode())
            flat = value.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().tobytes())
        else:
            digest.update(repr(value).encode())
    return f"{FINGERPRINT_VERSION}-{digest.hexdigest()[:24]}"


def check_fingerprint(stored: str, current: str, what: str, remedy: str) -> None:
    """Raise unless ``what``, stored with one fingerprint, fits the model in use.

    ``what`` is the subject of the message (a file), ``remedy`` says what to do.
    """
    if stored == current:
        return
    if not stored.startswith(f"{FINGERPRINT_VERSION}-"):
        raise UserError(
            f"{what} was made by another version of sb_margins, which told models "
            f"apart by their weights alone, not by their features' settings. {remedy}"
        )
    raise UserError(
        f"{what} was made with another model; embeddings of different models are not "
        f"comparable. {remedy}"
    )


# Attributes that change while a module is used, or say where it is.
_PASSING = {"device", "device_inp", "first_call", "step_count", "training"}
_PASSING |= {"_dtype", "_fwd_used_autocast"}  # SpeechBrain's fwd_default_precision
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


def _description(path: str, value: Any, seen: set[int]) -> Iterator[str]:
    """Lines that say all that a value's attributes hold, one setting each.

    Weights and buffers that are saved are left out: `fingerprint` takes their bytes.
    """
    if value is None or isinstance(
        value, (bool, int, float, complex, str, bytes, torch.dtype, torch.Size)
    ):
        yield f"{path}={value!r}"
    elif isinstance(value, torch.device):
        return
    elif isinstance(value, (Tensor, np.ndarray, np.generic)):
        yield f"{path}={_summary(torch.as_tensor(value))}"
    elif isinstance(value, (list, tuple, set, frozenset)):
        items = (
            sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value
        )
        yield f"{path}: {len(items)}"
        for number, item in enumerate(items):
            yield from _description(f"{path}[{number}]", item, seen)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _description(f"{path}[{key!r}]", item, seen)
    elif isinstance(value, functools.partial):
        parts = [value.func, value.args, value.keywords]
        yield from _description(f"{path}.partial", parts, seen)
    elif hasattr(value, "__qualname__"):  # a class, a function, a method
        yield f"{path}={value.__module__}.{value.__qualname__}"
    elif id(value) in seen:
        yield f"{path}: as before"
    else:
        seen.add(id(value))
        kind = getattr(value, "described_as", type(value))
        yield f"{path}={kind.__module__}.{kind.__qualname__}"
        settings = getattr(value, "__dict__", {})
        if isinstance(value, nn.Module):
            own = settings.keys() - _OF_EVERY_MODULE
            unsaved = value._non_persistent_buffers_set
            settings = {
                **{name: settings[name] for name in own},
                **{name: value._buffers[name] for name in unsaved},
                **value._modules,
            }
            if "first_call" in own:  # ContextWindow repeats its kernel when used
                settings = {n: v for n, v in settings.items() if n != "kernel"}
        for name in sorted(settings.keys() - _PASSING):
            yield from _description(f"{path}.{name}", settings[name], seen)


def _summary(values: Tensor) -> str:
    """Shape, mean, spread and slope of what a module derived from its settings.

    Rounded, so that another processor's last bit does not make another model.
    """
    x = values.detach().cpu().double().reshape(-1)
    if not len(x) or not x.isfinite().all():
        return f"{list(values.shape)} {x.tolist()[:64]}"
    ramp = torch.linspace(-1, 1, len(x), dtype=torch.float64)
    size = float(x.square().mean().sqrt())
    mean, slope = (float((x * w).mean()) / (size or 1.0) for w in (1.0, ramp))
    return f"{list(values.shape)} {size:.5g} {mean:.4f} {slope:.4f}"
