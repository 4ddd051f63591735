"""A margin loss in plain PyTorch: train on some classes, verify pairs of others.

python examples/plain_pytorch.py
"""

import torch

from sb_margins import AAMSoftmax, CosineClassifier, CosineSimilarity, Head
from sb_margins.verification.metrics import eer

DIMENSIONS, TRAIN_CLASSES, TEST_CLASSES, EACH = 40, 200, 30, 10


def make_data(classes: int, mixing: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Points around class centres, hidden among dimensions that say nothing."""
    centres = torch.randn(classes, 1, DIMENSIONS // 4)
    useful = centres + 0.6 * torch.randn(classes, EACH, DIMENSIONS // 4)
    useless = 2 * torch.randn(classes, EACH, DIMENSIONS - DIMENSIONS // 4)
    features = torch.cat([useful, useless], dim=2).flatten(0, 1) @ mixing
    return features, torch.arange(classes).repeat_interleave(EACH)


def verify(embeddings: torch.Tensor, labels: torch.Tensor) -> float:
    """EER in per cent over all pairs of different points."""
    scores = CosineSimilarity().matrix(embeddings, embeddings)
    same = labels[:, None] == labels[None, :]
    rows, columns = torch.triu_indices(len(labels), len(labels), 1)
    return 100 * eer(scores[rows, columns], same[rows, columns])


def main() -> None:
    torch.manual_seed(1)
    mixing = torch.randn(DIMENSIONS, DIMENSIONS)
    features, labels = make_data(TRAIN_CLASSES, mixing)
    test_features, test_labels = make_data(TEST_CLASSES, mixing)
    encoder = torch.nn.Linear(DIMENSIONS, 16)
    head = Head(CosineClassifier(16, TRAIN_CLASSES), AAMSoftmax(margin=0.2, scale=30))
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=0.01)

    for epoch in range(21):
        if epoch % 5 == 0:
            with torch.no_grad():
                error = verify(encoder(test_features), test_labels)
            print(f"epoch {epoch:2}  EER of pairs of new classes {error:.1f} %")
        for batch in torch.randperm(len(labels)).split(100):
            loss = head(encoder(features[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


if __name__ == "__main__":
    main()
