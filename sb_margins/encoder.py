"""Speech to embedding: the three modules of a SpeechBrain recipe, as one."""

from __future__ import annotations

import torch
from speechbrain.nnet.CNN import Conv1d
from torch import Tensor, nn


def without_empty_padding(network: nn.Module) -> nn.Module:
    """Spare SpeechBrain's convolutions of kernel size 1 a copy of their input.

    "same" padding of such a convolution adds nothing, but ``pad`` copies the whole
    tensor, forward and backward: 4 to 10 % of a CPU step of ECAPA-TDNN. Values,
    gradients and state dicts stay as they are, bit for bit.

    Arguments
    ---------
    network : torch.nn.Module
        Any; changed in place.

    Returns
    -------
    torch.nn.Module
        The same network.

    Example
    -------
    >>> layer = Conv1d(4, kernel_size=1, in_channels=3, skip_transpose=True)
    >>> without_empty_padding(layer).padding
    'valid'
    """
    for module in network.modules():
        if isinstance(module, Conv1d) and module.padding == "same":
            if module.kernel_size == module.stride == 1:
                module.padding = "valid"
    return network


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

    def __init__(self, compute_features, mean_var_norm, embedding_model):
        super().__init__()
        self.compute_features = compute_features
        self.mean_var_norm = mean_var_norm
        self.embedding_model = without_empty_padding(embedding_model)

    def forward(self, wavs: Tensor) -> Tensor:
        """Embeddings of waveforms.

        Arguments
        ---------
        wavs : torch.Tensor
            [B, T] float waveforms at the model's rate.

        Returns
        -------
        torch.Tensor
            [B, D] embeddings, not normalised.
        """
        lengths = torch.ones(wavs.shape[0], device=wavs.device)
        feats = self.mean_var_norm(self.compute_features(wavs), lengths)
        return self.embedding_model(feats).reshape(wavs.shape[0], -1)
