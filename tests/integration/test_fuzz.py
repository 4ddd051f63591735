"""Some mutated files through every reader; see helpers/fuzzing.py for more."""

from __future__ import annotations

from fuzzing import Case, draw, failures

# Seeds that once failed stay here, with the reader that they failed in.
KEPT = [
    Case("model yaml", 5000018),
    Case("model yaml", 7000365),
    Case("model yaml", 7000404),
    Case("embeddings", 5000000),
    Case("embeddings", 8000052),
    Case("set", 5000003),
]


def test_mutated_files_end_well():
    """Nothing executed, no traceback, no hang, no NaN, 2 GB of memory at most."""
    wrong = [f"{case}\n{text}" for case, text in failures([*draw(75, seed=1), *KEPT])]
    assert not wrong, "\n\n".join(wrong)
