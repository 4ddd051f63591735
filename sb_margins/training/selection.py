"""Which weights a training ends with: the best epoch's, or an average of the last."""

from __future__ import annotations

import logging

from speechbrain.utils.checkpoints import average_checkpoints
from speechbrain.utils.distributed import ddp_broadcast

from sb_margins.training.brain import SpeakerBrain

NAMES = ("embedding_model", "head")


def load_final(brain: SpeakerBrain, last: int = 1) -> str:
    """Load the weights that verify the held-out speakers best.

    Arguments
    ---------
    brain : SpeakerBrain
        After its training.
    last : int
        With more than 1, the mean of the last ``last`` epochs' weights is tried too.

    Returns
    -------
    str
        Which weights these are, in words.
    """
    checkpointer = brain.checkpointer
    key = {"min_key": "EER"} if brain.validate is not None else {}
    best = checkpointer.recover_if_possible(**key)
    if best is None:
        return "the weights of the last step"
    words = f"the weights of epoch {best.meta.get('epoch')}"
    ended = checkpointer.find_checkpoints(
        ckpt_predicate=lambda c: c.meta.get("end-of-epoch") and "mean_of" not in c.meta,
        max_num_checkpoints=last,
    )
    if last > 1 and len(ended) > 1:
        for name in NAMES:
            module = getattr(brain.hparams, name)
            module.load_state_dict(average_checkpoints(ended, name))
        words_mean = f"the mean of the last {len(ended)} epochs' weights"
        stats = brain.validation_stats()
        better = stats.get("EER", 0.0) <= best.meta.get("EER", 0.0)
        if ddp_broadcast(better):  # rounding must not part the processes
            meta = {**stats, "epoch": best.meta.get("epoch"), "mean_of": len(ended)}
            checkpointer.save_checkpoint(meta, verbosity=logging.DEBUG)
            return words_mean
        checkpointer.load_checkpoint(best)
    return words
