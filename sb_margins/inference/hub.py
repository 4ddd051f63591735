"""Share a model folder on the Hugging Face hub: one commit, the model's files only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sb_margins.errors import UserError
from sb_margins.inference.model_folder import HUB_ID, load_folder

#: What of a folder is shared; nothing else in it leaves the machine.
PATTERNS = ("hyperparams.yaml", "*.ckpt", "*.onnx")
CARD = "README.md"


def push_model(
    folder: str | Path,
    name: str,
    *,
    public: bool = False,
    update: bool = False,
    revision: str | None = None,
    api: Any = None,
) -> str:
    """Put a model folder on the hub; its address.

    The folder is loaded first, as anybody would load it. ``hyperparams.yaml``, the
    weights, the card and an ONNX graph are sent, in one commit: all or none.

    Arguments
    ---------
    folder : str or Path
        A model folder, as ``sb-margins export`` writes it.
    name : str
        ``owner/model``.
    public : bool
        Let everybody see a new repository. Default False: it is private.
    update : bool
        Add a commit to a repository that exists. Default False: that is an error.
    revision : str, optional
        The branch; default: the main one.
    api : optional
        A ``huggingface_hub.HfApi``; default: one with the token of ``hf auth login``.

    Raises
    ------
    UserError
        For a folder that is not a sound model, a bad name, a repository that exists
        or does not, and whatever the hub refuses.

    Example
    -------
    >>> push_model("my_model", "no owner")
    Traceback (most recent call last):
    ...
    sb_margins.errors.UserError: 'no owner' is not a name of a model on the hub: ...
    """
    match = HUB_ID.fullmatch(name)
    if not match or match["revision"]:
        raise UserError(
            f"'{name}' is not a name of a model on the hub: give OWNER/MODEL"
        )
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no such model folder: {folder}")
    load_folder(folder)
    if not (folder / CARD).is_file():
        raise UserError(f"{folder} has no {CARD}, the model's card; export it again")
    from huggingface_hub import CommitOperationAdd, HfApi

    card = (folder / CARD).read_text(encoding="utf-8").replace("THIS_FOLDER", name)
    files = {CARD: card.encode()}
    paths = {path.name: path for p in PATTERNS for path in sorted(folder.glob(p))}
    operations = [
        CommitOperationAdd(
            file, content if isinstance(content, bytes) else str(content)
        )
        for file, content in {**files, **paths}.items()
    ]
    api = HfApi() if api is None else api
    try:
        there = api.repo_exists(name)
        if there and not update:
            raise UserError(
                f"{name} exists on the hub; add a commit to it with --update, or give "
                "another name"
            )
        if update and not there:
            raise UserError(f"{name} does not exist on the hub; leave out --update")
        if not there:
            api.create_repo(name, private=not public)
        if revision is not None:
            api.create_branch(name, branch=revision, exist_ok=True)
        done = api.create_commit(
            name,
            operations,
            commit_message="Model exported by sb_margins",
            revision=revision,
        )
    except UserError:
        raise
    except Exception as error:  # the hub's errors differ between its versions
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"the hub did not take {name}: {first}. No file was changed there. Log in "
            "with hf auth login, and see that the network and the name are right"
        ) from error
    return str(getattr(done, "repo_url", None) or f"https://huggingface.co/{name}")
