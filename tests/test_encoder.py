"""Encoders: as SpeechBrain computes them, and a fingerprint that misses no setting."""

import copy
import functools
import inspect
import os
import subprocess
import sys

import pytest
import torch
from speechbrain.lobes.features import Fbank
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
from speechbrain.lobes.models.ResNet import ResNet
from speechbrain.lobes.models.Xvector import Xvector
from speechbrain.nnet.CNN import Conv1d
from speechbrain.processing.features import InputNormalization

from sb_margins.encoder import (
    ENCODER_MODULES,
    ContextConv1d,
    SpeakerEncoder,
    check_fingerprint,
    fingerprint,
    without_needless_work,
)
from sb_margins.errors import UserError
from sb_margins.resnet import ResNetTSP
from sb_margins.similarity import CosineSimilarity, PoincareSimilarity

ECAPA = {
    "input_size": 20,
    "channels": [16, 16, 16, 16, 48],
    "kernel_sizes": [5, 3, 3, 3, 1],
    "dilations": [1, 2, 3, 4, 1],
    "attention_channels": 8,
    "lin_neurons": 12,
}
XVECTOR = {
    "in_channels": 20,
    "tdnn_blocks": 3,
    "tdnn_channels": [16, 16, 24],
    "tdnn_kernel_sizes": [5, 3, 1],
    "tdnn_dilations": [1, 2, 1],
    "lin_neurons": 12,
}
RESNET = {
    "input_size": 20,
    "channels": [8, 10, 12, 14],
    "block_sizes": [1, 1, 1, 1],
    "lin_neurons": 12,
}
CLASSES = {
    "ecapa": (ECAPA_TDNN, ECAPA),
    "xvector": (Xvector, XVECTOR),
    "resnet": (ResNet, RESNET),
    "resnet_tsp": (ResNetTSP, RESNET),
}
FBANK = {"n_mels": 20}
NORM = {"norm_type": "sentence", "std_norm": False}


@functools.cache
def weights_of(name):
    kind, settings = CLASSES[name]
    torch.manual_seed(0)
    return kind(**settings).state_dict()


def make(name, features=None, norm=None, network=None, rate=16000):
    """An encoder with some settings changed and, where they fit, the same weights."""
    kind, settings = CLASSES[name]
    weights = weights_of(name)
    torch.manual_seed(0)
    changed = kind(**settings | (network or {}))
    try:
        changed.load_state_dict(weights)
    except RuntimeError:
        pass  # other shapes
    return SpeakerEncoder(
        Fbank(**FBANK | (features or {})),
        InputNormalization(**NORM | (norm or {})),
        changed,
        rate,
    ).eval()


def embed(encoder):
    torch.manual_seed(2)  # SpeechBrain's statistics pooling adds noise
    speech = torch.randn(1, 6000) * torch.linspace(0.1, 1, 6000)
    with torch.no_grad():
        return encoder(speech)


@pytest.mark.parametrize("name", CLASSES)
def test_equal_without_needless_work(name):
    """Bit for bit without empty padding; to rounding where a context is shared."""
    torch.manual_seed(0)
    stock = CLASSES[name][0](**CLASSES[name][1]).double()
    spared = without_needless_work(copy.deepcopy(stock))
    changed = [
        (was.kernel_size, now.kernel_size)
        for was, now in zip(stock.modules(), spared.modules(), strict=True)
        if isinstance(was, Conv1d) and was.padding != now.padding
    ]
    assert all(pair == (1, 1) for pair in changed)
    assert changed or name.startswith("resnet")
    contexts = [m for m in spared.modules() if isinstance(m, ContextConv1d)]
    assert len(contexts) == (name == "ecapa")

    def same(one, two):
        if contexts:
            return torch.allclose(one, two, rtol=1e-9, atol=1e-11)
        return torch.equal(one, two)

    feats = torch.randn(4, 60, 20).double()
    lengths = torch.tensor([1.0, 0.4, 0.8, 0.1]).double()
    for network in (stock, spared):
        torch.manual_seed(1)  # SpeechBrain's statistics pooling adds noise
        network(feats, lengths).square().sum().backward()
    assert stock.state_dict().keys() == spared.state_dict().keys()
    for was, now in zip(stock.parameters(), spared.parameters(), strict=True):
        assert same(was.grad, now.grad)
    for was, now in zip(stock.buffers(), spared.buffers(), strict=True):
        assert same(was.double(), now.double())
    for network in (stock, spared):
        network.eval()
    found = []
    for network in (stock, spared):
        torch.manual_seed(2)
        found.append(network(feats))
    assert same(*found)


