"""The public interface is documented; README and docs/ say what exists."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import inspect
import io
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
import ruamel.yaml
from documents import (
    REASONS,
    SHELL,
    Block,
    blocks,
    inside,
    make_workspace,
    parse,
    provide_recordings,
    run_command,
)
from hyperpyyaml import load_hyperpyyaml

from sb_margins import cli
from sb_margins.data import CORPORA
from sb_margins.select import hparams_dir
from sb_margins.training.config import compose

ROOT = Path(__file__).resolve().parents[2]
PUBLIC = (
    "sb_margins",
    "sb_margins.losses",
    "sb_margins.classifiers",
    "sb_margins.similarity",
    "sb_margins.functional",
    "sb_margins.verification.metrics",
    "sb_margins.inference",
    "sb_margins.resnet",
)
HEADINGS = ("Arguments", "Returns", "Yields", "Raises", "Example")


def public_objects() -> dict[str, object]:
    """Public classes and functions, by full name."""
    out = {}
    for module_name in PUBLIC:
        module = importlib.import_module(module_name)
        names = getattr(module, "__all__", None) or [
            name
            for name, value in vars(module).items()
            if not name.startswith("_")
            and getattr(value, "__module__", "") == module_name
        ]
        for name in names:
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                out[f"{value.__module__}.{value.__qualname__}"] = value
    return out


OBJECTS = public_objects()


def sections(text: str) -> dict[str, str]:
    """Underlined headings and the text below each."""
    parts = re.split(r"^(\w+)\n-{3,}\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def parameters(value: object) -> set[str]:
    signature = inspect.signature(value)  # type: ignore[arg-type]
    return {
        name
        for name in signature.parameters
        if name not in ("self", "args", "kwargs") and not name.startswith("_")
    }


@pytest.mark.parametrize("name", OBJECTS)
def test_public_interface_is_documented(name):
    value = OBJECTS[name]
    text = inspect.getdoc(value) or ""
    assert text and value.__doc__, "no docstring"
    if name.endswith("Error"):
        return
    found = sections(text)
    assert set(found) <= set(HEADINGS), f"headings: {sorted(found)}"
    arguments, listed = found.get("Arguments", ""), set()
    for line in re.findall(r"^(\*{0,2}\w[\w, *]*?)(?: :|$)", arguments, re.M):
        listed |= {part.strip(" *") for part in line.split(",")}
    plain = dataclasses.is_dataclass(value) or not inspect.isclass(value)
    if plain or "__init__" in vars(value):
        missing = parameters(value) - listed
        assert not missing, f"arguments without a word: {sorted(missing)}"
        if not any("*" in str(p) for p in inspect.signature(value).parameters.values()):
            unknown = listed - parameters(value)
            assert not unknown, f"documented, but no arguments: {sorted(unknown)}"
    source = inspect.getsource(value) if inspect.isclass(value) else text
    assert ">>>" in source, "no example"


PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "recipes").glob("*/README.md"),
        *(ROOT / "examples").glob("*.md"),
    ]
)
FOLDERS = "sb_margins|hparams|recipes|benchmarks|tests|tools|docs|examples"


def identify(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=identify)
def test_links_and_files_exist(page):
    text = page.read_text(encoding="utf-8")
    missing = []
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in target and not (page.parent / target).exists():
            missing.append(target)
    for path in re.findall(rf"(?<![\w./-])((?:{FOLDERS})/[\w./-]*\w)", text):
        module = ROOT / f"{path}.py"
        if not (ROOT / path).exists() and not module.exists():
            missing.append(path)
    assert not missing, f"not in the repository: {missing}"


def commands(page: Path) -> list[list[str]]:
    """The words of each command line of ours in a page's code, also within lines."""
    lines = [line for block in blocks(page) for line in block.commands()]
    fences = re.compile(r"^```.*?^```", re.S | re.M)
    text = fences.sub("", page.read_text(encoding="utf-8"))
    lines += re.findall(r"`((?:sb-margins|make) [^`]+)`", text)
    found = []
    for line in lines:
        line = re.sub(r"^(?:python|torchrun .*) -m sb_margins", "sb-margins", line)
        starts = ("sb-margins ", "make ", "python recipes/", "python examples/")
        if line.removeprefix("$ ").startswith(starts):
            with contextlib.suppress(ValueError):  # an odd quote of a listing
                found.append(shlex.split(line.removeprefix("$ "), comments=True))
    return found


@cache
def help_text(verb: str, *words: str) -> str:
    """What ``sb-margins VERB --help`` prints."""
    module = importlib.import_module(cli.COMMANDS[verb][0])
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        module.main([*words, "--help"])
    return out.getvalue()


