"""A rank that holds some of the classes is one more tile."""

import pytest
import torch

from sb_margins.heads.walk import Plan, Walk
from sb_margins.losses import Keep
from sb_margins.tiles import CosineSpace, Tiles, UnitBallSpace

B, D, C = 12, 5, 30


@pytest.mark.parametrize("keep", ["all", "violating", "each"])
@pytest.mark.parametrize("space", [CosineSpace(), UnitBallSpace(3.0)], ids=["cos", "d"])
def test_ranks_reduce_to_one_walk(space, keep, branch):
    """Each rank walks over its classes, labels shifted, many of them elsewhere."""
    torch.manual_seed(0)
    weight = torch.randn(C, D, dtype=torch.float64)
    left = space.left(space.points(torch.randn(B, D, dtype=torch.float64)))
    labels = torch.randint(0, C, (B,))
    cut = 20 * torch.randn(B, 1, dtype=torch.float64)

    def walk(low, high, tile):
        ranges = [(i, min(i + tile, high - low)) for i in range(0, high - low, tile)]
        plan = Plan(space, 30.0, Keep(keep), ranges, False)
        tiles = Tiles(space, left, weight[low:high], scale=30.0)
        return Walk(plan, left, labels - low, cut, tiles, None, False).forward()

    whole = walk(0, C, 7)
    ranks = [walk(0, 11, 4), walk(11, 12, 4), walk(12, C, 18)]
    top = torch.cat([r.top for r in ranks], 1).amax(1, keepdim=True)
    total = sum(r.total * (r.top - top).exp2() for r in ranks)
    torch.testing.assert_close(total.log2() + top, whole.total.log2() + whole.top)
    best = torch.cat([r.best for r in ranks], 1).amax(1, keepdim=True)
    torch.testing.assert_close(best, whole.best)
    if keep == "violating":
        assert torch.equal(sum(r.number for r in ranks), whole.number)
    if keep == "each":
        torch.testing.assert_close(sum(r.number for r in ranks), whole.number)
