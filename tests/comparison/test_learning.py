"""What histories tell, against counting by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from sb_margins.comparison import learning
from sb_margins.comparison.learning import loss_and_eer, speed, speed_table


def rows(*eers, **more):
    start = [{"epoch": 0, "EER": 0.01}]  # the untrained network does not count
    return start + [
        {"epoch": k, "EER": e, "updates": 10 * k, "samples": 80 * k, "minutes": 0.5 * k}
        | {name: values[k - 1] for name, values in more.items()}
        for k, e in enumerate(eers, 1)
    ]


def test_time_to_what_every_system_reaches():
    found = speed(
        {
            "am": {1: rows(0.3, 0.1, 0.2), 2: rows(0.4, 0.2), 3: rows(0.1)},
            "ham": {1: rows(0.2, 0.3, 0.15), 2: rows(0.1, 0.05), 4: rows(0.1)},
        }
    )
    assert found.targets == [0.15, 0.2], "the runs 1 and 2, which both have"
    reached = {k: [row["epoch"] for row in v] for k, v in found.reached.items()}
    assert reached == {"am": [2, 2], "ham": [3, 1]}
    table = speed_table(found)
    assert table["rows"][0] == ["am", "2.0 ± 0.0", "20 ± 0", "160 ± 0", "1.0 ± 0.0"]
    assert table["rows"][1][2] == "20 ± 14" and table["target"] == "17.50 ± 3.54"


@pytest.mark.parametrize(
    "runs", [{1: [{"epoch": 1, "loss": 2.0}]}, {2: rows(0.1)}, {1: rows()}]
)
def test_without_a_common_run_or_dev_there_is_no_time(runs):
    assert speed({"am": {1: rows(0.2)}, "ham": runs}) is None


def system(full, **settings):
    plain = {"batch_size": 8, "crops_per_utterance": 2, "margin_end_epoch": full}
    return SimpleNamespace(settings=SimpleNamespace(**plain), **settings)


def test_correlation_of_loss_and_dev_eer_is_of_ranks_once_the_margin_is_full():
    eers = [0.9, 0.1, 0.5, 0.4, 0.2, 0.1]
    falling = rows(*eers, loss=[1, 9, 5.0, 3.0, 2.0, 1.9])
    rising = rows(*eers, loss=[1, 9, 5.0, 6.0, 7.0, 90.0])
    runs = {1: falling, 2: rising}
    assert loss_and_eer(system(2), runs) == pytest.approx([1.0, -1.0])
    assert np.isnan(loss_and_eer(system(2.5), runs)).all(), "three epochs are too few"
    assert loss_and_eer(system(1), runs) != loss_and_eer(system(2), runs)
    flat = rows(*eers, loss=[1.0] * 6)
    assert np.isnan(loss_and_eer(system(0), {1: flat}))


def test_updates_samples_and_windows_are_counted():
    history = [{"epoch": 0}, *({"epoch": k, "seconds": 30.0} for k in (1, 2))]

    def counted(factor=None):
        result = SimpleNamespace(
            settings={
                "batch_size": 8,
                "crops_per_utterance": 2,
                "grad_accumulation_factor": factor,
            },
            history=SimpleNamespace(rows=history),
        )
        return learning._counted(result, 21)  # 42 crops: 5 batches

    got = counted()
    assert got[0] == {"epoch": 0}
    assert [row["samples"] for row in got[1:]] == [40, 80]
    assert [row["minutes"] for row in got[1:]] == [0.5, 1.0]
    assert [row["updates"] for row in got[1:]] == [5, 10]
    assert [row["updates"] for row in counted(2)[1:]] == [3, 6]
    history[1]["updates"], history[2]["updates"] = 4, 6  # of AS-Speed
    assert [row["window"] for row in counted()[1:]] == [1.25, 2.5]
    history[1] |= {"0.kept": 0.2, "1.kept": 0.5, "0.zero_loss": 0.3}  # a joint loss
    assert (counted()[1]["kept"], counted()[1]["zero_loss"]) == (0.5, 0.3)
    history[2]["updates"] = 4  # every update was skipped
    assert "window" not in counted()[2]
