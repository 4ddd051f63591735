"""sb-margins compare at its smallest: cells, resuming, refusals, the report."""

import json
import os
import re
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from corpus_trees import sitw

from sb_margins import select
from sb_margins.cli import main as cli
from sb_margins.commands.demo import SMALLEST
from sb_margins.comparison import report, run
from sb_margins.comparison.cells import mark_finished
from sb_margins.comparison.plan import configuration_hash, make_plan
from sb_margins.comparison.statistics import LEAST
from sb_margins.data import Prepared
from sb_margins.files import locked
from sb_margins.select import hparams_dir
from sb_margins.training.brain import SpeakerBrain
from sb_margins.training.config import read_config
from sb_margins.training.log import History
from sb_margins.verification.metrics import eer
from sb_margins.verification.score_file import read_scores

SMALL = [
    "--channels=8",
    "--attention_channels=8",
    "--emb_dim=16",
    "--n_mels=24",
    "--batch_size=8",
    "--sentence_len=0.6",
    "--crops_per_utterance=1",
    "--number_of_epochs=2",
    "--replicates=100",
]
IN_A_PROCESS = run.start_cell  # before the fixture below replaces it
YAML = str(hparams_dir() / "train_ecapa.yaml")


class InProcess:
    """Trains without starting an interpreter, and notes what it was asked."""

    def __init__(self):
        self.ran, self.batches, self.fail = [], {}, set()
        self.key = None

    def start(self, plan, cell, slot, jobs, lock):
        assert not lock.closed
        self.ran.append(cell.label)
        self.key = (cell.variant.label, cell.seed)
        status = 2
        if cell.variant.loss not in self.fail:
            cell.folder.mkdir(parents=True, exist_ok=True)
            status = cli(["train", *plan.train_argv(cell), "--noprogressbar"])
        (cell.folder).mkdir(parents=True, exist_ok=True)
        (cell.folder / "train.log").write_text("last words\n")
        process = SimpleNamespace(poll=lambda: status, returncode=status)
        return run.RunningCell(cell, process, slot)


@pytest.fixture(scope="module")
def runner():
    """All runs of this file, in this process."""
    one = InProcess()
    begin = SpeakerBrain.on_fit_batch_start

    def noted(self, batch, should_step):
        batches = one.batches.setdefault(one.key, [])
        batches.append((tuple(batch.ids), float(batch.wavs.double().sum())))
        return begin(self, batch, should_step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "start_cell", one.start)
        patch.setattr(SpeakerBrain, "on_fit_batch_start", noted)
        yield one


