"""Set-up with a pretended Python and pip: no network, no real installation."""

from __future__ import annotations

import fcntl
import os
import runpy
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("constraints.txt", "setup.cfg", "pyproject.toml", "setup.py")
REPAIR = runpy.run_path(str(ROOT / "tools" / "repair.py"))

# Stands for the Python of the machine and of the environment. Notes its arguments,
# and behaves as files beside the checkout say.
FAKE = """#!/bin/sh
here="{folder}"
site="$here/a checkout/.venv/lib/python3.11/site-packages"
echo "$*" >> "$here/calls"
case "$*" in
"--version") echo "Python 3.11.7" ;;
"-c import sysconfig"*) echo "$site" ;;
"-m venv --clear .venv")
    rm -rf .venv; mkdir -p .venv/bin "$site"
    touch .venv/pyvenv.cfg; cp "$0" .venv/bin/python ;;
"-m pip install"*)
    [ -f "$here/fails" ] && {{ cat "$here/fails"; exit 1; }}
    mkdir -p "$site/torch" "$site/torchaudio/lib"
    printf "__version__ = '2.13.0+cpu'\\ncuda = None\\n" > "$site/torch/version.py"
    echo "__version__ = '2.11.0+cu130'" > "$site/torchaudio/version.py"
    touch "$site/torchaudio/lib/_torchaudio.abi3.so" ;;
"tools/repair.py"*) exec "{python}" "$@" ;;
"-c import torch"*)
    [ -f "$here/no imports" ] && {{ echo "OSError: libfoo.so: lost"; exit 1; }} ;;
esac
exit 0
"""


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


class Checkout:
    """A checkout, a pretended Python, and the calls that it got."""

    def __init__(self, folder: Path):
        self.folder, self.repo = folder, folder / "a checkout"
        self.repo.mkdir()
        for name in SOURCES:
            (self.repo / name).write_text(f"{name}\n")
        shutil.copytree(ROOT / "tools", self.repo / "tools")
        self.bin = folder / "bin"
        self.python = self.pretend(self.bin / "python3")
        program(self.bin / "nvidia-smi", "#!/bin/sh\nexit 9\n")
        self.site = self.repo / ".venv/lib/python3.11/site-packages"

    def pretend(self, path: Path) -> Path:
        return program(path, FAKE.format(folder=self.folder, python=sys.executable))

    def set_up(self, **variables: str) -> subprocess.CompletedProcess:
        path = f"{self.bin}:/usr/bin:/bin"
        return subprocess.run(
            ["sh", str(self.repo / "tools" / "setup.sh")],
            env={"PATH": path, **variables},
            capture_output=True,
            text=True,
            timeout=60,
        )

    def installs(self) -> list[str]:
        calls = (self.folder / "calls").read_text().splitlines()
        return [call for call in calls if call.startswith("-m pip install")]


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


def test_from_nothing(checkout):
    done = checkout.set_up()
    assert done.returncode == 0, done.stderr
    first, second = checkout.installs()
    assert first.endswith("-c constraints.txt torch setuptools")
    assert second.endswith("--no-build-isolation -e .[demo,docs,onnx,test,vad]")
    assert "index" not in first + second, "the user's own settings of pip apply"
    assert "torchaudio: compiled files set aside (torch is for the CPU)" in done.stdout
    assert "PyTorch 2.13.0+cpu, no NVIDIA GPU" in done.stdout
    assert len(done.stdout.splitlines()) <= 10


def test_second_time_nothing_is_installed(checkout):
    checkout.set_up()
    before = checkout.installs()
    assert checkout.set_up().stdout == "Set-up is up to date (.venv).\n"
    assert checkout.installs() == before


@pytest.mark.parametrize("name", SOURCES)
def test_changed_requirements_are_installed(checkout, name):
    checkout.set_up()
    (checkout.repo / name).write_text("changed\n")
    checkout.set_up()
    assert len(checkout.installs()) == 4


@pytest.mark.parametrize("gpu", [False, True])
def test_size_is_told_before_it_begins(checkout, gpu):
    if gpu:
        program(checkout.bin / "nvidia-smi", "#!/bin/sh\necho NVIDIA X1\n")
    out = checkout.set_up().stdout
    if gpu:
        assert "2.7 GB" not in out and "A CPU build beside a GPU" in out
    else:
        assert out.index("2.7 GB to download") < out.index("  PyTorch: ")
    (checkout.folder / "calls").unlink()
    shutil.rmtree(checkout.repo / ".venv")
    out = checkout.set_up(TORCH_INDEX="https://wheels.example/cpu").stdout
    assert "2.7 GB" not in out
    chosen = checkout.installs()[0]
    assert chosen.endswith("--index-url https://wheels.example/cpu torch torchaudio")
    assert "--no-deps" in chosen


def test_continues_after_a_failure(checkout):
    (checkout.folder / "fails").write_text("noise\nERROR: No space left on device\n")
    done = checkout.set_up()
    assert done.returncode == 1
    assert "ERROR: No space left on device\n" in done.stderr
    assert "PyTorch failed" in done.stderr and "noise" not in done.stderr
    assert "noise" in (checkout.repo / ".venv" / "setup.log").read_text()
    (checkout.folder / "fails").unlink()
    out = checkout.set_up().stdout
    assert out.startswith("Continuing with .venv") and "Set-up is done" in out


def test_failed_import_is_told(checkout):
    (checkout.folder / "no imports").touch()
    done = checkout.set_up()
    assert done.returncode == 1
    assert "OSError: libfoo.so" in done.stderr and "a first import" in done.stderr
    (checkout.folder / "no imports").unlink()
    assert "Set-up is done" in checkout.set_up().stdout


