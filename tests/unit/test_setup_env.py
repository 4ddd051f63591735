"""Set-up with a pretended Python and pip: no network, no real installation."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections import namedtuple
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tools"
sys.path.insert(0, str(TOOLS))

import environment  # noqa: E402
import matching  # noqa: E402
import setup_env  # noqa: E402
from problems import SetupError, explain  # noqa: E402

# Stands for `python` of the machine and of the environment. Notes its words, and
# behaves as files beside the checkout tell it.
FAKE = """#!/bin/sh
here="{room}"
echo "$*" >> "$here/calls"
case "$*" in
"-m venv "*)
    mkdir -p "$3/bin" "$3/lib/python3.11/site-packages"
    echo "version = 3.11.7" > "$3/pyvenv.cfg"
    cp "$0" "$3/bin/python"; touch "$3/bin/sb-margins" ;;
"-m pip install"*torch*)
    site="$here/repo/.venv/lib/python3.11/site-packages"
    [ -f "$here/says" ] && {{ cat "$here/says"; exit 1; }}
    echo "index=$PIP_INDEX_URL" >> "$here/calls"
    mkdir -p "$site/torch" "$site/torchaudio/lib"
    printf "__version__ = '2.13.0+cpu'\\ncuda = None\\n" > "$site/torch/version.py"
    echo "__version__ = '2.11.0+cu130'" > "$site/torchaudio/version.py"
    touch "$site/torchaudio/lib/_torchaudio.abi3.so" ;;
esac
[ -f "$here/no_imports" ] && case "$*" in "-c import torch"*)
    echo "OSError: libfoo.so: cannot open shared object file"; exit 1 ;; esac
