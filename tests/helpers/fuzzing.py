"""Mutated files for every reader of the command line, run in limited processes.

A case is (reader, seed): a good file of a kind that the reader takes, mutated, and the
command that reads it. Nothing in it may run, hang, take 2 GB of memory, end in a
traceback, or print NaN. From the shell, at any size:

    python tests/helpers/fuzzing.py --cases 20000 --seed 1
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import io
import math
import multiprocessing
import random
import re
import resource
import shutil
import struct
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

MEMORY = 2 << 30  # bytes that a case may add to what the process has
SECONDS = 60.0  # that a case may take on a busy machine
INTERESTING = (0, 1, 2, 7, 127, 128, 255, 32767, 65535, 2**31 - 1, 2**31, 2**32 - 1)
AUDIO = {
    "pcm16.wav": ("WAV", "PCM_16"),
    "pcm24.wav": ("WAV", "PCM_24"),
    "float.wav": ("WAV", "FLOAT"),
    "gsm.wav": ("WAV", "GSM610"),
    "adpcm.wav": ("WAV", "MS_ADPCM"),
    "a.flac": ("FLAC", "PCM_16"),
    "a.ogg": ("OGG", "VORBIS"),
    "opus.ogg": ("OGG", "OPUS"),
    "a.mp3": ("MP3", "MPEG_LAYER_III"),
    "a.aiff": ("AIFF", "PCM_16"),
    "a.au": ("AU", "ULAW"),
    "a.caf": ("CAF", "PCM_16"),
    "a.w64": ("W64", "PCM_16"),
    "a.rf64": ("RF64", "PCM_16"),
}
PAYLOADS = (
    "x: !apply:os.system ['touch {mark}']",
    "x: !new:subprocess.Popen [[touch, '{mark}']]",
    "x: !applyref:os.system ['touch {mark}']",
    "x: !include:{mark}",
    "x: !!python/object/apply:os.system ['touch {mark}']",
    "x: !ref <n_mels>**9**9**9",
    "x: !ref <x>",
    "a: &a [1, 1]\nb: &b [*a, *a]\nc: [*b, *b]",
    "n_mels: 2000000000",
    "emb_dim: -1",
    "emb_dim: .nan",
)


@dataclass(frozen=True)
class Case:
    """One command on one mutated file."""

    reader: str
    seed: int


class Workspace:
    """A folder with good files of every kind, made once per process."""

    def __init__(self, folder: Path) -> None:
        from model_folders import write_model

        from sb_margins.cli import main
        from sb_margins.verification.embeddings import Embeddings

        self.folder = folder
        self.mutating = True
        self.mark = folder / "executed"
        self.model = write_model(folder / "model")
        rng = np.random.default_rng(0)
        time_axis = np.arange(16000) / 16000
        self.audio: dict[str, bytes] = {}
        for name, (container, codec) in AUDIO.items():
            wav = sum(np.sin(2 * np.pi * f * time_axis) for f in (150, 300, 900)) / 9
            wav = wav * (np.sin(2 * np.pi * 3 * time_axis) > -0.7)  # syllables: speech
            wav = wav + 0.01 * rng.standard_normal(16000)
            path = folder / name
            soundfile.write(path, wav, 16000, format=container, subtype=codec)
            self.audio[name] = path.read_bytes()
        self.corpus = folder / "corpus"
        for speaker in range(6):
            (self.corpus / f"s{speaker}").mkdir(parents=True)
            for number in range(2):
                wav = 0.1 * rng.standard_normal(16000)
                soundfile.write(self.corpus / f"s{speaker}/{number}.wav", wav, 16000)
        self.good = folder / "pcm16.wav"
        self.set = folder / "people.npz"
        self.embeddings = folder / "embeddings.npz"
        good, flac = str(self.good), str(folder / "a.flac")
        for words in (
            ["enroll", str(self.model), "ann", good, "--set", str(self.set)],
            ["embed", str(self.model), good, flac, "--output", str(self.embeddings)],
        ):
            with contextlib.redirect_stdout(io.StringIO()):
                assert main(words) == 0, words
        one, two = Embeddings.load(self.embeddings).ids
        self.trials = f"1 {one} {one}\n0 {one} {two}\n0 {two} {one}\n".encode()
        self.scores = b"1 a b 0.9\n0 a c 0.1\n1 b c 0.6\n0 c d 0.2\n"
        (folder / "trials.txt").write_bytes(self.trials)

    def change(self, mutate: Callable, data: bytes, *arguments) -> bytes:
        """Mutated data; the data as they are for the check of the good files."""
        return mutate(data, *arguments) if self.mutating else data


# -- mutations ------------------------------------------------------------------


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """A few random edits; half of them near the beginning, where headers are."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        reach = min(len(out), 128) if rng.random() < 0.5 else len(out)
        if not reach:
            break
        at = rng.randrange(reach)
        kind = rng.randrange(7)
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at] = rng.choice((0, 1, 127, 128, 255))
        elif kind == 2:
            del out[at:]
        elif kind == 3:
            width = rng.choice("<H >H <I >I <Q >Q".split())
            value = rng.choice(INTERESTING) % (1 << (8 * struct.calcsize(width)))
            packed = struct.pack(width, value)
            out[at : at + len(packed)] = packed
        elif kind == 4:
            end = min(len(out), at + rng.randrange(1, 64))
            out[at:at] = out[at:end] * rng.randrange(1, 4)
        elif kind == 5:
            del out[at : at + rng.randrange(1, 64)]
        else:
            out[at:at] = rng.randbytes(rng.randrange(1, 16))
    return bytes(out)


