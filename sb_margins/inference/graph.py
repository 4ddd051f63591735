"""A model as one graph: ONNX, for onnxruntime alone, or a program of torch.export.

The ONNX graph takes ``waveform`` [batch, samples] float32 and ``lengths`` [batch] int64
(samples that count of each row) and gives ``embedding`` [batch, D]: features and
normalisation are inside. Rows of full length go through the network together; padded
ones one after the other, each cut to its length, because padding would change the
embedding (SpeechBrain's networks do not mask their convolutions). So an embedding never
depends on what else is in the batch.
"""

from __future__ import annotations

import copy
import io
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from speechbrain.lobes.models import ECAPA_TDNN
from speechbrain.lobes.models.Xvector import Xvector
from speechbrain.nnet.pooling import StatisticsPooling
from speechbrain.processing.features import STFT
from torch import Tensor, nn

from sb_margins import __version__
from sb_margins.encoder import SpeakerEncoder, constants_to
from sb_margins.errors import UserError
from sb_margins.files import write_whole

if TYPE_CHECKING:
    from sb_margins.inference.verifier import SpeakerVerifier

OPSETS = (18, 19, 20, 21, 22, 23)  # of torch's exporter and onnxruntime
TOLERANCE = 1e-5  # 1 - cosine, between the graph's embedding and torch's
SECONDS = (0.7, 1.9, 4.3)  # lengths at which a graph is checked: of none it is made