def test_foreign_folder_is_left_alone(checkout):
    (checkout.repo / ".venv" / "letters").mkdir(parents=True)
    done = checkout.set_up()
    assert done.returncode == 1 and "move it away" in done.stderr
    assert (checkout.repo / ".venv" / "letters").is_dir()


def test_moved_checkout_is_made_again(checkout):
    checkout.set_up()
    for name in ("setup.here", "setup.done"):
        note = checkout.repo / ".venv" / name
        note.write_text(note.read_text().replace("a checkout", "elsewhere"))
    assert checkout.set_up().stdout.startswith("Making .venv")


@pytest.mark.skipif(shutil.which("flock") is None, reason="no flock here")
def test_one_set_up_at_a_time(checkout):
    words = ["sh", str(checkout.repo / "tools" / "setup.sh")]
    env = {"PATH": f"{checkout.bin}:/usr/bin:/bin"}
    with open(checkout.repo / "constraints.txt") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        child = subprocess.Popen(words, env=env, stdout=subprocess.PIPE, text=True)
        time.sleep(0.3)
        assert child.poll() is None and not (checkout.repo / ".venv").exists()
    out, _ = child.communicate(timeout=60)
    assert out.startswith("Another set-up is running") and "Set-up is done" in out


def test_old_python_is_refused(checkout):
    text = "#!/bin/sh\necho is Python 3.8 >&2\nexit 1\n"
    for name in ("python3", "python3.10", "python3.11", "python3.12", "python3.13"):
        program(checkout.bin / name, text)
    done = checkout.set_up()
    assert done.returncode == 1
    assert "3.10 or newer is needed" in done.stderr
    assert "python3 is Python 3.8" in done.stderr
    assert not (checkout.repo / ".venv").exists()


def test_newer_python_beside_an_old_one_is_taken(checkout):
    checkout.python.write_text("#!/bin/sh\nexit 1\n")
    checkout.pretend(checkout.bin / "python3.12")
    assert "Set-up is done" in checkout.set_up().stdout


def test_missing_venv_module_is_told(checkout):
    hide = f'#!/bin/sh\nexec "{sys.executable}" -c "import sys;'
    hide += 'sys.modules[\'ensurepip\'] = None; exec(sys.argv[1])" "$2"\n'
    named = program(checkout.folder / "my python", hide)
    done = checkout.set_up(PYTHON=str(named))
    assert done.returncode == 1 and "has no venv module" in done.stderr


def test_named_python_or_none(checkout):
    named = checkout.pretend(checkout.folder / "my python")
    assert "Set-up is done" in checkout.set_up(PYTHON=str(named)).stdout
    shutil.rmtree(checkout.repo / ".venv")
    done = checkout.set_up(PYTHON="python3.99")
    assert done.returncode == 1 and "python3.99 will not do" in done.stderr


def torch_pair(site: Path, cuda: str | None, audio: str) -> list[str]:
    for name in ("torch", "torchaudio/lib"):
        (site / name).mkdir(parents=True, exist_ok=True)
    version = f"__version__ = '2.13.0'\ncuda = {cuda!r}\n"
    (site / "torch" / "version.py").write_text(version)
    (site / "torchaudio" / "version.py").write_text(f"__version__ = '{audio}'\n")
    return REPAIR["torchaudio"](site)


def test_torchaudio_is_repaired_and_back(tmp_path):
    library = tmp_path / "torchaudio" / "lib" / "_torchaudio.abi3.so"
    library.parent.mkdir(parents=True)
    library.write_text("x")
    aside = library.with_name("_torchaudio.abi3.so.cuda")

    assert torch_pair(tmp_path, "13.0", "2.11.0+cu130") == []
    assert torch_pair(tmp_path, None, "2.11.0") == []
    assert library.exists()
    (line,) = torch_pair(tmp_path, None, "2.11.0+cu130")
    assert "torch is for the CPU" in line and aside.exists() and not library.exists()
    assert torch_pair(tmp_path, None, "2.11.0+cu130") == []
    (line,) = torch_pair(tmp_path, "13.0", "2.11.0+cu130")
    assert "brought back" in line and library.exists() and not aside.exists()
    (line,) = torch_pair(tmp_path, "12.8", "2.11.0+cu130")
    assert "12.8" in line and aside.exists()


def test_packages_left_half_way_are_installed_again(tmp_path):
    records = {
        "whole-1.0": "whole-1.0.dist-info/INSTALLER,sha256=x,4\n",
        "half-1.0": "half/__init__.py,sha256=x,4\n",
        "torch-2.13.0": None,
    }
    for name, record in records.items():
        info = tmp_path / f"{name}.dist-info"
        info.mkdir()
        (info / "METADATA").touch()
        if record:
            (info / "RECORD").write_text(record)
    (tmp_path / "~umpy").mkdir()
    dropped = [line.split(":")[0] for line in REPAIR["packages"](tmp_path)]
    assert dropped == ["half", "torch"]
    assert [p.name for p in tmp_path.iterdir()] == ["whole-1.0.dist-info"]


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_make_hands_folders_over_unharmed(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    program(tmp_path / "tools" / "setup.sh", "")
    echo = '#!/bin/sh\nfor w; do echo "[$w]"; done\n'
    program(tmp_path / ".venv" / "bin" / "sb-margins", echo)
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
    lines = ["[demo]", "[--data-folder]", words[0].replace("DATA=", "[") + "]"]
    lines += ["[--loss]", "[ham]", "[--smallest]"]
    assert done.stdout.splitlines() == lines, done.stderr