def mutate_zip(data: bytes, rng: random.Random) -> bytes:
    """Edits of the archive, or of one member of an archive that is whole."""
    if rng.random() < 0.4 or not data.startswith(b"PK"):
        return mutate_bytes(data, rng)
    with zipfile.ZipFile(io.BytesIO(data)) as old:
        members = {name: old.read(name) for name in old.namelist()}
    name = rng.choice(list(members))
    members[name] = mutate_bytes(members[name], rng)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as new:
        for name, content in members.items():
            new.writestr(name, content)
    return out.getvalue()


def mutate_text(data: bytes, rng: random.Random) -> bytes:
    """Edits of lines and words, other encodings, or of bytes."""
    if rng.random() < 0.3:
        return mutate_bytes(data, rng)
    lines = data.decode().splitlines()
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(lines)) if lines else 0
        words = lines[at].split(" ") if lines else []
        kind = rng.randrange(8)
        if kind == 0 and lines:
            lines.insert(at, rng.choice(lines))
        elif kind == 1 and lines:
            del lines[at]
        elif kind == 2 and words:
            value = rng.choice(
                ("nan", "inf", "-1", "1e999", "", "0x10", "é", "\x1b[2J")
            )
            words[rng.randrange(len(words))] = value
            lines[at] = " ".join(words)
        elif kind == 3 and words:
            rng.shuffle(words)
            lines[at] = " ".join(words)
        elif kind == 4 and lines:
            number = str(rng.choice(INTERESTING))
            lines[at] = re.sub(r"\d+", number, lines[at], count=1)
        elif kind == 5 and lines:
            lines[at] = lines[at] + "\t" + "x" * rng.choice((1, 300, 70000))
        elif kind == 6:
            lines.append("\0")
        elif lines:
            other = rng.choice(lines)
            lines[at] = lines[at][: len(lines[at]) // 2] + other[len(other) // 2 :]
    text = "\n".join(lines) + "\n"
    coding = rng.choice(("utf-8",) * 6 + ("utf-16", "latin-1", "utf-8-sig", "utf-32"))
    return text.encode(coding, "replace")


def mutate_yaml(data: bytes, rng: random.Random, mark: Path) -> bytes:
    """A payload in some place, doubled references, or edits of the text."""
    kind = rng.randrange(4)
    if kind == 0:
        return mutate_text(data, rng)
    lines = data.decode().splitlines()
    if kind == 1:
        payload = rng.choice(PAYLOADS).replace("{mark}", str(mark))
        at = rng.choice((0, len(lines)))
        lines[at:at] = payload.splitlines()
    elif kind == 2:  # a hostile value in the place of a good one
        at = rng.choice([n for n, line in enumerate(lines) if ": " in line])
        payload = rng.choice(PAYLOADS).replace("{mark}", str(mark)).split(": ", 1)[1]
        lines[at] = lines[at].split(": ", 1)[0] + ": " + payload.split("\n")[0]
    else:  # doubled references
        times = rng.choice((3, 20, 40))
        lines += ["d0: [1]"]
        lines += [f"d{n + 1}: [!ref <d{n}>, !ref <d{n}>]" for n in range(times)]
        at = rng.choice([n for n, line in enumerate(lines) if ": " in line])
        lines[at] = lines[at].split(": ", 1)[0] + f": !ref <d{times}>"
    return ("\n".join(lines) + "\n").encode()


# -- readers: each writes its mutated file and gives the command ------------------


def _audio(space: Workspace, rng: random.Random) -> Path:
    name = rng.choice(list(space.audio))
    path = space.folder / "mutated" / name
    path.write_bytes(space.change(mutate_bytes, space.audio[name], rng))
    return path


def _verify_files(space: Workspace, rng: random.Random) -> list[str]:
    return ["verify-files", str(space.model), str(space.good), str(_audio(space, rng))]


def _enroll(space: Workspace, rng: random.Random) -> list[str]:
    path, people = _audio(space, rng), space.folder / "mutated" / "people.npz"
    return ["enroll", str(space.model), "bob", str(path), "--set", str(people)]


def _identify(space: Workspace, rng: random.Random) -> list[str]:
    path = _audio(space, rng)
    return ["identify", str(space.model), str(path), "--set", str(space.set)]


def _embed(space: Workspace, rng: random.Random) -> list[str]:
    out = space.folder / "mutated" / "out.npz"
    return ["embed", str(space.model), str(_audio(space, rng)), "--output", str(out)]


def _verify(space: Workspace, rng: random.Random) -> list[str]:
    path = _audio(space, rng)
    good = path.with_name("good.wav")
    shutil.copy(space.good, good)
    trials = path.with_name("list.txt")
    trials.write_text(f"1 {good.name} {path.name}\n0 {path.name} {good.name}\n")
    words = ["verify", "--model", str(space.model), "--trials", f"t={trials}"]
    words += ["--data-root", str(path.parent), "--bootstrap", "0"]
    words += ["--output-folder", str(path.parent / "verify")]
    return words + rng.choice(([], ["--skip-bad"]))


def _prepare(space: Workspace, rng: random.Random) -> list[str]:
    path = _audio(space, rng)
    corpus = space.folder / "mutated" / "corpus"
    shutil.copytree(space.corpus, corpus)
    shutil.copy(path, corpus / "s0" / path.name)
    out = path.parent / "prepared"
    words = ["prepare", "folder", "--data-folder", str(corpus)]
    return [*words, "--output-folder", str(out)]


def _trials(space: Workspace, rng: random.Random) -> list[str]:
    path = space.folder / "mutated" / "list.txt"
    path.write_bytes(space.change(mutate_text, space.trials, rng))
    words = ["verify", "--embeddings", str(space.embeddings), "--trials", f"t={path}"]
    out = str(path.parent / "verify")
    return [*words, "--bootstrap", "0", "--output-folder", out]


def _scores(space: Workspace, rng: random.Random) -> list[str]:
    path = space.folder / "mutated" / "scores.txt"
    path.write_bytes(space.change(mutate_text, space.scores, rng))
    return ["metrics", str(path)]


def _embeddings(space: Workspace, rng: random.Random) -> list[str]:
    path = space.folder / "mutated" / "embeddings.npz"
    path.write_bytes(space.change(mutate_zip, space.embeddings.read_bytes(), rng))
    trials = space.folder / "trials.txt"
    words = ["verify", "--embeddings", str(path), "--trials", f"t={trials}"]
    out = str(path.parent / "verify")
    return [*words, "--bootstrap", "0", "--output-folder", out]


def _set(space: Workspace, rng: random.Random) -> list[str]:
    path = space.folder / "mutated" / "people.npz"
    path.write_bytes(space.change(mutate_zip, space.set.read_bytes(), rng))
    return ["identify", str(space.model), str(space.good), "--set", str(path)]


def _model(space: Workspace, rng: random.Random, name: str) -> list[str]:
    model = space.folder / "mutated" / "model"
    shutil.copytree(space.model, model)
    path = model / name
    if path.suffix == ".yaml":
        path.write_bytes(space.change(mutate_yaml, path.read_bytes(), rng, space.mark))
    else:
        path.write_bytes(space.change(mutate_zip, path.read_bytes(), rng))
    return ["verify-files", str(model), str(space.good), str(space.good)]


def _model_yaml(space: Workspace, rng: random.Random) -> list[str]:
    return _model(space, rng, "hyperparams.yaml")


def _checkpoint(space: Workspace, rng: random.Random) -> list[str]:
    names = ("embedding_model.ckpt", "embedding_model.ckpt", "label_encoder.ckpt")
    return _model(space, rng, rng.choice(names))


def _results_folder(space: Workspace) -> Path:
    """The folder of a run that ended, and the words of `export`."""
    results = space.folder / "mutated" / "results"
    save = results / "save" / "CKPT+2026-01-01+00-00-00+00"
    save.mkdir(parents=True)
    shutil.copy(space.model / "hyperparams.yaml", results)
    shutil.copy(space.model / "label_encoder.ckpt", results / "label_encoder.txt")
    shutil.copy(space.model / "embedding_model.ckpt", save)
    (save / "CKPT.yaml").write_text("EER: 0.1\nend-of-epoch: true\nunixtime: 1.0\n")
    (results / "metrics.json").write_text('{"lists": {"test": {"eer": 0.0625}}}')
    return results


def _export(results: Path) -> list[str]:
    return ["export", str(results), str(results.parent / "exported")]


def _results(space: Workspace, rng: random.Random) -> list[str]:
    results = _results_folder(space)
    path = results / "hyperparams.yaml"
    path.write_bytes(space.change(mutate_yaml, path.read_bytes(), rng, space.mark))
    return _export(results)


def _results_files(space: Workspace, rng: random.Random) -> list[str]:
    """The other files of a run."""
    results = _results_folder(space)
    names = ("metrics.json", "label_encoder.txt", "save/*/CKPT.yaml", "save/*/*.ckpt")
    (path,) = results.glob(rng.choice(names))
    mutate = mutate_zip if path.suffix == ".ckpt" else mutate_text
    path.write_bytes(space.change(mutate, path.read_bytes(), rng))
    return _export(results)


def _enrolment(space: Workspace, rng: random.Random) -> list[str]:
    """The utterances of enrolled models."""
    one, two = (line.split()[2] for line in space.trials.decode().splitlines()[:2])
    folder = space.folder / "mutated"
    (folder / "list.txt").write_text(f"1 m {one}\n0 m {two}\n1 n {two}\n")
    path = folder / "models.txt"
    lines = f"m {one} {two}\nn {two}\n".encode()
    path.write_bytes(space.change(mutate_text, lines, rng))
    words = ["verify", "--embeddings", str(space.embeddings), "--bootstrap", "0"]
    words += ["--trials", f"t={folder / 'list.txt'}", "--enrolment", f"t={path}"]
    return [*words, "--output-folder", str(folder / "verify")]


READERS: dict[str, Callable[[Workspace, random.Random], list[str]]] = {
    "verify-files": _verify_files,
    "enroll": _enroll,
    "identify": _identify,
    "embed": _embed,
    "verify": _verify,
    "prepare": _prepare,
    "trials": _trials,
    "scores": _scores,
    "embeddings": _embeddings,
    "set": _set,
    "model yaml": _model_yaml,
    "checkpoint": _checkpoint,
    "results": _results,
    "results files": _results_files,
    "enrolment": _enrolment,
}


# -- running ----------------------------------------------------------------------


def run_case(
    space: Workspace, case: Case, statuses: tuple[int, ...] = (0, 2)
) -> str | None:
    """What is wrong with the outcome of a case; None when nothing is."""
    from sb_margins.cli import main

    mutated = space.folder / "mutated"
    shutil.rmtree(mutated, ignore_errors=True)
    mutated.mkdir()
    space.mark.unlink(missing_ok=True)
    words = READERS[case.reader](space, random.Random(f"{case.reader} {case.seed}"))
    command = " ".join(words)
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(words)
    except SystemExit as end:
        status = end.code
    except BaseException:
        return f"{command}\n{traceback.format_exc()}"
    if space.mark.exists():
        return f"executed: {command}"
    if status not in statuses:
        return f"exit status {status}: {command}\n{err.getvalue()}"
    if "Traceback" in err.getvalue():
        return f"{command}\n{err.getvalue()}"
    if status == 2 and not err.getvalue().strip():
        return f"exit status 2 without a message: {command}"
    # a threshold's data may be called anything
    figures = re.sub(r"% on .*\)", "", out.getvalue())
    if status == 0 and re.search(r"(?i)\bnan\b", figures):
        return f"NaN in the output: {command}\n{out.getvalue()}"
    if re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", out.getvalue() + err.getvalue()):
        return f"control characters in the output: {command}"
    return None


def _used() -> int:
    """Bytes of private writable memory of this process."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmData:\s+(\d+) kB", status)
    return int(found.group(1)) * 1024 if found else 0


def _work(cases: list[Case], connection, folder: str) -> None:
    import torch

    from sb_margins import speech

    speech.speech_rule = lambda: "the energy rule"  # as conftest.py does
    torch.set_num_threads(1)
    faulthandler.enable()
    space = Workspace(Path(folder))
    space.mutating = False  # good files are read; imports are not a case's memory
    for reader in sorted({case.reader for case in cases}):
        case = Case(reader, 0)
        connection.send(("begin", case, None))
        connection.send(("end", case, run_case(space, case, statuses=(0,))))
    space.mutating = True
    limit = _used() + MEMORY
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    for case in cases:
        connection.send(("begin", case, None))
        connection.send(("end", case, run_case(space, case)))
    connection.send(("done", None, None))


def failures(cases: list[Case]) -> Iterator[tuple[Case, str]]:
    """Run cases in a process of their own; what crashes or hangs it is a failure."""
    context = multiprocessing.get_context("spawn")
    left = list(cases)
    while left:
        mine, theirs = context.Pipe()
        with tempfile.TemporaryDirectory() as folder:
            worker = context.Process(target=_work, args=(left, theirs, folder))
            worker.start()
            theirs.close()
            running: Case | None = None
            while True:
                try:
                    if not mine.poll(SECONDS if running else 10 * SECONDS):
                        yield running or left[0], f"no answer in {SECONDS:.0f} s"
                        break
                    what, case, wrong = mine.recv()
                except EOFError:
                    worker.join()
                    code = worker.exitcode
                    yield running or left[0], f"the process ended with status {code}"
                    break
                if what == "done":
                    running = None
                    break
                running = case if what == "begin" else None
                if what == "end" and wrong:
                    yield case, wrong
            worker.kill()
            worker.join()
        left = left[left.index(running) + 1 :] if running else []


def draw(count: int, seed: int, names: Sequence[str] = tuple(READERS)) -> list[Case]:
    """So many cases, every reader in turn."""
    return [
        Case(names[n % len(names)], seed * 1_000_000 + n // len(names))
        for n in range(count)
    ]


def main() -> int:
    """Run cases and print those that fail."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--reader", choices=list(READERS))
    args = parser.parse_args()
    cases = draw(args.cases, args.seed, [args.reader] if args.reader else [*READERS])
    started, failed, ran = time.monotonic(), 0, 0
    for first in range(0, len(cases), 500):
        part = cases[first : first + 500]
        for case, wrong in failures(part):
            failed += 1
            print(f"FAILED {case}\n{wrong}\n", flush=True)
        ran += len(part)
        minutes = (time.monotonic() - started) / 60
        print(f"{ran} cases, {failed} failed, {minutes:.1f} min", flush=True)
        if minutes > args.minutes:
            break
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