@cache
def flags(verb: str) -> set[str]:
    """Flags of a verb, with dashes; of those that train, the keys of YAMLs, too."""
    text = help_text(verb)
    if verb == "prepare":
        text += "".join(help_text(verb, corpus) for corpus in CORPORA)
    found = set(re.findall(r"--([a-zA-Z][\w-]*)", text))
    if verb in ("train", "finetune", "demo", "compare"):
        from speechbrain.utils.run_opts import RunOptions

        found |= set(RunOptions().as_dict())
        for path in [*hparams_dir().rglob("*.yaml"), *ROOT.glob("recipes/**/*.yaml")]:
            keys = r"^(?:# *)?([A-Za-z_]\w*):"
            found |= set(re.findall(keys, path.read_text(encoding="utf-8"), re.M))
    return {flag.replace("_", "-") for flag in found}


def wrong_words(words: list[str]) -> list[str]:
    program, *rest = words
    if program == "make":
        makefile = (ROOT / "Makefile").read_text()
        targets = set(re.findall(r"^([a-z]+):", makefile, re.M))
        variables = {"ARGS", "DATA", "JOBS", "LOSS", "PYTHON", "TORCH_INDEX"}
        return [
            word
            for word in rest
            if (word.split("=")[0] if "=" in word else word) not in targets | variables
        ]
    if program == "python":
        script, *rest = rest
        assert (ROOT / script).is_file(), script
        verb = {
            "train.py": "train",
            "prepare.py": "prepare",
            "verify.py": "verify",
        }.get(Path(script).name)
        if verb is None:
            return []
    else:
        verb, *rest = rest[rest[:1] == ["--debug"] :] or ["--help"]
        if verb in ("COMMAND", "VERB", "--help", "--version"):
            return []
        if verb not in cli.COMMANDS:
            return [verb]
    used = [word[2:].split("=")[0] for word in rest if word.startswith("--")]
    known = flags(verb) | {"help"}
    return [f"{verb} --{u}" for u in used if u.replace("_", "-") not in known]


@pytest.mark.parametrize("page", PAGES, ids=identify)
def test_commands_exist(page):
    wrong = [word for words in commands(page) for word in wrong_words(words)]
    assert not wrong, f"unknown verbs, flags or targets: {wrong}"


LISTINGS = ("text", "json")
RUN = [page for page in PAGES if page.parent in (ROOT, ROOT / "docs")]


@pytest.fixture(scope="session")
def workspace(tmp_path_factory):
    """One folder for all pages: a small demo corpus and a model of it."""
    folder = tmp_path_factory.mktemp("documents")
    make_workspace(folder)
    return folder


@pytest.mark.parametrize("page", [p for p in RUN if blocks(p)], ids=identify)
def test_code_blocks_run(page, workspace, capfd):
    """In order, in one folder, Python with the names of the page's blocks above."""
    names: dict[str, object] = {"__name__": "documents"}
    for block in blocks(page):
        try:
            with inside(workspace):
                run_block(block, workspace, names)
        except (Exception, SystemExit) as error:
            written = capfd.readouterr()
            told = f"{written.out[-2000:]}{written.err[-2000:]}"
            raise AssertionError(
                f"{block.page}:{block.line}: {error}\n{told}"
            ) from error


def run_block(block: Block, workspace: Path, names: dict[str, object]) -> None:
    """Run a block; parse it only when the comment above it says why."""
    assert not block.reason or block.reason in REASONS, f"no reason: {block.reason}"
    if block.file:
        (workspace / block.file).parent.mkdir(parents=True, exist_ok=True)
        (workspace / block.file).write_text(block.text, encoding="utf-8")
    provide_recordings(workspace, block.text)
    if block.language == "python":
        code = compile(block.text, f"{block.page}:{block.line}", "exec")
        if not block.reason:
            exec(code, names)
    elif block.language == "yaml":
        keys = ruamel.yaml.YAML(typ="rt").load(block.text)
        if "base" in keys:
            compose(workspace / block.file)
        elif not block.reason:
            load_hyperpyyaml("out_n_neurons: 10\n" + block.text)
    elif block.language in SHELL:
        for line in block.commands():
            if not block.reason:
                run_command(line)
    else:
        assert block.language[:1] == "{" or block.language in LISTINGS, block


def test_most_blocks_run():
    found = [b for p in RUN for b in blocks(p) if b.language in ("python", *SHELL)]
    run = [block for block in found if not block.reason]
    assert len(run) > 0.6 * len(found), [b.line for b in found if b.reason]


def test_kinds_of_blocks():
    page = """Text

    sb-margins losses \\
        ham
    make test

<!-- not run: GPU -->

    torchrun x

<!-- file: a.csv -->
```json
utt_id
```

* a list

  with text

```console
$ sb-margins losses
am
```
"""
    first, second, third, last = parse(page, "page.md")
    assert first.commands() == ["sb-margins losses      ham", "make test"]
    assert (second.reason, second.commands()) == ("GPU", ["torchrun x"])
    assert (third.file, third.language, third.text) == ("a.csv", "json", "utt_id\n")
    assert last.commands() == ["sb-margins losses"] and last.line == 20