@pytest.fixture(scope="module")
def corpus(tiny_corpus, tmp_path_factory):
    """The tiny corpus with what is known about its speakers."""
    folder = tmp_path_factory.mktemp("about") / "corpus"
    shutil.copytree(tiny_corpus, folder)
    rows = ["utt_id,spk_id,path"]
    for path in sorted(folder.glob("*/*/*.wav")):
        name = path.relative_to(folder).as_posix()
        rows.append(f"{name},{name.split('/')[0]},{name}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    split = dict(zip(range(8), ["train"] * 3 + ["dev"] * 2 + ["test"] * 3, strict=True))
    about = [f"spk{k},{'fm'[k % 2]},{5 + 9 * k}" for k in range(8)]
    (folder / "speakers.csv").write_text("spk_id,gender,age\n" + "\n".join(about))
    assigned = [f"{row.split(',')[0]},{split[int(row[3])]}" for row in rows[1:]]
    (folder / "splits.csv").write_text("utt_id,split\n" + "\n".join(assigned) + "\n")
    return folder


def compare_argv(corpus, out, losses="am,ham", *more, seeds=2):
    asked = [f"--losses={losses}", f"--seeds={seeds}", f"--output={out}"]
    return ["compare", YAML, *asked, "--data-folder", str(corpus), *SMALL, *more]


@pytest.fixture(scope="module")
def compared(runner, corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("compared") / "out"
    assert cli(compare_argv(corpus, out)) == 0
    return out


def test_every_cell_is_there_and_the_report_tells_its_figures(compared, runner):
    assert runner.ran[:4] == [
        f"{x}, seed {s}" for s in (1986, 1987) for x in ("am", "ham")
    ]
    numbers = json.loads((compared / "report.json").read_text())
    values = []
    for seed in (1986, 1987):
        path = compared / "cells" / "ham" / str(seed) / "scores_test.txt"
        trials, scores = read_scores(path)
        values.append(eer(scores, trials.labels))
    figure = numbers["lists"]["test"]["ham"]["eer"]
    assert figure["mean"] == pytest.approx(np.mean(values))
    assert figure["spread"] == pytest.approx(np.std(values, ddof=1))
    assert numbers["baseline"] == "am" and numbers["seeds"] == [1986, 1987]
    assert "dev" not in numbers["lists"], "dev chooses, it is not reported"


def test_report_is_one_page_with_everything(compared):
    page = (compared / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!data:)', page) and "http" not in page
    text = (compared / "report.md").read_text()
    for name in re.findall(r"!\[.*?\]\((.*?)\)", text):
        assert (compared / name).read_bytes().startswith(b"\x89PNG")
    shown = len(re.findall("<img ", page))
    assert shown == len(re.findall(r"!\[", text)) >= 6
    for word in (
        "baseline",
        "p (Holm)",
        "Gromov delta",
        "gender",
        "hierarchy",
        "1 setting tried",
        "sb-margins compare",
        "torch",
        "median dev EER",
        "Attention: training ends in epoch 2, before the margin is full",
        "Training loss over epochs",
        "EER of the dev trials over the whole run",
        "Time to a dev EER",
        "rank correlation over epochs",
    ):
        assert word in page and word in text, word
    assert page.count("<figcaption>") == shown
    assert "nan" not in re.sub(r"base64,[^\"]*", "", page).lower()


def test_sweeps_and_windows_are_drawn(compared, corpus, tmp_path):
    """Cells of three values of a setting, and with and without AS-Speed, made up."""
    names, sets = "am,ham,as", ["ham.curvature=5,2,3", "as.max_accumulation=1,4"]
    flags = [f"--data_folder={corpus}", *SMALL[:-1]]
    plan = make_plan(Path(YAML), names.split(","), 1, tmp_path, sets=sets, flags=flags)
    shutil.copytree(compared / "data", tmp_path / "data")
    for number, cell in enumerate(plan.cells):
        shutil.copytree(compared / "cells/am/1986", cell.folder)
        path = cell.folder / "history.csv"
        rows = History(path).rows
        path.unlink()
        for row in rows[1:]:
            row |= {"EER": 0.5 - 0.1 * row["epoch"], "updates": 3 * row["epoch"]}
            row |= {"kept": 0.5, "zero_loss": 0.1} if cell.variant.loss == "as" else {}
        rows[1]["EER"] -= 0.2 * (number > 2)  # these are there an epoch earlier
        for row in rows:
            History(path).add(row)
        settings = plan.config(cell).recorded()
        run_json = json.loads((cell.folder / "run.json").read_text())
        (cell.folder / "run.json").write_text(
            json.dumps({**run_json, "settings": settings})
        )
        mark_finished(cell, plan)
    more = ["--report-only", "--no-geometry", *(f"--set={one}" for one in sets)]
    assert cli(compare_argv(corpus, tmp_path, names, *more, seeds=1)) == 0
    figures = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert {"sweep_ham_curvature", "learning_windows", "learning_shares"} <= figures
    assert "sweep_as_max_accumulation" not in figures, "two values are in the tables"
    text = (tmp_path / "report.md").read_text()
    assert "EER of ham against its curvature" in text and "AS-Speed" in text
    assert "| as, max_accumulation=4 | 1.0 | 3 | " in text
    assert "first as low as 30.00 %" in text and "the 1 run that" in text
    numbers = json.loads((tmp_path / "report.json").read_text())["training"]
    assert numbers["target_eer"] == [pytest.approx(0.3)]
    epochs = {k: one["epoch_to_target"] for k, one in numbers["systems"].items()}
    assert epochs["am"] == [2] and epochs["as, max_accumulation=4"] == [1]


def p_values(folder):
    """The two cells of ham's p-values in the table of test."""
    row = re.findall(r"\| ham \| .*%.*", (folder / "report.md").read_text())[0]
    cells = row.split(" | ")
    return [cells[4], cells[9]]


def test_few_numbers_allow_no_statement(compared, corpus, monkeypatch, capsys):
    text = (compared / "report.md").read_text()
    few = "test speakers: 3 (needed: 20); runs of a system: 2 (needed: 3); updates of"
    numbers = json.loads((compared / "report.json").read_text())
    assert numbers["too_few"]["test"].startswith(few)
    assert text.count(few) == 2, "above, and beside the table"
    assert text.count("before the margin is full") == 2
    assert "ignifican" not in text.replace("a statement on significance", "")
    assert p_values(compared) == ["-", "-"]
    for name in LEAST:
        monkeypatch.setitem(LEAST, name, 0)
    again = compare_argv(corpus, compared, "am,ham", "--report-only", "--no-geometry")
    kept = {p: p.read_bytes() for p in compared.iterdir() if p.is_file()}
    capsys.readouterr()
    assert cli(again) == 0
    said = capsys.readouterr().out
    assert "On test: " in said and "ignificant" in said and "needed" not in said
    assert "Attention: training ends in epoch 2, before the margin" in said
    holm = [figure["p_holm"] for figure in numbers["lists"]["test"]["ham"].values()]
    assert [cell.split(" ")[0] for cell in p_values(compared)] == [
        f"{p:.3f}" for p in holm
    ]
    for path, data in kept.items():
        path.write_bytes(data)


def test_both_ends_are_evaluated(compared):
    """The scores of the last epoch are those that the history was written from."""
    for folder in (compared / "cells").glob("*/*"):
        trials, scores = read_scores(folder / "scores_last_dev.txt")
        rows = History(folder / "history.csv").rows
        assert eer(scores, trials.labels) == pytest.approx(rows[-1]["EER"])
        trials, scores = read_scores(folder / "scores_dev.txt")
        assert eer(scores, trials.labels) == pytest.approx(min(r["EER"] for r in rows))
    numbers = json.loads((compared / "report.json").read_text())["lists"]["test"]
    text = (compared / "report.md").read_text()
    (table,) = re.findall(r"\| system \| EER %: best \|.*\n.*\n(.*)\n(.*)", text)
    for row, label in zip(table, ("am", "ham"), strict=True):
        ends = [
            100 * numbers[k]["eer"]["mean"] for k in (label, f"{label}, last epoch")
        ]
        figures = [f"{v:.2f}" for v in (*ends, ends[1] - ends[0])]
        assert row.startswith(f"| {label} | " + " | ".join(figures) + " | ")


def test_runs_without_scores_of_the_last_epoch_are_still_read(
    compared, corpus, tmp_path
):
    out = tmp_path / "old"
    shutil.copytree(compared, out)
    for marker in out.glob("cells/*/*/finished.json"):
        content = json.loads(marker.read_text())
        for path in marker.parent.glob("scores_last_*.txt"):
            del content["files"][path.name]
            path.unlink()
        marker.write_text(json.dumps(content))
    assert (
        cli(compare_argv(corpus, out, "am,ham", "--report-only", "--no-geometry")) == 0
    )
    assert "best | last" not in (out / "report.md").read_text()


@pytest.fixture(scope="module")
def folded(runner, corpus, tmp_path_factory):
    """Six speakers in three folds, a fold at a time; two speakers on another list."""
    place = tmp_path_factory.mktemp("folded")
    data, out = place / "corpus", place / "out"
    shutil.copytree(corpus, data)
    table = data / "splits.csv"
    rows = [re.sub(r"(?m)^(spk[67].*),.*", r"\1,other", table.read_text())]
    table.write_text("".join(rows))
    ran, count = [], len(runner.ran)
    for more in (["--folds=1/3"], ["--folds=2/3", "--contrasts=ham:am"]):
        assert cli(compare_argv(data, out, "am,ham", *more, seeds=1)) == 0
        ran.append(runner.ran[count:])
        count = len(runner.ran)
    return data, out, ran


def test_a_new_fold_trains_only_what_is_new(folded):
    data, out, ran = folded
    for number, labels in enumerate(ran, 1):
        assert labels == [f"{x}, fold {number}/3, seed 1986" for x in ("am", "ham")]
    seen: list[set[str]] = []
    for fold in ("1of3", "2of3"):
        prepared = Prepared.load(out / "cells" / "ham" / f"{fold}-1986" / "data")
        of = {s: set(prepared.manifest(s).speakers) for s in prepared.splits}
        assert of.pop("other") == {"spk6", "spk7"}
        assert set.union(*of.values()) == {f"spk{k}" for k in range(6)}
        assert sum(map(len, of.values())) == 6 and not any(of["test"] & s for s in seen)
        seen.append(of["test"])


def test_figures_of_folds_are_pooled(folded):
    _, out, _ = folded
    numbers = json.loads((out / "report.json").read_text())
    assert numbers["folds"] == ["1/3", "2/3"]
    for name in ("test", "other"):
        values = []
        for fold in ("1of3", "2of3"):
            path = out / "cells" / "ham" / f"{fold}-1986" / f"scores_{name}.txt"
            trials, scores = read_scores(path)
            values.append(eer(scores, trials.labels))
        figure = numbers["lists"][name]["ham"]["eer"]
        assert figure["mean"] == pytest.approx(np.mean(values))
    planned = numbers["planned"]["test"]["ham against am"]
    holm = [planned[metric]["p_holm"] for metric in planned]
    alone = [planned[metric]["p_value"] for metric in planned]
    assert sorted(holm)[0] == pytest.approx(min(1, 2 * min(alone)))
    text = (out / "report.md").read_text()
    assert "2 systems x 2 folds x 1 seed;" in text and "Folds 1/3, 2/3:" in text
    assert "trials of 4 speakers" in text, "of two folds"
    assert "trials of 2 speakers" in text, "the other list is the same for all folds"
    assert text.count("| ham against am | ") == 2 and "| planned | - |" in text
    assert "Gromov" in text and "test speakers: 4 (needed: 20); runs of a" in text


def test_planned_contrasts_are_told(folded, monkeypatch, capsys):
    data, out, _ = folded
    for name in LEAST:
        monkeypatch.setitem(LEAST, name, 0)
    more = ["--folds=2/3", "--contrasts=ham:am", "--baseline=ham", "--report-only"]
    assert cli(compare_argv(data, out, "am,ham", *more, "--no-geometry", seeds=1)) == 0
    said = capsys.readouterr().out
    assert "On test: Planned: " in said
    assert "Exploratory" not in said, "am against ham is that contrast"
    numbers = json.loads((out / "report.json").read_text())
    row = numbers["lists"]["test"]["am"]["eer"]
    pair = numbers["planned"]["test"]["ham against am"]["eer"]
    assert row["p_holm"] == pair["p_holm"]
    assert row["difference_low"] == -pair["high"]
    assert re.search(r"\| am \| .* \| planned \| - \|", (out / "report.md").read_text())


def test_other_folds_or_settings_are_refused(folded, runner, capsys):
    data, out, _ = folded
    count = len(runner.ran)
    argv = compare_argv(data, out, "am,ham", "--folds=2/3", seeds=1)
    assert cli([*argv, "--lr=0.5"]) == 2
    assert "lr was 0.002, now 0.5" in capsys.readouterr().err
    assert cli([*argv, "--corpus_options={eval_utterances: 2}"]) == 2
    assert "corpus_options was" in capsys.readouterr().err
    prepared = json.loads((out / "folds/1of3/data/prepare.json").read_text())
    assert prepared["options"]["eval_utterances"] == 20, "not prepared anew"
    assert len(runner.ran) == count


@pytest.fixture(scope="module")
def listed(compared, corpus, runner, tmp_path_factory):
    """A finished comparison with other lists and hard trials added."""
    place = tmp_path_factory.mktemp("listed")
    out, seen = place / "out", len(runner.ran)
    shutil.copytree(compared, out)
    for checkpoint in (out / "cells" / "am" / "1987" / "save").iterdir():
        shutil.rmtree(checkpoint)
    again = compared / "data" / "trials_test.txt"  # the same trials, by another name
    argv = compare_argv(corpus, out, "am,ham", "--eval", f"again={again}")
    argv += [f"--eval=sitw={sitw(place / 'sitw')}", "--no-geometry"]
    argv += ["--hard=0.5", "--hard-by=softmax", "--hard-same=gender"]
    assert cli(argv) == 0
    return out, argv, runner.ran[seen:]


def test_a_new_list_trains_nothing_and_a_hard_one_its_reference(
    listed, runner, no_report
):
    out, argv, ran = listed
    assert ran == ["softmax, seed 1001986"]
    kept, count = snapshot(out / "cells"), len(runner.ran)
    assert cli(argv) == 0
    assert snapshot(out / "cells") == kept, "nor is anything scored twice"
    assert len(runner.ran) == count
    assert "checkpoint is gone" in (out / "report.md").read_text()


def test_models_that_are_read_back_score_as_at_the_end_of_training(listed):
    out, _, _ = listed
    for loss, seed in (("am", 1986), ("ham", 1986), ("am", 1987), ("ham", 1987)):
        folder = out / "cells" / loss / str(seed)
        marker = json.loads((folder / "finished.json").read_text())
        assert set(marker["lists"]) == {"again", "sitw_dev", "sitw_test"}
        for end in ("", "last_"):
            path = folder / f"scores_{end}again.txt"
            if end and (loss, seed) == ("am", 1987):
                assert not path.exists() and path.name not in marker["files"]
                continue
            _, expected = read_scores(folder / f"scores_{end}test.txt")
            assert read_scores(path)[1] == pytest.approx(expected, abs=1e-5)


def test_the_mean_over_lists(listed):
    """Lists of the same speakers are drawn together."""
    out, _, _ = listed
    numbers = json.loads((out / "report.json").read_text())
    lists, over = numbers["lists"], numbers["mean_over_lists"]
    assert over["lists"] == ["test", "again", "sitw_dev", "sitw_test"]
    for metric, mean in over["changes"]["ham against am"].items():
        changes = [lists[name]["ham"][metric]["change"] for name in over["lists"]]
        if None not in changes:
            assert mean["change"] == pytest.approx(np.mean(changes))
        one, two = (lists[name]["ham"][metric] for name in ("test", "again"))
        assert one == pytest.approx(two, abs=1e-4)
    text = (out / "report.md").read_text()
    assert "## Over all lists" in text and "| ham against am (exploratory) | " in text


def test_hard_trials_are_those_of_the_reference(listed):
    out, _, _ = listed
    whole, scores = read_scores(out / "cells/softmax/1001986/scores_test.txt")
    part, chosen = read_scores(out / "hard" / "test_hard.txt")
    assert {1, 0} == set(part.labels)
    hardest = np.sort(scores[whole.labels == 1])[: (part.labels == 1).sum()]
    assert np.sort(chosen[part.labels == 1]) == pytest.approx(hardest)
    assert len(hardest) == round(0.5 * (whole.labels == 1).sum())
    gender = {name: "fm"[int(name[3]) % 2] for name in whole.utterances}
    alike = np.array([gender[e] == gender[t] for _, e, t in whole])
    others = np.sort(scores[(whole.labels == 0) & alike])[::-1]
    impostors = np.sort(chosen[part.labels == 0])[::-1]
    assert impostors == pytest.approx(others[: round(0.5 * len(others))])
    numbers = json.loads((out / "report.json").read_text())
    assert {"test_hard", "again_hard"} < set(numbers["lists"])
    assert set(numbers["lists"]["test_hard"]) == set(numbers["lists"]["test"])
    trials, values = read_scores(out / "cells/am/1986/scores_test.txt")
    of = dict(zip(zip(trials.enrol, trials.test, strict=True), values, strict=True))
    mine = [of[pair] for pair in zip(part.enrol, part.test, strict=True)]
    both = [numbers["lists"]["test_hard"]["am"]["eer"]["mean"], eer(mine, part.labels)]
    _, other = read_scores(out / "cells/am/1987/scores_test.txt")
    of = dict(zip(zip(trials.enrol, trials.test, strict=True), other, strict=True))
    mine = [of[pair] for pair in zip(part.enrol, part.test, strict=True)]
    assert both[0] == pytest.approx(np.mean([both[1], eer(mine, part.labels)]))
    note = "the hardest 50 % of test for a run of softmax that is not compared"
    assert numbers["hard"]["test_hard"].startswith(note)
    assert note in (out / "report.md").read_text()


def test_other_lists_of_a_name_are_refused(listed, compared, runner, tmp_path, capsys):
    out, argv, _ = listed
    count = len(runner.ran)
    other = compared / "data" / "trials_dev.txt"
    for words, message in (
        ([f"--eval=again={other}"], "was scored on another list of that name"),
        ([f"--eval=again={other}", "--report-only"], "scores other trials"),
        ([f"--eval=new={other}", "--report-only"], "has no scores of the list new"),
        ([f"--eval=test={other}"], "a name that the run's own corpus has"),
        (["--eval=new=/nowhere"], "--eval new: no such folder"),
        (["--hard=0.1", "--hard-same=language"], "no manifest of a list has"),
    ):
        wanted = [w for w in argv if "again" not in w and w != "--eval"]
        wanted = [w for w in wanted if not w.startswith(("--hard", "--eval"))]
        if "language" in words[-1]:
            words = [*words, "--hard-by=softmax"]
        assert cli([*wanted, *words]) == 2, words
        assert message in capsys.readouterr().err
    assert len(runner.ran) == count


def test_other_lists_are_no_part_of_a_runs_configuration(corpus, tmp_path):
    yaml = tmp_path / "mine.yaml"
    yaml.write_text(f"base: {YAML}\neval: {{a: /x}}\n")
    flags = [f"--data_folder={corpus}"]
    plan = make_plan(yaml, ["am"], 1, tmp_path, flags=flags, evals={"b": "/y"})
    assert plan.evals == {"a": "/x", "b": "/y"}
    (cell,) = plan.cells
    assert plan.config(cell).settings.eval == {}, "the comparison scores them"
    argv = [word for word in plan.train_argv(cell) if word != "--eval="]
    other = read_config([*argv, "--eval", "c=/z", "d=/w", "--eval=e=/v"])
    assert list(other.settings.eval) == ["a", "c", "d", "e"]
    assert configuration_hash(other) == configuration_hash(plan.config(cell))


def test_the_demo_corpus_at_its_smallest(runner, tmp_path, monkeypatch):
    """What the README says of the demo corpus, with its YAML, in seconds."""
    monkeypatch.setattr(run, "start_cell", InProcess().start)
    monkeypatch.setattr(runner, "key", "demo")  # the other tests' batches stay theirs
    yaml, out, data = hparams_dir() / "demo.yaml", tmp_path / "out", tmp_path / "data"
    asked = [f"--output={out}", f"--data_folder={data}", "--replicates=100"]
    asked += ["--losses=ham", "--seeds=1", *SMALLEST, "--crops_per_utterance=2"]
    asked += ["--corpus_options={speakers: 20, utterances: 4}"]
    assert cli(["compare", str(yaml), *asked]) == 0
    numbers = json.loads((out / "report.json").read_text())
    figure = numbers["lists"]["test"]["ham"]["eer"]
    assert 0 <= figure["low"] <= figure["mean"] <= figure["high"] < 0.6
    assert figure["change"] is None, "nothing to compare with"
    page = (out / "report.html").read_text()
    assert "demo.yaml" in page and "gender" in page and "synthetic" in page
    assert page.count("data:image/png") == len(list((out / "figures").iterdir()))


def test_same_start_and_same_crops_for_every_loss(compared, runner, corpus):
    for seed in (1986, 1987):
        assert runner.batches["am", seed] == runner.batches["ham", seed]
    assert runner.batches["am", 1986] != runner.batches["am", 1987]


def test_initial_encoder_does_not_depend_on_the_loss(corpus, tmp_path):
    small = [f for f in SMALL if "replicates" not in f]
    names = [name for name in select.names() if name != "joint"]
    flags = [f"--data_folder={corpus}", *small]
    plan = make_plan(Path(YAML), names, 1, tmp_path, flags=flags)
    first = None
    for cell in plan.cells:
        built = plan.config(cell).build(out_n_neurons=5, steps_per_epoch=2)
        weights = built["embedding_model"].state_dict()
        first = first or weights
        assert all(torch.equal(first[key], weights[key]) for key in first), cell.label


def snapshot(folder):
    return {
        path.relative_to(folder): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith("embeddings_")
    }


@pytest.fixture
def no_report(monkeypatch):
    """Leave out the report, where only the cells matter."""
    monkeypatch.setattr(report, "write_report", lambda *a, **k: (Path("none"), []))


def test_finished_cells_rest_and_a_new_loss_changes_none(
    compared, runner, corpus, no_report, capsys
):
    before, count = snapshot(compared / "cells"), len(runner.ran)
    assert cli(compare_argv(corpus, compared, "am,ham", "--no-geometry")) == 0
    assert len(runner.ran) == count and "4 are finished" in capsys.readouterr().out
    assert (
        cli(compare_argv(corpus, compared, "h,am,ham", "--no-geometry", seeds=1)) == 0
    )
    assert runner.ran[count:] == ["h, seed 1986"]
    after = snapshot(compared / "cells")
    assert {k: v for k, v in after.items() if k.parts[0] != "h"} == before


def train_and_die(argv):
    """Train in a child process that is killed at a step of the second epoch."""
    end = SpeakerBrain.on_fit_batch_end

    def kill(self, *args):
        end(self, *args)
        if (self.epoch, self.step) == (2, 1):
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if not child:
        SpeakerBrain.on_fit_batch_end = kill
        try:
            cli(["train", *argv])
        finally:
            os._exit(3)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_killed_cell_continues_in_a_process_of_its_own(
    compared, corpus, tmp_path, monkeypatch, no_report
):
    flags = [f"--data_folder={corpus}", *SMALL[:-1]]
    plan = make_plan(Path(YAML), ["am"], 1, tmp_path, flags=flags)
    assert train_and_die(plan.train_argv(plan.cells[0])) == -9
    folder = tmp_path / "cells/am/1986"
    assert not (folder / "finished.json").exists()
    monkeypatch.setattr(run, "start_cell", IN_A_PROCESS)
    assert cli(compare_argv(corpus, tmp_path, "am", "--no-geometry", seeds=1)) == 0
    log = (folder / "train.log").read_text()
    assert "continuing after epoch 1" in log
    straight = compared / "cells/am/1986/scores_test.txt"
    assert (folder / "scores_test.txt").read_bytes() == straight.read_bytes()


def test_a_failed_cell_does_not_stop_the_others(
    compared, runner, corpus, tmp_path, capsys
):
    runner.fail = {"aam"}
    try:
        status = cli(
            compare_argv(corpus, tmp_path, "aam,ham", "--baseline=ham", seeds=1)
        )
    finally:
        runner.fail = set()
    assert status == 1
    assert "aam, seed 1986 FAILED: last words" in capsys.readouterr().out
    assert "left out: aam, seed 1986" in (tmp_path / "report.md").read_text()
    again = compare_argv(corpus, tmp_path, "aam,ham", "--baseline=ham", "--report-only")
    assert cli([*again, "--seeds=1", "--no-geometry"]) == 0
    assert "Geometry" not in (tmp_path / "report.md").read_text()
    assert cli(compare_argv(corpus, tmp_path, "aam,ham", "--report-only", seeds=1)) == 2
    assert "no run of the baseline 'aam' is finished" in capsys.readouterr().err
    # Two runs of a cell are equal bit for bit.
    for name in ("scores_test.txt", "scores_dev.txt"):
        one, two = (f / "cells/ham/1986" / name for f in (compared, tmp_path))
        assert one.read_bytes() == two.read_bytes()
    pair = []
    for folder in (compared, tmp_path):
        newest = max((folder / "cells/ham/1986/save").glob("CKPT+*"))
        pair.append(torch.load(newest / "embedding_model.ckpt", weights_only=True))
    assert all(torch.equal(pair[0][key], pair[1][key]) for key in pair[0])


@pytest.mark.parametrize(
    "more, message",
    [
        (["--losses=amm"], "Did you mean 'am'"),
        (["--set=ham.curvatur=2"], "Did you mean 'curvature'"),
        (["--set=ham.margin=a"], "is a number"),
        (["--set=ham.curvature=0.1"], "curvature is 0.1"),
        (["--baseline=aam"], "is not compared"),
        (["--seeds=0"], "at least one"),
        (["--folds=2"], "at least three"),
        (["--folds=4/3"], "is not understood"),
        (["--folds=5"], "5 folds take at least 10 speakers"),
        (["--contrasts=ham"], "write SYSTEM:REFERENCE"),
        (["--contrasts=ham:ham"], "write SYSTEM:REFERENCE"),
        (["--contrasts=aam:am"], "'aam' is not compared"),
        (["--jobs=0"], "at least one"),
        (["--replicates=3"], "100 or more"),
        (["--loss=am"], "set by the comparison"),
        (["--save-folder", "x"], "set by the comparison"),
        (["--margin=0.3"], "--set LOSS.margin=VALUE"),
        (["--chanels=3"], "Did you mean 'channels'"),
        (["--data_folder=/nowhere/at/all"], "/nowhere/at/all"),
        (["--report-only"], "not a prepared folder"),
    ],
)
def test_refusals_before_any_training(corpus, runner, tmp_path, capsys, more, message):
    count = len(runner.ran)
    assert cli([*compare_argv(corpus, tmp_path), *more]) == 2
    assert message in capsys.readouterr().err and len(runner.ran) == count


def broken(compared, change):
    """Do something to a cell, and how to undo it."""
    folder = compared / "cells" / "am" / "1986"
    kept = {p: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    data = compared / "data" / "trials_test.txt"
    kept[data] = data.read_bytes()
    change(folder, data)
    return kept


def edit(folder, key):
    """As another version of this software, or of the YAML, would have written it."""
    marker = json.loads((folder / "finished.json").read_text())
    (folder / "finished.json").write_text(json.dumps({**marker, key: "other"}))


CHANGES = {
    "is marked as finished but has no": lambda f, d: (f / "scores_test.txt").unlink(),
    "was changed after the run": lambda f, d: (f / "history.csv").write_text(
        "epoch\n1\n"
    ),
    "not a valid marker": lambda f, d: (f / "finished.json").write_text("{"),
    "another version of train_ecapa.yaml": lambda f, d: edit(f, "configuration"),
    "is damaged": lambda f, d: (f / "run.json").write_text('{"sett'),
    "other data": lambda f, d: d.write_text(d.read_text()[:-40].rpartition("\n")[0]),
}


@pytest.mark.parametrize("message", CHANGES)
def test_broken_and_mixed_cells_are_refused(compared, corpus, runner, capsys, message):
    kept = broken(compared, CHANGES[message])
    try:
        assert cli(compare_argv(corpus, compared, "am,ham", "--report-only")) == 2
    finally:
        for path, data in kept.items():
            path.write_bytes(data)
    assert message in capsys.readouterr().err


def test_other_settings_need_another_folder(compared, corpus, capsys):
    assert cli([*compare_argv(corpus, compared), "--lr=0.5"]) == 2
    assert "lr was 0.002, now 0.5" in capsys.readouterr().err


def test_one_comparison_at_a_time(compared, corpus, capsys):
    with locked(compared, "at work"):
        assert cli(compare_argv(corpus, compared)) == 2
    assert "is at work" in capsys.readouterr().err
