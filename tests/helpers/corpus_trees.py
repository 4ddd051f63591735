"""Generated trees with the real layout of each corpus; small, speech-like audio."""

from __future__ import annotations

import tarfile
from functools import cache
from pathlib import Path

import soundfile
from conftest import voice

cached_voice = cache(voice)


def write(path: Path, speaker: int, utterance: int, seconds=0.9, rate=16000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, cached_voice(speaker, utterance, seconds, rate), rate)
    return path


def odd_folder(root: Path) -> Path:
    """speaker/.../audio with every oddity that people's folders have."""
    names = ("Zoë B.", "o.b.c", "Åsa", "名前", "d", "e-1", "f 2", "g%h")
    for speaker, name in enumerate(names):
        write(root / name / "session 1" / "take.1.v2.wav", speaker, 0)
        write(root / name / "session 1" / "take 2.flac", speaker, 1, rate=8000)
        write(root / name / "s2" / "ünï.wav", speaker, 2, rate=44100)
        write(root / name / "loose.WAV", speaker, 3)
    write(root / "only once" / "a.wav", 20, 0)
    (root / "d" / "notes.txt").write_text("no audio")
    (root / "d" / "._take.wav").write_bytes(b"\0\0\0")
    (root / ".hidden").mkdir()
    write(root / ".hidden" / "x.wav", 21, 0)
    return root


def voxceleb(root: Path, vox2: bool = True) -> Path:
    """VoxCeleb1 as wav/, VoxCeleb2 as dev/aac/, and the three lists."""
    vox1 = [f"id{10001 + k}" for k in range(8)]
    for k, speaker in enumerate(vox1):
        for session in ("5r0dWxy17C8", "a-_b"):
            for utterance in (1, 2):
                name = f"{speaker}/{session}/{utterance:05d}.wav"
                write(root / "wav" / name, k, utterance + len(session))
    if vox2:
        for k in range(8):
            for utterance in (1, 2):
                # written as flac: what a converted aac tree looks like
                name = f"id{12 + k:05d}/21Uxsk56VDQ/{utterance:05d}.flac"
                write(root / "vox2" / "dev" / "aac" / name, 30 + k, utterance)
        write(root / "vox2" / "test" / "aac" / "id00017" / "v" / "00001.flac", 50, 1)

    def pairs(speakers):
        lines = []
        for a, b in zip(speakers, speakers[1:] + speakers[:1], strict=True):
            x = f"{a}/5r0dWxy17C8/00001.wav"
            lines += [f"1 {x} {a}/a-_b/00002.wav", f"0 {x} {b}/a-_b/00001.wav"]
        return "\n".join(lines) + "\n"

    (root / "veri_test2.txt").write_text(pairs(vox1[:2]))
    (root / "list_test_all2.txt").write_text(pairs(vox1))
    (root / "list_test_hard2.txt").write_text(pairs(vox1[2:6]))
    (root / "vox1_meta.csv").write_text(
        "VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\n"
        + "".join(f"{s}\tA.B\t{'mf'[k % 2]}\tUK\tdev\n" for k, s in enumerate(vox1))
    )
    (root / "vox2_meta.csv").write_text(
        "VoxCeleb2 ID ,VGGFace2 ID ,Gender ,Set \n"
        + "".join(f"id{12 + k:05d} ,n0 ,{'mf'[k % 2]} ,dev \n" for k in range(8))
    )
    return root


def cnceleb(root: Path) -> Path:
    """CN-Celeb_flac and CN-Celeb2_flac as OpenSLR 82 unpacks them."""
    first, second = root / "CN-Celeb_flac", root / "CN-Celeb2_flac"
    for k in range(6):
        for genre in ("singing", "interview"):
            for n in (1, 2):
                name = f"{genre}-01-{n:03d}.flac"
                write(first / "data" / f"id{k:05d}" / name, k, n + len(genre))
                write(second / "data" / f"id{10000 + k}" / name, 20 + k, n + len(genre))
    lists = first / "eval" / "lists"
    lists.mkdir(parents=True)
    (first / "dev").mkdir()
    (first / "dev" / "dev.lst").write_text("".join(f"id{k:05d}\n" for k in range(6)))
    enrol, several, trials = [], [], []
    for k in (800, 801, 802):
        model = f"id{k:05d}-enroll"
        write(first / "eval" / "enroll" / f"{model}.flac", k, 0)
        write(first / "data" / f"id{k:05d}" / "singing-01-001.flac", k, 0)
        write(first / "data" / f"id{k:05d}" / "vlog-01-001.flac", k, 7)
        names = [f"id{k:05d}/{name}-01-001.wav" for name in ("singing", "vlog")]
        several.append(f"{model} {' '.join(names)}\n")
        enrol.append(f"{model} enroll/{model}.wav\n")
        for other in (800, 801, 802):
            for n in (1, 2):
                test = f"id{other:05d}-movie-01-{n:03d}"
                if other == k:
                    write(first / "eval" / "test" / f"{test}.flac", k, n)
                trials.append(f"{model} test/{test}.wav {int(other == k)}\n")
    (lists / "enroll.map").write_text("".join(several))
    (lists / "enroll.lst").write_text("".join(enrol))
    (lists / "trials.lst").write_text("".join(trials))
    return root


def sitw(root: Path) -> Path:
    """dev and eval with lists, keys and audio."""
    for part in ("dev", "eval"):
        folder = root / part
        (folder / "lists").mkdir(parents=True)
        (folder / "keys").mkdir()
        enrol, keys = [], []
        for k in range(3):
            write(folder / "audio" / f"enr{k}.flac", k, 0)
            write(folder / "audio" / f"tst{k}.flac", k, 1)
            enrol.append(f"{10000 + k} audio/enr{k}.flac\n")
            for other in range(3):
                key = "tgt" if other == k else "imp"
                keys.append(f"{10000 + k} audio/tst{other}.flac {key}\n")
        (folder / "lists" / "enroll-core.lst").write_text("".join(enrol))
        (folder / "keys" / "core-core.lst").write_text("".join(keys))
    return root


def mini_librispeech(root: Path) -> Path:
    """The two archives of OpenSLR 31, small."""
    tree = root / "tree" / "LibriSpeech"
    lines = [";ID  |SEX| SUBSET\n"]
    for part, first, count in (("train-clean-5", 100, 3), ("dev-clean-2", 200, 10)):
        for k in range(first, first + count):
            lines.append(f"{k} | {'MF'[k % 2]} | {part} | 8.0 | Some Reader\n")
            for n in range(3):
                name = f"{part}/{k}/77/{k}-77-{n:04d}.flac"
                write(tree / name, k, n)
        with tarfile.open(root / f"{part}.tar.gz", "w:gz") as tar:
            (tree / "SPEAKERS.TXT").write_text("".join(lines))
            tar.add(tree / part, f"LibriSpeech/{part}")
            tar.add(tree / "SPEAKERS.TXT", "LibriSpeech/SPEAKERS.TXT")
    return root