class _ConvolvedSTFT(nn.Module):
    """SpeechBrain's ``STFT`` as a convolution with the windowed Fourier basis.

    Equal to rounding. torch 2.13 exports ``torch.stft`` with a wrong number of frames.
    """

    def __init__(self, stft: STFT) -> None:
        super().__init__()
        if not stft.center or not stft.onesided or stft.normalized_stft:
            raise UserError("only a centred, one-sided, unscaled STFT can be exported")
        if stft.pad_mode != "constant":
            raise UserError("only an STFT padded with zeros can be exported")
        size = stft.n_fft
        window = torch.zeros(size, dtype=torch.float64)
        left = (size - stft.win_length) // 2
        window[left : left + stft.win_length] = stft.window.double()
        turns = torch.outer(torch.arange(size // 2 + 1), torch.arange(size)) % size
        angles = 2 * torch.pi * turns.double() / size
        basis = torch.cat([angles.cos(), -angles.sin()]) * window
        self.basis = nn.Buffer(basis.float().unsqueeze(1))
        self.hop, self.padding = stft.hop_length, size // 2

    def forward(self, wavs: Tensor) -> Tensor:
        """[B, T] to [B, frames, frequencies, 2]."""
        parts = nn.functional.conv1d(
            wavs.unsqueeze(1), self.basis, stride=self.hop, padding=self.padding
        )
        return torch.stack(parts.transpose(1, 2).chunk(2, dim=-1), dim=-1)


class _Pooling(nn.Module):
    """SpeechBrain's ``StatisticsPooling`` with the mean of the noise (of 1e-5) that it
    adds to means in place of the noise."""

    def __init__(self, pooling: StatisticsPooling) -> None:
        super().__init__()
        self.eps = pooling.eps

    def forward(self, x: Tensor) -> Tensor:
        mean, std = x.mean(dim=1) + 5 * self.eps, x.std(dim=1) + self.eps
        return torch.cat([mean, std], dim=1).unsqueeze(1)


def _exportable(encoder: SpeakerEncoder) -> SpeakerEncoder:
    """A copy on the CPU, of parts that every exporter takes."""
    encoder = copy.deepcopy(encoder).float().cpu().eval()
    constants_to(encoder, "cpu")
    for path, part in list(encoder.named_modules()):
        owner, _, name = path.rpartition(".")
        if isinstance(part, STFT):
            setattr(encoder.get_submodule(owner), name, _ConvolvedSTFT(part))
        elif type(part) is StatisticsPooling and part.return_mean and part.return_std:
            setattr(encoder.get_submodule(owner), name, _Pooling(part))
    network = encoder.embedding_model
    if isinstance(network, Xvector):  # it tries each layer with lengths first
        encoder.embedding_model = nn.Sequential(*network.blocks)
    return encoder.requires_grad_(False)


def _length_to_mask(
    length: Tensor, max_len: int, dtype: Any = None, device: Any = None
) -> Tensor:
    """SpeechBrain's, without the ``len`` that fixes the batch in a graph."""
    mask = torch.arange(max_len, device=device) < length.unsqueeze(1)
    return mask.to(dtype or length.dtype)


@contextmanager
def _free_batch() -> Iterator[None]:
    """ECAPA-TDNN with a mask that can be exported."""
    before = ECAPA_TDNN.length_to_mask
    ECAPA_TDNN.length_to_mask = _length_to_mask
    try:
        yield
    finally:
        ECAPA_TDNN.length_to_mask = before


def _program(verifier: SpeakerVerifier) -> torch.export.ExportedProgram:
    """The encoder as a graph of torch, batch and length free."""
    example = torch.zeros(2, verifier.sample_rate)
    free = dict.fromkeys((0, 1), torch.export.Dim.DYNAMIC)
    try:
        with _quiet(), _free_batch():
            return torch.export.export(
                _exportable(verifier.encoder), (example,), dynamic_shapes=(free,)
            )
    except UserError:
        raise
    except Exception as error:  # whatever the exporter meets in a network
        raise UserError(
            f"torch cannot export this network as a graph: {_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def metadata(verifier: SpeakerVerifier) -> dict[str, str]:
    """What a graph says of its model: texts, all but the first three of them JSON.

    ``sb_margins`` (version), ``fingerprint``, ``sample_rate``; ``similarity`` (name,
    and the curvature of the Poincaré ball), ``thresholds``, ``calibration``,
    ``warnings``.
    """
    about = {
        "similarity": verifier.similarity.settings(),
        "thresholds": verifier.thresholds,
        "calibration": verifier.calibration,
        "warnings": verifier.warnings,
    }
    return {
        "sb_margins": __version__,
        "fingerprint": verifier.fingerprint,
        "sample_rate": str(verifier.sample_rate),
        **{name: json.dumps(value) for name, value in about.items()},
    }


def export_torch(verifier: SpeakerVerifier, path: str | Path) -> Path:
    """Write the encoder as a program of ``torch.export``; where it is.

    ``torch.export.load(path).module()`` takes waveforms [B, T] of full length and gives
    embeddings [B, D], without SpeechBrain or this package; the `metadata` are its extra
    file ``model.json``.

    Arguments
    ---------
    verifier : SpeakerVerifier
        The model.
    path : str or Path
        The file to write, ``.pt2``.

    Raises
    ------
    UserError
        For another suffix, or a network that torch cannot export.

    Example
    -------
    >>> from sb_margins.inference import SpeakerVerifier
    >>> model = SpeakerVerifier.from_hparams("my_model")  # doctest: +SKIP
    >>> export_torch(model, "speaker.pt2")  # doctest: +SKIP
    """
    path = _target(path, ".pt2")
    program = _program(verifier)
    run = program.module()
    _check_equal(verifier, lambda wavs, _: run(wavs), padded=False)
    about = {"model.json": json.dumps(metadata(verifier))}
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files=about)
    with write_whole(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
    return path


def export_onnx(verifier: SpeakerVerifier, path: str | Path, opset: int = 18) -> Path:
    """Write the model as one ONNX graph, from waveform to embedding; where it is.

    Inputs: ``waveform`` [batch, samples] float32 at the model's rate, ``lengths``
    [batch] int64. Output: ``embedding`` [batch, D] float32, as
    `SpeakerVerifier.encode_batch` gives. `metadata` are in the file. The graph is
    compared with torch before it is written.

    Arguments
    ---------
    verifier : SpeakerVerifier
        The model.
    path : str or Path
        The file to write, ``.onnx``.
    opset : int
        Version of ONNX's operators, 18 (default) to 23.

    Raises
    ------
    UserError
        Without the extra ``onnx``; for another suffix or opset; for a network that
        torch cannot export, or whose graph gives other embeddings.

    Example
    -------
    >>> from sb_margins.inference import SpeakerVerifier
    >>> model = SpeakerVerifier.from_hparams("my_model")  # doctest: +SKIP
    >>> export_onnx(model, "speaker.onnx")  # doctest: +SKIP
    """
    path = _target(path, ".onnx")
    if opset not in OPSETS:
        raise UserError(
            f"opset {opset} is not supported; give one from {OPSETS[0]} to {OPSETS[-1]}"
        )
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError as error:
        raise UserError(
            f"{_first_line(error)}. An ONNX graph needs the extra onnx: "
            "pip install 'sb-margins[onnx]'"
        ) from error
    with _quiet():
        exported: Any = torch.onnx.export(
            _program(verifier),
            (),
            dynamo=True,
            opset_version=opset,
            input_names=["waveform"],
            output_names=["embedding"],
            verbose=False,
        )
    model = _with_lengths(exported.model_proto)
    onnx.helper.set_model_props(model, metadata(verifier))
    onnx.checker.check_model(model, full_check=True)
    data = model.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        data, options, providers=["CPUExecutionProvider"]
    )

    def run(wavs: Tensor, lengths: Tensor) -> Tensor:
        feeds = {"waveform": wavs.numpy(), "lengths": lengths.numpy()}
        return torch.from_numpy(session.run(None, feeds)[0])

    _check_equal(verifier, run)
    with write_whole(path) as temporary:
        temporary.write_bytes(data)
    return path


def _target(path: str | Path, suffix: str) -> Path:
    path = Path(path)
    if path.suffix != suffix:
        raise UserError(f"{path} must end in {suffix}")
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a file to write")
    return path


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's lines about packages that are not there."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _with_lengths(model: Any) -> Any:
    """The graph with the input ``lengths``.

    Where all rows are of full length, the encoder's nodes on the whole batch; else the
    same nodes in a loop over rows, each cut to its length. Weights are there once.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    size = graph.output[0].type.tensor_type.shape.dim[-1].dim_value
    for node in graph.node:  # stack traces with paths of this machine
        del node.metadata_props[:]
        node.doc_string = ""

    def tensor(name: str, shape: list, kind: int = TensorProto.FLOAT) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    def constant(name: str, value: Any) -> Any:
        return numpy_helper.from_array(torch.tensor(value).numpy(), name)

    together = helper.make_graph(
        list(graph.node), "together", [], [tensor("embedding", ["batch", size])]
    )
    nodes = [copy.deepcopy(node) for node in graph.node]
    for node in nodes:
        node.input[:] = ["row" if n == "waveform" else n for n in node.input]
    cut = [
        helper.make_node("Gather", ["waveform", "number"], ["padded"], axis=0),
        helper.make_node("Gather", ["lengths", "number"], ["end"], axis=0),
        helper.make_node("Unsqueeze", ["end", "only"], ["ends"]),
        helper.make_node("Slice", ["padded", "only", "ends", "only"], ["one"]),
        helper.make_node("Unsqueeze", ["one", "only"], ["row"]),
    ]
    alone = helper.make_node("Squeeze", ["embedding", "only"], ["vector"])
    goes_on = helper.make_node("Identity", ["more"], ["goes_on"])
    body = helper.make_graph(
        [*cut, *nodes, alone, goes_on],
        "row_by_row",
        [tensor("number", [], TensorProto.INT64), tensor("more", [], TensorProto.BOOL)],
        [tensor("goes_on", [], TensorProto.BOOL), tensor("vector", [size])],
    )
    loop = helper.make_node("Loop", ["rows", ""], ["embeddings"], body=body)
    apart = helper.make_graph(
        [loop], "apart", [], [tensor("embeddings", ["batch", size])]
    )
    outer = [
        helper.make_node("Shape", ["waveform"], ["samples"], start=1),
        helper.make_node("Shape", ["lengths"], ["row_count"]),
        helper.make_node("Squeeze", ["row_count"], ["rows"]),
        helper.make_node("ReduceMin", ["lengths"], ["shortest"], keepdims=0),
        helper.make_node("GreaterOrEqual", ["shortest", "samples"], ["full_row"]),
        helper.make_node("Squeeze", ["full_row"], ["full"]),
        helper.make_node(
            "If", ["full"], ["output"], then_branch=together, else_branch=apart
        ),
    ]
    inputs = [
        tensor("waveform", ["batch", "samples"]),
        tensor("lengths", ["batch"], TensorProto.INT64),
    ]
    whole = helper.make_graph(
        outer,
        "speaker_encoder",
        inputs,
        [tensor("output", ["batch", size])],
        [*graph.initializer, constant("only", [0])],
    )
    return helper.make_model(
        whole, opset_imports=model.opset_import, ir_version=model.ir_version
    )


def _check_equal(verifier: SpeakerVerifier, run: Any, padded: bool = True) -> None:
    """Raise unless a graph gives torch's embeddings at lengths it has not seen."""
    generator = torch.Generator().manual_seed(1)
    samples = [round(s * verifier.sample_rate) for s in SECONDS]
    cases = [[count] * (n % 2 + 1) for n, count in enumerate(samples)]
    for own in [*cases, *[samples] * padded]:
        lengths = torch.tensor(own)
        wavs = torch.randn(len(own), max(own), generator=generator) / 10
        found = run(wavs, lengths)
        wanted = verifier.encode_batch(wavs, lengths / wavs.shape[1]).cpu()
        apart = 1 - torch.cosine_similarity(found.double(), wanted.double())
        if found.shape != wanted.shape or not (apart < TOLERANCE).all():
            raise UserError(
                "the exported graph does not give the model's embeddings "
                f"(1 - cosine is {float(apart.max()):.1e}); nothing was written"
            )
