"""One process of a group whose head is spread over its ranks: see test_ranks.py."""

import copy
import os
import sys
import traceback
from contextlib import nullcontext

import torch
import torch.distributed as dist
from losses_grid import FEWER_PAIRS, build

from sb_margins.head import Head
from sb_margins.precision import accelerator_branches

B, D = 8, 6


def join(rank, size, port):
    """Enter a gloo group."""
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=size)


def run(head, x, labels):
    """The loss, and what it leaves: gradients, statistics, who is right."""
    x = x.clone().requires_grad_()
    loss = head(x, labels)
    loss.backward()
    grads = {name: p.grad for name, p in head.named_parameters()}
    return loss.detach(), x.grad, grads, dict(head.stats), head.correct


def compare(case, rank, size, classes, store, tile):
    """The largest difference between the ranks and one process, in float64."""
    torch.manual_seed(len(str(case)))
    alone = Head(*build(*case, D, classes, torch.float64), store=store, tile=tile)
    x = torch.randn(B, D, dtype=torch.float64)
    labels = torch.randint(classes, (B,))
    spread = copy.deepcopy(alone)
    whole = spread.state_dict()
    spread.spread()
    spread.load_state_dict(whole)  # whole weights load into shares
    rows = slice(rank * B // size, (rank + 1) * B // size)
    loss, dx, grads, stats, correct = run(spread, x[rows], labels[rows])
    loss0, dx0, grads0, stats0, correct0 = run(alone, x, labels)
    means = torch.stack([loss, *stats.values()])
    dist.all_reduce(means)
    means0 = torch.stack([loss0, *stats0.values()])
    pairs = {"loss and statistics": (means / size, means0)}
    pairs["embeddings"] = dx / size, dx0[rows]
    for name, parameter in spread.named_parameters():
        part, all_of_it = grads[name], grads0[name]
        if parameter.dim():
            all_of_it = spread.ranks.rows(all_of_it)
        pairs[name] = part, all_of_it
    assert torch.equal(correct, correct0[rows]), (case, "correct")
    for name, (one, other) in pairs.items():
        assert one.shape == other.shape, (case, name)
        off = (one - other).abs().max().item() / max(1.0, other.abs().max().item())
        assert off < 1e-10, (case, name, off)


def main(rank, size, port):
    """Every loss on every classifier; 0 when all agree."""
    join(rank, size, port)
    classes = 11 if size == 2 else 6  # fewer than top_k on a rank
    bad = 0
    for i, case in enumerate(FEWER_PAIRS):
        small = (i + size // 2) % 2  # each pair is stored here, computed twice there
        options = (False, 2) if small else (True, None)
        with accelerator_branches() if small else nullcontext():
            try:
                compare(case, rank, size, classes, *options)
            except Exception:
                traceback.print_exc(file=sys.stdout)
                bad += 1
    print(f"{bad} of {len(FEWER_PAIRS)} differ", flush=True)
    os._exit(bad > 0)