exit 0
"""


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


class Room:
    """A checkout, a pretended Python, and what was asked of it."""

    def __init__(self, folder: Path):
        self.folder, self.repo = folder, folder / "repo"
        self.repo.mkdir(parents=True)
        for name in environment.SOURCES:
            (self.repo / name).write_text(f"{name}\n")
        self.python = program(folder / "python", FAKE.format(room=folder))
        self.venv = self.repo / ".venv"
        self.site = self.venv / "lib" / "python3.11" / "site-packages"

    def set_up(self) -> None:
        setup_env.set_up(self.repo, "demo,test", base=str(self.python))

    def installs(self) -> list[str]:
        calls = (self.folder / "calls").read_text().splitlines()
        return [c for c in calls if c.startswith("-m pip install")]


@pytest.fixture
def room(tmp_path, monkeypatch):
    program(tmp_path / "bin" / "nvidia-smi", "#!/bin/sh\nexit 9\n")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return Room(tmp_path / "a room")


def test_from_nothing(room, capsys, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "https://pip.example/simple")
    room.set_up()
    first, second = room.installs()
    assert first.endswith(f"-c {room.repo}/constraints.txt torch setuptools")
    assert second.endswith(f"--no-build-isolation -e {room.repo}[demo,test]")
    assert "index" not in first + second
    calls = (room.folder / "calls").read_text()
    assert "index=https://pip.example/simple" in calls
    out = capsys.readouterr().out
    assert len(out.splitlines()) <= 8
    assert "repaired: torchaudio" in out and "no NVIDIA GPU" in out
    assert (room.venv / "setup.log").read_text().count("$ ") == 3


def test_second_time_nothing_is_installed(room, capsys):
    room.set_up()
    before = room.installs()
    capsys.readouterr()
    room.set_up()
    assert room.installs() == before
    out = capsys.readouterr().out
    assert out == ("Set-up is up to date (.venv, Python 3.11.7, PyTorch 2.13.0+cpu).\n")


@pytest.mark.parametrize("name", environment.SOURCES)
def test_changed_requirements_are_installed(room, name):
    room.set_up()
    (room.repo / name).write_text("changed\n")
    room.set_up()
    assert len(room.installs()) == 4


def test_goes_on_after_a_failure(room, capsys):
    (room.folder / "says").write_text("[Errno 28] No space left on device\n")
    with pytest.raises(SetupError, match="disk is full"):
        room.set_up()
    (room.folder / "says").unlink()
    capsys.readouterr()
    room.set_up()
    out = capsys.readouterr().out
    assert out.startswith("Going on with .venv") and "Set-up is done" in out


def test_main_tells_and_fails(room, capsys, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(room.python))
    monkeypatch.setattr(setup_env.set_up, "__defaults__", (str(room.python),))
    (room.folder / "says").write_text(
        "WARNING: Retrying (Retry(total=0)) after connection broken by "
        "'NewConnectionError: Failed to establish a new connection'\n"
        "ERROR: No matching distribution found for torch==2.13.0\n"
    )
    assert setup_env.main(["--root", str(room.repo)]) == 1
    out, err = capsys.readouterr()
    assert "does not answer; trying again" in out
    assert err.startswith("set-up: the package registry cannot be reached")
    assert "setup.log" in err and len(err.splitlines()) == 3


def test_broken_imports_are_told(room):
    (room.folder / "no_imports").touch()
    with pytest.raises(SetupError, match="libfoo.so.*\n.*make clean; make setup"):
        room.set_up()
    (room.folder / "no_imports").unlink()
    room.set_up()


@pytest.mark.parametrize("rest", [[], ["bin"], ["bin", "lib", "pyvenv.cfg"]])
def test_half_made_environment_is_made_again(room, rest, capsys):
    room.venv.mkdir()
    for name in rest:
        (room.venv / name).mkdir()
    room.set_up()
    assert "Making .venv" in capsys.readouterr().out


def test_foreign_folder_is_left_alone(room):
    (room.venv / "letters").mkdir(parents=True)
    with pytest.raises(SetupError, match="letters.*move it away"):
        room.set_up()
    assert (room.venv / "letters").is_dir()


def test_moved_checkout_is_made_again(room, capsys):
    room.set_up()
    moved = room.folder.parent / "elsewhere"
    shutil.move(room.folder, moved)
    room.folder, room.repo = moved, moved / "repo"
    program(moved / "python", FAKE.format(room=moved))
    room.python = moved / "python"
    room.set_up()
    assert "has moved" in capsys.readouterr().out


def test_packages_left_half_way_are_installed_again(tmp_path):
    env = environment.Environment(tmp_path, "")
    site = env.folder / "lib" / "python3.11" / "site-packages"
    for name, record in {
        "whole-1.0": "whole-1.0.dist-info/INSTALLER,sha256=x,4\n",
        "half-1.0": "half/__init__.py,sha256=x,4\n",
        "torch-2.13.0": None,
    }.items():
        info = site / f"{name}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").touch()
        if record:
            (info / "RECORD").write_text(record)
    (site / "~umpy").mkdir()
    assert env.drop_half_installed() == ["half", "torch"]
    assert [p.name for p in site.iterdir()] == ["whole-1.0.dist-info"]


def test_one_set_up_at_a_time(room, capsys):
    with open(room.repo / "constraints.txt") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        thread = threading.Thread(target=room.set_up)
        thread.start()
        thread.join(0.3)
        assert thread.is_alive() and not room.venv.exists()
    thread.join(20)
    assert "waiting for it" in capsys.readouterr().out
    assert room.venv.is_dir()


Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(
    "free, message", [(0.5e9, "0.5 GB free .* 2.0 GB are needed"), (5e9, None)]
)
def test_space_is_checked_first(room, monkeypatch, free, message):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1e12, 0, free))
    if message is None:
        room.set_up()
    else:
        with pytest.raises(SetupError, match=message):
            room.set_up()
        assert not room.venv.exists()


def test_small_temporary_folder_is_told(room, monkeypatch):
    monkeypatch.setattr(
        shutil,
        "disk_usage",
        lambda path: Usage(1e12, 0, 9e9 if path == room.repo else 1e8),
    )
    with pytest.raises(SetupError, match="TMPDIR"):
        room.set_up()


@pytest.mark.parametrize(
    "log, words",
    [
        ("OSError: [Errno 28] No space left on device", "disk is full"),
        ("ERROR: [Errno 122] Disk quota exceeded", "disk is full"),
        ("[Errno -3] Temporary failure in name resolution'", "cannot be reached"),
        ("[Errno 111] Connection refused'))': /simple/torch/", "cannot be reached"),
        ('ReadTimeoutError("Read timed out. (read timeout=15)"', "cannot be reached"),
        ("SSLError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]'", "PIP_CERT"),
        ("ERROR: 403 Client Error: Forbidden for url", "refuses access"),
        ("ERROR: HTTP error 503 while getting", "trouble of its own"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES", "pip cache purge"),
        ("ERROR: [Errno 13] Permission denied: '/x'", "permission"),
        (
            "ERROR: No matching distribution found for torch==2.13.0",
            "no torch==2.13.0 for this Python",
        ),
        ("noise\nERROR: something unheard of", "something unheard of"),
        ("", "status 1"),
    ],
)
def test_pip_messages_are_explained(log, words):
    text = explain(log, 1)
    assert words in text
    assert len(text.splitlines()) <= 2


def test_killed_pip_is_told():
    assert "killed" in explain("", -9)


def torch_pair(site: Path, cuda: str | None, audio: str) -> list[str]:
    (site / "torch").mkdir(parents=True, exist_ok=True)
    (site / "torchaudio" / "lib").mkdir(parents=True, exist_ok=True)
    (site / "torch" / "version.py").write_text(
        f"__version__ = '2.13.0'\ncuda = {cuda!r}\nhip = None\n"
    )
    (site / "torchaudio" / "version.py").write_text(f"__version__ = '{audio}'\n")
    return matching.repair(site)


def test_torchaudio_repair_and_back(tmp_path):
    library = tmp_path / "torchaudio" / "lib" / "_torchaudio.abi3.so"
    library.parent.mkdir(parents=True)
    library.write_text("x")
    aside = library.with_name("_torchaudio.abi3.so.cuda")

    assert torch_pair(tmp_path, "13.0", "2.11.0+cu130") == []
    assert torch_pair(tmp_path, None, "2.11.0") == []
    assert library.exists()
    (line,) = torch_pair(tmp_path, None, "2.11.0+cu130")
    assert "torch for the CPU" in line and aside.exists() and not library.exists()
    assert torch_pair(tmp_path, None, "2.11.0+cu130") == []
    (line,) = torch_pair(tmp_path, "13.0", "2.11.0+cu130")
    assert "moved back" in line and library.exists()
    (line,) = torch_pair(tmp_path, "12.8", "2.11.0+cu130")
    assert "CUDA 12.8" in line and aside.exists()


@pytest.mark.parametrize(
    "cuda, seen, words",
    [
        (None, True, "is a CPU build, but there is a GPU (NVIDIA X1)"),
        ("13.0", True, "GPU: NVIDIA X1"),
        ("13.0", False, "no NVIDIA GPU"),
    ],
)
def test_gpu_is_told(tmp_path, monkeypatch, cuda, seen, words):
    answer = "echo NVIDIA X1" if seen else "exit 9"
    program(tmp_path / "bin" / "nvidia-smi", f"#!/bin/sh\n{answer}\n")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    torch_pair(tmp_path, cuda, "2.11.0")
    assert words in "\n".join(matching.gpu_lines(tmp_path))


def find_python(path: Path, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["/bin/sh", str(TOOLS / "find_python.sh"), *words],
        env={"PATH": f"{path}:/usr/bin:/bin" if words else str(path)},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def tool_path(tmp_path):
    """A PATH with nothing but head and what a test adds."""
    folder = tmp_path / "some bin"
    folder.mkdir()
    (folder / "head").symlink_to(shutil.which("head") or "/usr/bin/head")
    return folder


def test_old_python_is_refused(tool_path):
    program(tool_path / "python3", "#!/bin/sh\necho is Python 3.8.18 >&2\nexit 1\n")
    done = find_python(tool_path)
    assert done.returncode == 1
    assert "3.10 or newer is needed" in done.stderr
    assert "python3 is Python 3.8.18" in done.stderr
    assert len(done.stderr.splitlines()) == 2


def test_newer_python_beside_an_old_one_is_taken(tool_path):
    program(tool_path / "python3", "#!/bin/sh\nexit 1\n")
    good = program(tool_path / "python3.12", "#!/bin/sh\nexit 0\n")
    assert find_python(tool_path).stdout.strip() == str(good)


def test_missing_venv_module_is_told(tool_path):
    text = f'#!/bin/sh\nexec "{sys.executable}" -c "import sys; sys.modules['
    text += '\'ensurepip\'] = None; exec(sys.argv[1])" "$2"\n'
    program(tool_path / "python3", text)
    done = find_python(tool_path)
    assert done.returncode == 1 and "has no venv module" in done.stderr


def test_named_python_or_none(tool_path):
    named = program(
        tool_path / "my python", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'
    )
    assert find_python(tool_path, str(named)).stdout.strip() == str(named)
    done = find_python(tool_path, "python3.99")
    assert done.returncode == 1 and "python3.99: no such program" in done.stderr


def test_old_interpreter_stops_before_anything(monkeypatch):
    """The first lines of setup_env.py are understood by older Pythons."""
    text = (TOOLS / "setup_env.py").read_text()
    head, rest = text.split("if sys.version_info < (3, 10)", 1)
    assert "sys.exit(" in rest.split("import environment")[0]
    assert "__future__" not in text and "match " not in head


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_make_hands_folders_over_unharmed(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    program(tmp_path / "tools" / "find_python.sh", "echo true\n")
    program(
        tmp_path / ".venv" / "bin" / "sb-margins",
        '#!/bin/sh\nfor w; do echo "[$w]"; done\n',
    )
    words = ["DATA=my 'own' \"big\" corpus", "LOSS=ham", "ARGS=--smallest"]
    # these tests may have been started by a make, which passes its settings on
    env = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    done = subprocess.run(
        ["make", "demo", *words],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
    )
    lines = ["[demo]", "[--data]", words[0].replace("DATA=", "[") + "]"]
    lines += ["[--loss]", "[ham]", "[--smallest]"]
    assert done.stdout.splitlines() == lines, done.stderr
