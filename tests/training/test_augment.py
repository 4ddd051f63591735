"""Augmentation: one part for each example, drawn by the seed of the step."""

import numpy as np
import pytest
import soundfile
import torch

from sb_margins.errors import UserError
from sb_margins.training.augment import build_augmenter


def test_augmenter_keeps_the_batch_and_needs_what_it_names(tmp_path, make_voice):
    for name in ("noise", "rir"):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "a b.wav", make_voice(1, 1, 0.6), 16000)
    augment = build_augmenter(
        str(tmp_path / "save"),
        noise_folder=str(tmp_path / "noise"),
        rir_folder=str(tmp_path / "rir"),
        probability=1.0,
    )
    wavs = torch.from_numpy(np.stack([make_voice(k, 0, 1.0) for k in range(10)]))
    out, lengths = augment(wavs, torch.ones(10))
    assert out.shape == wavs.shape and torch.isfinite(out).all()
    assert lengths.shape == (10,)
    changed = [(out[k] - wavs[k]).abs().max() > 0 for k in range(10)]
    assert sum(changed) >= 7  # a silenced chunk may fall on silence
    once, again = (
        [torch.manual_seed(5), augment(wavs, torch.ones(10))[0]][1] for _ in range(2)
    )
    torch.testing.assert_close(once, again, rtol=0, atol=0)
    with pytest.raises(UserError, match="no such noise folder"):
        build_augmenter("x", noise_folder=str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no audio"):
        build_augmenter("x", rir_folder=str(tmp_path / "empty"))
    nothing = {"white_noise": False, "drop_freq": False, "drop_chunk": False}
    assert build_augmenter("x", **nothing) is None
