"""Who is speaking when several do: multi-label AS-Softmax on synthetic mixtures.

Softmax says which one of the speakers it is. Where several speak at once the question
is which of them are there; this loss learns a score for each that is above 0 if so, and
leaves alone the speakers who are already far from being mixed up.

python examples/overlapping_speakers.py
"""

import math

import torch

from sb_margins import Head, LinearClassifier, MultiLabelASSoftmax

SPEAKERS, SAMPLES, RATE = 10, 2000, 8000
torch.manual_seed(1)
PITCH = 90 + 150 * torch.rand(SPEAKERS)
FORMANTS = 300 + 3000 * torch.rand(SPEAKERS, 3)
TIME = torch.arange(SAMPLES) / RATE


def voice(speaker: int) -> torch.Tensor:
    """A quarter of a second of a speaker, [SAMPLES]: harmonics through formants."""
    frequency = PITCH[speaker] * torch.arange(1, 31).unsqueeze(1)
    gain = (-(((frequency - FORMANTS[speaker]) / 150) ** 2)).exp().sum(1) + 0.02
    bend = 1 + 0.04 * torch.randn(())  # nobody speaks in one tone
    phase = torch.rand(30, 1)
    return gain @ (2 * math.pi * (bend * frequency * TIME + phase)).sin()


def mixtures(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Log spectra of one to three voices at once, and who they are, 0 or 1."""
    present, sound = torch.zeros(number, SPEAKERS), torch.randn(number, SAMPLES) / 50
    for row in range(number):
        for speaker in torch.randperm(SPEAKERS)[: 1 + row % 3].tolist():
            present[row, speaker] = 1
            sound[row] += voice(speaker)
    window = torch.hann_window(512)
    spectra = torch.stft(sound, 512, window=window, return_complex=True).abs()
    return (spectra.mean(2) + 1e-3).log(), present


def main() -> None:
    features, present = mixtures(600)
    test_features, test_present = mixtures(200)
    encoder = torch.nn.Sequential(
        torch.nn.BatchNorm1d(257), torch.nn.Linear(257, 64), torch.nn.ReLU()
    )
    head = Head(LinearClassifier(64, SPEAKERS), MultiLabelASSoftmax(delta=0.9))
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=0.01)
    for epoch in range(16):
        if epoch % 5 == 0:
            with torch.no_grad():
                found = head(encoder.eval()(test_features))[:, 0] > 0
            exact = (found == (test_present > 0)).all(1).float().mean()
            print(f"epoch {epoch:2}  all speakers found, and no other: {exact:.1%}")
        encoder.train()
        for batch in torch.randperm(len(features)).split(50):
            loss = head(encoder(features[batch]), present[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


if __name__ == "__main__":
    main()