def test_a_shared_context_is_no_other_model():
    """Stores made before the convolution was replaced still fit their model."""
    network = make("ecapa").embedding_model
    (conv,) = [m for m in network.modules() if isinstance(m, ContextConv1d)]
    before = fingerprint(network)
    conv.__class__ = torch.nn.Conv1d
    assert fingerprint(network) == before


OTHER_WORDS = {
    "filter_shape": ["rectangular", "gaussian"],
    "norm_type": ["batch", "global"],
    "padding_mode": ["constant"],
}


def other_values(name, value):
    """Changes of one argument."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return sorted({value + 1, value * 2 + 2, value // 2} - {value})
    if isinstance(value, float):
        return [value * 1.5 + 0.01]
    if isinstance(value, str):
        return OTHER_WORDS.get(name, [])
    if isinstance(value, (list, tuple)):
        kind = type(value)
        return [
            kind([*value[:at], changed, *value[at + 1 :]])
            for at, item in enumerate(value)
            for changed in other_values(name, item)[:1]
        ]
    if value is None and name.startswith(("f_m", "win", "hop")):
        return [100]
    if isinstance(value, type) and issubclass(value, torch.nn.Module):
        return [torch.nn.Tanh]
    return []


def changes(name):
    """(part, argument, value): every argument of an encoder's three parts, changed."""
    parts = {
        "features": (Fbank, FBANK),
        "norm": (InputNormalization, NORM),
        "network": CLASSES[name],
    }
    for part, (kind, settings) in parts.items():
        for argument in inspect.signature(kind.__init__).parameters.values():
            value = settings.get(argument.name, argument.default)
            if argument.name in ("self", "device"):
                continue
            for changed in other_values(argument.name, value):
                yield part, argument.name, changed


@pytest.mark.parametrize("name", CLASSES)
def test_what_changes_an_embedding_changes_the_fingerprint(name):
    plain = make(name)
    expected, known = embed(plain), plain.fingerprint()
    seen, effective = {known}, set()
    for part, argument, value in changes(name):
        try:
            other = make(name, **{part: {argument: value}})
            found = embed(other)
        except Exception:  # a value that does not fit the rest
            continue
        if found.shape == expected.shape and torch.equal(found, expected):
            continue
        effective.add(f"{part}.{argument}")
        mark = other.fingerprint()
        assert mark not in seen, f"{part}: {argument}={value}"
        seen.add(mark)
    wanted = {"f_min", "f_max", "n_fft", "win_length", "hop_length", "sample_rate"}
    assert {f"features.{w}" for w in wanted} | {"norm.std_norm"} <= effective
    least = 12 if name == "resnet_tsp" else 14  # it has fewer arguments
    assert len(effective) >= least, effective


def test_the_rate_a_weight_and_the_similarity_are_in_the_fingerprint():
    plain = make("ecapa")
    marks = [plain.fingerprint(), make("ecapa", rate=8000).fingerprint()]
    for similarity in (PoincareSimilarity(3.0), PoincareSimilarity(5.0)):
        marks.append(plain.fingerprint(similarity))
    assert plain.fingerprint(CosineSimilarity()) == marks[0]
    with torch.no_grad():
        next(plain.embedding_model.parameters()).view(-1)[0] += 1e-6
    marks.append(plain.fingerprint())
    norm = make("ecapa", norm={"norm_type": "global"})
    norm.mean_var_norm.glob_mean = torch.zeros(20)
    marks.append(norm.fingerprint())
    norm.mean_var_norm.glob_mean = torch.arange(20) / 100
    marks.append(norm.fingerprint())
    assert len(set(marks)) == len(marks)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("context", [False, True])
