"""Settings that mislead: programs on PATH, environment variables, YAML keys."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from sb_margins.doctor.finding import Finding
from sb_margins.doctor.packages import try_import
from sb_margins.errors import UserError


def findings() -> list[Finding]:
    """Everything about settings.

    Example
    -------
    >>> {"hparams"} <= {f.name for f in findings()}
    True
    """
    return [program("pip"), program("sb-margins"), tf32(), *hparams()]


def program(name: str) -> Finding:
    """Whether the program on PATH belongs to the running Python.

    Arguments
    ---------
    name : str
        ``pip`` or ``sb-margins``.

    Example
    -------
    >>> program("no-such-program").mark
    'good'
    """
    found = shutil.which(name)
    here = Path(sys.prefix) / "bin"
    if found is None or Path(found).parent.resolve() == here.resolve():
        return Finding("good", name, found or f"not on PATH ({here / name})")
    if name == "pip":
        detail = f"{found} is of another Python"
        remedy = (
            "SpeechBrain's env.log lists the packages of that one; use python -m pip"
        )
        return Finding("note", name, detail, remedy)
    remedy = f"it is another installation; this one is {here / name}"
    return Finding("note", name, found, remedy)


def tf32() -> Finding:
    """Whether SpeechBrain's quirk lowers the precision of products on a GPU.

    Example
    -------
    >>> tf32().name
    'TF32'
    """
    torch, _ = try_import("torch")
    off = "allow_tf32" in os.environ.get("SB_DISABLE_QUIRKS", "")
    if torch is None or not torch.cuda.is_available() or off:
        return Finding("good", "TF32", "off" if off else "no GPU that has it")
    detail = "on for your own float32 products (SpeechBrain turns it on)"
    remedy = "our heads keep it out of theirs; all off: SB_DISABLE_QUIRKS=allow_tf32"
    return Finding("note", "TF32", detail, remedy)


def swallowed(keys: Iterable[str], options: Iterable[str]) -> dict[str, str]:
    """YAML keys that a run option swallows when they are given as a flag.

    SpeechBrain's argument parser takes abbreviations: ``--optimizer=x`` sets
    ``optimizer_step_limit``, and a YAML key ``optimizer`` never hears of it.

    Arguments
    ---------
    keys : iterable of str
        Top-level keys of a YAML.
    options : iterable of str
        Names of run options.

    Returns
    -------
    dict of str to str
        From key to the first option that it abbreviates.

    Example
    -------
    >>> swallowed(["dev", "loss", "device"], ["device", "debug"])
    {'dev': 'device'}
    """
    options = sorted(options)
    out = {}
    for key in keys:
        if key not in options:
            longer = [option for option in options if option.startswith(key)]
            if longer:
                out[key] = longer[0]
    return out


def top_level_keys(path: Path) -> list[str]:
    """Keys at the left edge of a YAML, in order; no package is needed to read them.

    Arguments
    ---------
    path : Path
        The file.

    Example
    -------
    >>> path = Path(getfixture("tmpdir")) / "a.yaml"
    >>> _ = path.write_text("seed: 1\\nmodel: !new:x\\n    size: 2\\n")
    >>> top_level_keys(path)
    ['seed', 'model']
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    return re.findall(r"^([A-Za-z_]\w*):(?:\s|$)", text, re.MULTILINE)


def hparams() -> list[Finding]:
    """The YAMLs: where they are, and whether any flag of theirs is swallowed.

    Example
    -------
    >>> hparams()[0].mark
    'good'
    """
    try:
        from sb_margins.select import hparams_dir

        folder = hparams_dir()
    except UserError as error:
        return [Finding("bad", "hparams", str(error))]
    except Exception as error:  # torch is missing, which was told above
        return [Finding("note", "hparams", f"not looked at: {error}")]
    files = sorted(folder.glob("**/*.yaml"))
    out = [Finding("good", "hparams", f"{len(files)} YAMLs in {folder}")]
    run_opts, _ = try_import("speechbrain.utils.run_opts")
    if run_opts is None:
        return out
    options = set(run_opts.RunOptions().as_dict())
    for path in files:
        for key, option in swallowed(top_level_keys(path), options).items():
            detail = f"{path.name}: --{key} is taken for --{option}"
            out.append(Finding("note", "hparams", detail, f"rename the key {key}"))
    return out
