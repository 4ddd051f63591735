"""From random initialisation on separable data every loss reaches its floor."""

import math

import pytest
import torch

from sb_margins import select

CLASSES, SIZE = 6, 12

# real_am "zero": the satisfied pull the target until K exp(-s (1 - m)); others: 0
FLOORS = {"real_am-clamp": math.log(CLASSES), "real_am_poincare-clamp": math.log(6)}
RUNS = [*select.names(), *FLOORS]


@pytest.mark.parametrize("name", RUNS)
def test_learns(name):
    torch.manual_seed(0)
    loss, _, form = name.partition("-")
    options = {"satisfied": form} if form else {}
    if "anneal" in select.settings(loss):
        options |= {"anneal": 5.0}
    if loss == "metric":  # a wider margin than random embeddings keep
        options = {"metric_options": {"margin": 1.0}}
    head = select.head(loss, SIZE, CLASSES, **options)
    encoder = torch.nn.Linear(20, SIZE)
    centres = torch.randn(CLASSES, 20)
    labels = torch.arange(60) % CLASSES
    x = centres[labels] + 0.05 * torch.randn(60, 20)
    parameters = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=0.05)
    first = head(encoder(x), labels).item()
    for _ in range(120):
        optimizer.zero_grad()
        value = head(encoder(x), labels)
        value.backward()
        optimizer.step()
    assert head.correct.all()
    floor = FLOORS.get(name, 0.0)
    assert floor - 1e-5 <= value.item() < floor + 0.01
    # AS with delta = 0.1 is content early, the others start far above their floor
    assert first > value.item()
