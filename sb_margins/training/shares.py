"""Checkpoints of a run whose classes are spread over processes: as one would write.

Not DTensors: torch 2.13 neither clips their gradients together with others' nor updates
them in one fused optimizer, and would cut between the rows of a class.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from speechbrain.utils.checkpoints import Checkpointer
from speechbrain.utils.distributed import if_main_process
from torch import Tensor

from sb_margins.ranks import Ranks, ranks_of


def keep_whole(
    checkpointer: Checkpointer, head: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Save a head whose classes are spread, and its optimizer, as one process would.

    A checkpoint then continues with any number of processes, and is exported as ever.
    """
    named = dict(head.named_parameters())
    groups = optimizer.param_groups
    numbered = dict(enumerate(p for group in groups for p in group["params"]))
    spread = {i: r for i, p in numbered.items() if (r := ranks_of(p)) is not None}

    def change(state: dict, how: Callable[[Ranks, Tensor], Tensor]) -> dict:
        """The optimizer's state, what it has for each row of classes changed."""
        of = dict(state["state"])
        for i, ranks in spread.items():
            parts = of.get(i, {})
            of[i] = {k: how(ranks, v) if _has_rows(v) else v for k, v in parts.items()}
        return {**state, "state": of}

    def save_head(_: Any, path: str) -> None:
        state = head.state_dict()
        for name, parameter in named.items():
            ranks = ranks_of(parameter)
            if ranks is not None:
                state[name] = ranks.whole(parameter)
        _write(state, path)

    def save_optimizer(_: Any, path: str) -> None:
        _write(change(optimizer.state_dict(), Ranks.whole), path)

    optimizer.register_load_state_dict_pre_hook(
        lambda _, state: change(state, Ranks.rows)
    )
    checkpointer.custom_save_hooks.update(head=save_head, optimizer=save_optimizer)


def _has_rows(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0


def _write(state: dict, path: str) -> None:
    if if_main_process():
        torch.save(state, path)