def test_use_and_mode_and_copies_leave_the_fingerprint_alone(name, context):
    width = 20 * 11 if context else 20
    first = "in_channels" if name == "xvector" else "input_size"
    encoder = make(name, {"context": context}, network={first: width})
    before = encoder.fingerprint()
    embed(encoder)
    with torch.autocast("cpu", torch.bfloat16):
        embed(encoder)
    encoder.train()
    assert encoder.fingerprint() == before
    assert copy.deepcopy(encoder).fingerprint() == before
    encoder.to("cpu", torch.float32)
    assert encoder.fingerprint() == before


def test_another_process_gives_the_same_fingerprint(tmp_path):
    torch.save(make("xvector"), tmp_path / "encoder.pt")
    script = (
        "import sys, torch; print(torch.load(sys.argv[1], weights_only=False)"
        ".fingerprint())"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "encoder.pt")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == make("xvector").fingerprint()


class Odd(torch.nn.Module):
    """Settings of every kind."""

    def __init__(self, **settings):
        super().__init__()
        for name, value in settings.items():
            setattr(self, name, value)


def test_settings_of_every_kind_count():
    kinds = [
        {"a": 1},
        {"a": 2},
        {"a": "2"},
        {"a": None},
        {"a": [1, 2]},
        {"a": [2, 1]},
        {"a": {3, 4}},
        {"a": {"b": 1}},
        {"a": {"b": 2}},
        {"a": torch.relu},
        {"a": torch.tanh},
        {"a": functools.partial(torch.clamp, min=0)},
        {"a": functools.partial(torch.clamp, min=1)},
        {"a": torch.float16},
        {"a": torch.hann_window(16)},
        {"a": torch.hamming_window(16)},
        {"a": torch.tensor([float("nan"), 1.0])},
        {"a": Odd(b=1)},
        {"a": [Odd(b=2)]},
        {"_floor": 0.1},
        {"_floor": 0.2},
    ]
    marks = [fingerprint(Odd(**kind)) for kind in kinds]
    assert len(set(marks)) == len(kinds)
    ring = Odd(a=1)
    object.__setattr__(ring, "ring", ring)  # refers to itself
    assert fingerprint(ring) != fingerprint(Odd(a=1))
    # the last bit of what a processor computed is not another model
    window = torch.hann_window(16)
    assert fingerprint(Odd(a=window)) == fingerprint(Odd(a=window * (1 + 1e-7)))
    assert fingerprint(Odd(device="cpu")) == fingerprint(Odd(device="cuda"))


def test_fingerprints_of_others_are_told_apart():
    mark = make("xvector").fingerprint()
    check_fingerprint(mark, mark, "people.npz", "Enroll again.")
    with pytest.raises(UserError, match="people.npz was made with another model"):
        check_fingerprint("2-0", mark, "people.npz", "Enroll again.")
    with pytest.raises(UserError, match="by another version of sb_margins.*again"):
        check_fingerprint("0123456789abcdef", mark, "people.npz", "Enroll again.")


def test_from_modules():
    parts = make("ecapa")
    modules = torch.nn.ModuleDict({n: getattr(parts, n) for n in ENCODER_MODULES})
    again = SpeakerEncoder.from_modules({**modules, "head": torch.nn.Linear(1, 1)})
    assert not again.training and again.fingerprint() == parts.fingerprint()
    assert torch.equal(embed(again), embed(parts))
    with pytest.raises(UserError, match="lacks the modules mean_var_norm, embedding"):
        SpeakerEncoder.from_modules({"compute_features": parts.compute_features})


FAULTS = """
import resource, sys, torch
from sb_margins.training.process import keep_memory
if sys.argv[1] == "keep":
    sys.exit(3) if not keep_memory() else None
torch.set_num_threads(1)
for step in range(10):
    if step == 5:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    big = [torch.ones(9 << 20) for _ in range(2)]
    del big
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's settings")
def test_memory_of_a_step_stays_for_the_next():
    env = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    faults = {"plain": [], "keep": []}
    for mode in ("plain", "keep", "keep", "keep"):  # a kernel may take pages back
        command = [sys.executable, "-c", FAULTS, mode]
        done = subprocess.run(command, capture_output=True, text=True, env=env)
        if done.returncode == 3:
            pytest.skip("no glibc here")
        assert done.returncode == 0, done.stderr
        faults[mode].append(int(done.stdout))
    assert min(faults["keep"]) < faults["plain"][0] / 2
