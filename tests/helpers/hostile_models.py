"""A corpus of model folders that try to do something to whoever loads them.

Each case changes a good model folder. Payloads make the file ``mark``, outside of the
folder; ``LIVE`` names those that plain HyperPyYAML is known to run, so that the tests
can show that the corpus is not made of blanks. ``KEYS`` names the top-level key that a
case adds: nothing refers to it, so a safe load may pass over it; with `reach` something
does, and it must be refused.
"""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch

CASES: dict[str, Callable[[Path, Path], None]] = {}
LIVE: set[str] = set()
KEYS: dict[str, str] = {}


def case(function):
    CASES[function.__name__] = function
    return function


def append(folder: Path, text: str) -> None:
    path = folder / "hyperparams.yaml"
    path.write_text(path.read_text() + "\n" + text + "\n")


def replace(folder: Path, old: str, new: str) -> None:
    path = folder / "hyperparams.yaml"
    text = path.read_text()
    assert old in text, old
    path.write_text(text.replace(old, new, 1))


def prepend(folder: Path, text: str) -> None:
    path = folder / "hyperparams.yaml"
    path.write_text(text + "\n" + path.read_text())


def reach(folder: Path, key: str) -> None:
    """Let a setting that is read refer to a key."""
    append(folder, f"calibration: {{scale: 1.0, offset: 0.0, data: !ref <{key}>}}")


def yaml_case(name: str, text: str, live: bool = False, key: str = "x") -> None:
    """A case that appends YAML; {mark} is the payload's file."""

    def change(folder: Path, mark: Path) -> None:
        append(folder, text.replace("{mark}", str(mark)))

    CASES[name] = change
    KEYS[name] = key
    if live:
        LIVE.add(name)


# What the YAML can name

yaml_case("apply_system", "x: !apply:os.system ['touch {mark}']", live=True)
yaml_case("new_popen", "x: !new:subprocess.Popen [[touch, '{mark}']]", live=True)
yaml_case("name_eval", "x: !name:builtins.eval")
yaml_case("name_partial", "x: !name:os.system ['touch {mark}']")
yaml_case("new_file_io", "x: !new:io.FileIO ['{mark}', w]", live=True)
yaml_case("applyref_system", "x: !applyref:os.system ['touch {mark}']", live=True)
yaml_case("module_of_stdlib", "x: !module:antigravity")
yaml_case(
    "nested_in_lists",
    "x: [1, {a: [2, {b: !apply:os.system ['touch {mark}']}]}]",
    live=True,
)
yaml_case(
    "as_argument",
    "x: !new:torch.nn.Linear [!apply:os.system ['touch {mark}'], 2]",
    live=True,
)
yaml_case("as_key", "{? !apply:os.system ['touch {mark}'] : 1}")
yaml_case(
    "anchor", "x: &e !apply:os.system ['touch {mark}']\ny: *e", live=True, key="y"
)
yaml_case(
    "double_underscore", "__x: !apply:os.system ['touch {mark}']", live=True, key="__x"
)
yaml_case(
    "python_tag", "x: !!python/object/apply:os.system ['touch {mark}']", live=True
)
yaml_case("python_name", "x: !!python/name:os.system")
yaml_case("python_module", "x: !!python/module:antigravity")
yaml_case("python_new", "x: !!python/object/new:subprocess.Popen [[touch, '{mark}']]")
yaml_case("verbatim_tag", "x: !<!apply:os.system> ['touch {mark}']", live=True)
yaml_case("encoded_tag", "x: !apply:os%2Esystem ['touch {mark}']", live=True)
yaml_case(
    "tuple_of_python",
    "x: (!!python/object/apply:os.system ['touch {mark}'])",
    live=True,
)
yaml_case("tuple_tag", "x: !tuple '(!!python/object/apply:os.system [touch {mark}])'")
yaml_case(
    "walk_through_speechbrain",
    "x: !apply:speechbrain.utils.fetching.shutil.os.system ['touch {mark}']",
    live=True,
)
yaml_case(
    "walk_through_allowed", "x: !apply:speechbrain.lobes.features.torch.load [x.ckpt]"
)
yaml_case("reexported_class", "x: !new:speechbrain.lobes.features.Resample {}")
yaml_case("reexported_module", "x: !new:speechbrain.lobes.features.torch")
yaml_case("dunder_class", "x: !new:torch.nn.Linear.__class__ [a, [], {}]")
yaml_case("torch_hub", "x: !name:torch.hub.load")
yaml_case("data_parallel", "x: !new:torch.nn.DataParallel [!ref <embedding_model>]")
yaml_case("downloads", "x: !new:speechbrain.lobes.models.beats.BEATs {ckp_path: x.pt}")
yaml_case("attribute", "x: !ref <embedding_model.forward>")
yaml_case(
    "getattr_chain",
    "x: !apply:getattr [!ref <embedding_model>, forward]",
)
yaml_case("merge_key", "x: &b {a: 1}\ny: {<<: *b}", key="y")
yaml_case("binary", "x: !!binary aGVsbG8=")
yaml_case("made_up_tag", "x: !anything 1")
yaml_case("placeholder", "x: !PLACEHOLDER")


@case
def tag_directive(folder, mark):
    text = (folder / "hyperparams.yaml").read_text()
    text = f"%TAG !e! !apply:os.\n---\n{text}\nx: !e!system ['touch {mark}']\n"
    (folder / "hyperparams.yaml").write_text(text)


LIVE.add("tag_directive")
KEYS["tag_directive"] = "x"


@case
def include_beside(folder, mark):
    (folder / "more.yaml").write_text(f"y: !apply:os.system ['touch {mark}']\n")
    append(folder, "x: !include:more.yaml")


LIVE.add("include_beside")
KEYS["include_beside"] = "x"


@case
def include_outside(folder, mark):
    (folder.parent / "more.yaml").write_text(f"y: !apply:os.system ['touch {mark}']\n")
    append(folder, "x: !include:../more.yaml")


KEYS["include_outside"] = "x"


@case
def module_in_the_folder(folder, mark):
    (folder / "payload.py").write_text(f"open({str(mark)!r}, 'w')\nclass Net: pass\n")
    append(folder, "x: !new:payload.Net")


KEYS["module_in_the_folder"] = "x"


@case
def instead_of_the_features(folder, mark):
    replace(
        folder,
        "compute_features: !new:speechbrain.lobes.features.Fbank\n  n_mels: 40",
        f"compute_features: !apply:os.system ['touch {mark}']",
    )


LIVE.add("instead_of_the_features")


# What the pretrainer can be told

PRETRAINER = "Pretrainer\n"


def pretrainer_case(name: str, text: str) -> None:
    def change(folder: Path, mark: Path) -> None:
        replace(folder, PRETRAINER, PRETRAINER + text.replace("{mark}", str(mark)))

    CASES[name] = change


pretrainer_case("hooks", "  custom_hooks: {embedding_model: !name:os.system}\n")
pretrainer_case("hooks_plain", "  custom_hooks: {embedding_model: 1}\n")
pretrainer_case("conditions", "  conditions: {embedding_model: false}\n")
pretrainer_case("parent", "  paths: {embedding_model: ../embedding_model.ckpt}\n")
pretrainer_case("parents", "  paths: {embedding_model: a/../../../x.ckpt}\n")
pretrainer_case("absolute", "  paths: {embedding_model: '{mark}'}\n")
pretrainer_case("url", "  paths: {embedding_model: 'http://x.invalid/e.ckpt'}\n")
pretrainer_case("file_url", "  paths: {embedding_model: 'file:///etc/passwd'}\n")


@case
def nothing_loaded(folder, mark):
    replace(
        folder, "    embedding_model: !ref <embedding_model>\n    label", "    label"
    )


@case
def loadable_named_as_path(folder, mark):
    replace(folder, "    label_encoder: !ref", "    ../label_encoder: !ref")


@case
def dotted_module_name(folder, mark):
    replace(folder, "modules:\n", "modules:\n  a.b: !ref <mean_var_norm>\n")


@case
def module_named_as_a_method(folder, mark):
    replace(folder, "modules:\n", "modules:\n  keys: !ref <mean_var_norm>\n")


@case
def module_that_is_none(folder, mark):
    replace(folder, "modules:\n", "modules:\n  other: 5\n")


@case
def wide_features(folder, mark):
    replace(folder, "n_mels: 40", "n_mels: 1000000000")


# Links and odd files


def _outside(folder: Path, name: str) -> Path:
    target = folder.parent / f"outside_{name}"
    (folder / name).rename(target)
    return target


@case
def weights_link_outside(folder, mark):
    target = _outside(folder, "embedding_model.ckpt")
    (folder / "embedding_model.ckpt").symlink_to(target)


@case
def yaml_link_outside(folder, mark):
    target = _outside(folder, "hyperparams.yaml")
    (folder / "hyperparams.yaml").symlink_to(target)


@case
def folder_link_outside(folder, mark):
    other = folder.parent / "elsewhere"
    other.mkdir()
    (folder / "embedding_model.ckpt").rename(other / "embedding_model.ckpt")
    (folder / "sub").symlink_to(other)
    text = "  paths: {embedding_model: sub/embedding_model.ckpt}\n"
    replace(folder, PRETRAINER, PRETRAINER + text)


@case
def weights_link_to_device(folder, mark):
    (folder / "embedding_model.ckpt").unlink()
    (folder / "embedding_model.ckpt").symlink_to("/dev/zero")


@case
def weights_are_a_pipe(folder, mark):
    (folder / "embedding_model.ckpt").unlink()
    os.mkfifo(folder / "embedding_model.ckpt")


@case
def yaml_is_a_pipe(folder, mark):
    (folder / "hyperparams.yaml").unlink()
    os.mkfifo(folder / "hyperparams.yaml")


@case
def weights_are_a_folder(folder, mark):
    (folder / "embedding_model.ckpt").unlink()
    (folder / "embedding_model.ckpt").mkdir()


# Bombs


@case
def alias_bomb(folder, mark):
    lines = ["b0: &b0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    for i in range(1, 12):
        lines.append(f"b{i}: &b{i} [{', '.join([f'*b{i - 1}'] * 9)}]")
    append(folder, "\n".join(lines))


KEYS["alias_bomb"] = "b11"


@case
def copy_bomb(folder, mark):
    lines = ["c0: [lol, lol, lol, lol]"]
    for i in range(1, 14):
        lines.append(f"c{i}: [{', '.join([f'!copy <c{i - 1}>'] * 8)}]")
    append(folder, "\n".join(lines))


KEYS["copy_bomb"] = "c13"


@case
def text_bomb(folder, mark):
    lines = ["t0: lollollol"]
    for i in range(1, 12):
        lines.append(f"t{i}: !ref {f'<t{i - 1}>' * 9}")
    append(folder, "\n".join(lines))


KEYS["text_bomb"] = "t11"


yaml_case("power_bomb", "p: 9\nx: !ref <p>**<p>**<p>**<p>")
yaml_case("division_by_zero", "p: 0\nx: !ref 1 / <p>")
yaml_case("digits", f"p: {'9' * 6000}", key="p")
yaml_case("deep_lists", "x: " + "[" * 1000 + "]" * 1000)
yaml_case("deep_sum", "p: 1\nx: !ref <p>" + "+(1" * 300 + ")" * 300 + "+(1" * 9999)
yaml_case("itself", "x: &x [1, *x]")
yaml_case("circle", "x: !ref <y>\ny: !ref <x>")
yaml_case("terabyte", "x: !new:torch.nn.Linear [1000000, 1000000]")
yaml_case("terabytes", "x: !new:torch.nn.Linear [1000000000000, 10]")
yaml_case("many_layers", "x: !new:torch.nn.LSTM [4, 4, 9000000]")
yaml_case("negative", "x: !new:torch.nn.Linear [-1, 4]")
yaml_case("long", "# " + "x" * 600_000)


def doubled(first: str, tag: str, times: int = 40) -> str:
    lines = [f"d0: {first}"]
    for i in range(1, times + 1):
        lines.append(f"d{i}: {tag} [!ref <d{i - 1}>, !ref <d{i - 1}>]")
    return "\n".join(lines)


yaml_case("doubled_lists", doubled("[1, 2]", ""), key="d40")
yaml_case(
    "doubled_networks",
    doubled("!new:torch.nn.ReLU", "!new:torch.nn.Sequential"),
    key="d40",
)
yaml_case(
    "doubled_in_text", "d: !ref <sample_rate><sample_rate>\nx: !ref " + "<d>" * 200
)
yaml_case(
    "clones",
    "layer: !new:torch.nn.TransformerEncoderLayer [8, 2]\n"
    "x: !new:torch.nn.TransformerEncoder [!ref <layer>, 900000]",
)
yaml_case(
    "wide_context",
    "x: !new:speechbrain.processing.features.ContextWindow [900000, 900000]",
)
yaml_case(
    "wide_cosines", "x: !new:speechbrain.processing.features.DCT [900000, 900000]"
)
yaml_case(
    "long_text_often", "long: '" + "y" * 60_000 + "'\nx: !ref " + "<long>" * 20_000
)
yaml_case("tuples_in_tuples", "x: " + "(" * 100_000 + ")" * 100_000)
yaml_case("number_in_a_mapping", "x: !new:torch.nn.Identity {a: {b: 1.0e+9}}")
yaml_case(
    "head_with_a_power",
    "x: !apply:sb_margins.select.head\n  loss: am\n  input_size: 4\n"
    "  out_neurons: 4\n  scale: '<out_neurons>**9**9**9'",
)
yaml_case(
    "head_from_elsewhere",
    "x: !apply:sb_margins.select.head [../../payload, 4, 4]",
)

# Sizes that a machine's memory may hold
yaml_case(
    "gigabytes_of_context",
    "x: !new:speechbrain.processing.features.ContextWindow [30000, 0]",
)
yaml_case(
    "gigabytes_of_cosines", "x: !new:speechbrain.processing.features.DCT [30000, 30000]"
)
yaml_case(
    "gigabytes_of_clones",
    "layer: !new:torch.nn.TransformerEncoderLayer [2048, 2]\n"
    "x: !new:torch.nn.TransformerEncoder [!ref <layer>, 40]",
)


def encoder_case(name: str, old: str, new: str) -> None:
    """A case that changes a setting of the encoder."""

    def change(folder: Path, mark: Path) -> None:
        replace(folder, old, new)

    CASES[name] = change


FEATURES = "n_mels: 40"
encoder_case("wide_transform", FEATURES, "n_mels: 40\n  n_fft: 1000000")
encoder_case("wide_window", FEATURES, "n_mels: 40\n  win_length: 900000")
encoder_case("tiny_hop", FEATURES, "n_mels: 40\n  n_fft: 900000\n  hop_length: 0.1")
encoder_case("no_hop", FEATURES, "n_mels: 40\n  hop_length: 0")
encoder_case("wide_bank", FEATURES, "n_mels: 900000\n  n_fft: 900000")
encoder_case("gigabytes_of_bank", FEATURES, "n_mels: 900\n  n_fft: 900000")
encoder_case("wide_neighbours", FEATURES, "n_mels: 40\n  left_frames: 900000")
encoder_case(
    "magnified",
    "!new:speechbrain.processing.features.InputNormalization\n"
    "  norm_type: sentence\n  std_norm: false",
    "!new:torch.nn.Upsample\n  scale_factor: 900000",
)
encoder_case(
    "gigabytes_magnified",
    "compute_features: !new:speechbrain.lobes.features.Fbank\n  n_mels: 40",
    "fbank: !new:speechbrain.lobes.features.Fbank\n  n_mels: 40\n"
    "wider: !new:torch.nn.Upsample\n  scale_factor: 400000\n"
    "compute_features: !new:torch.nn.Sequential [!ref <fbank>, !ref <wider>]",
)


@case
def twice(folder, mark):
    append(folder, "sample_rate: 8000")


@case
def not_text(folder, mark):
    (folder / "hyperparams.yaml").write_bytes(bytes(range(256)) * 8)


@case
def null_bytes(folder, mark):
    (folder / "hyperparams.yaml").write_bytes(b"a: 1\0\n")


@case
def empty_yaml(folder, mark):
    (folder / "hyperparams.yaml").write_text("")


@case
def list_yaml(folder, mark):
    (folder / "hyperparams.yaml").write_text("[1, 2]")


@case
def two_documents(folder, mark):
    append(folder, f"---\nx: !apply:os.system ['touch {mark}']")


# Weights


class Payload:
    """Pickled, it makes a file when unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self):
        return (os.system, (f"touch '{self.mark}'",))


def change_weights(folder: Path, change: Callable[[dict], object]) -> None:
    path = folder / "embedding_model.ckpt"
    weights = torch.load(path, weights_only=True)
    result = change(weights)
    torch.save(weights if result is None else result, path)


@case
def pickle_in_weights(folder, mark):
    change_weights(folder, lambda w: w.update(extra=Payload(mark)))


@case
def pickle_is_weights(folder, mark):
    (folder / "embedding_model.ckpt").write_bytes(pickle.dumps(Payload(mark)))


@case
def pickle_in_old_format(folder, mark):
    torch.save(
        Payload(mark),
        folder / "embedding_model.ckpt",
        _use_new_zipfile_serialization=False,
    )


@case
def pickle_in_labels(folder, mark):
    (folder / "label_encoder.ckpt").write_bytes(pickle.dumps(Payload(mark)))


@case
def code_in_labels(folder, mark):
    text = f"__import__('os').system('touch {mark}') => 0\n"
    (folder / "label_encoder.ckpt").write_text(text)


@case
def labels_too_deep_for_the_parser(folder, mark):
    (folder / "label_encoder.ckpt").write_text("-" * 10**6 + "1 => 0\n")


@case
def nested_labels(folder, mark):
    (folder / "label_encoder.ckpt").write_text("(" * 900 + ")" * 900 + " => 0\n")


@case
def quantised_weight(folder, mark):
    def change(weights):
        dense = weights["fc.conv.weight"]
        weights["fc.conv.weight"] = torch.quantize_per_tensor(
            dense, 0.1, 0, torch.qint8
        )

    change_weights(folder, change)


@case
def nested_tensor_weight(folder, mark):
    def change(weights):
        weights["fc.conv.weight"] = torch.nested.nested_tensor([torch.ones(2)])

    change_weights(folder, change)


@case
def complex_weight(folder, mark):
    def change(weights):
        weights["fc.conv.weight"] = weights["fc.conv.weight"].to(torch.complex64)

    change_weights(folder, change)


class Bytes:
    """Pickled, it allocates when unpickled."""

    def __reduce__(self):
        return (bytearray, (3_000_000_000,))


@case
def bytes_in_weights(folder, mark):
    change_weights(folder, lambda w: {"weight": Bytes()})


@case
def memo_in_weights(folder, mark):
    """The C unpickler allocates its memo up to the largest index."""
    put = pickle.LONG_BINPUT + (2**31).to_bytes(4, "little")
    repack(folder, lambda data: data[:2] + b"}" + put + b".")


@case
def keys_in_weights(folder, mark):
    """The hash of a tuple that holds itself twice, 40 times over."""
    nested = b"K\x01\x85" + b"q\x00h\x00\x86" * 40
    repack(folder, lambda data: data[:2] + b"}" + nested + b"K\x01s.")


@case
def names_in_weights(folder, mark):
    """A storage called by a tuple that holds itself twice, 40 times over."""
    nested = b"K\x01\x85" + b"q\x00h\x00\x86" * 40
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n" + nested
    storage += b"X\x03\x00\x00\x00cpuK\x01tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00)))NtR"
    name = b"X\x01\x00\x00\x00a"
    repack(folder, lambda data: data[:2] + b"}" + name + tensor + b"s.")


def repack(folder: Path, change: Callable[[bytes], bytes], **sizes: int) -> None:
    """Write the weights file again with another pickle."""
    path = folder / "embedding_model.ckpt"
    with zipfile.ZipFile(path) as old:
        entries = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, content in entries.items():
            new.writestr(name, change(content) if "data.pkl" in name else content)


@case
def directory_in_the_directory(folder, mark):
    """A zip64 record that tells other sizes than the plain one."""
    path = folder / "embedding_model.ckpt"
    content = bytearray(path.read_bytes())
    at = content.rfind(b"PK\x01\x02")
    content[at + 20 : at + 28] = (0xFFFFFFF0).to_bytes(4, "little") * 2
    path.write_bytes(bytes(content))


@case
def two_directories(folder, mark):
    """Who follows the zip64 locator, as PyTorch does, finds a weight of 3 GB; who reads
    the plain record, as Python does, finds the true one."""
    count = 750_000_000

    def more(data):
        """Storage 0, with other bytes for how many values it has."""
        at = data.index(b"cpu")
        at = min(n for n in (data.find(b"K", at), data.find(b"M", at)) if n > 0)
        size = 2 if data[at : at + 1] == b"K" else 3
        return data[:at] + b"J" + count.to_bytes(4, "little") + data[at + size :]

    repack(folder, more)
    path = folder / "embedding_model.ckpt"
    content = path.read_bytes()
    start, end = content.find(b"PK\x01\x02"), content.rfind(b"PK\x05\x06")
    entries = []
    while start + sum(map(len, entries)) < end:
        at = start + sum(map(len, entries))
        lengths = struct.unpack_from("<HHH", content, at + 28)
        entries.append(bytearray(content[at : at + 46 + sum(lengths)]))
    true, false = [*map(bytes, entries)], bytearray()
    for entry in entries:
        name = struct.unpack_from("<H", entry, 28)[0]
        if entry[46 : 46 + name].endswith(b"data/0"):
            struct.pack_into("<H", entry, 10, 8)  # deflated
            struct.pack_into("<I", entry, 24, 4 * count)
        false += entry
    began = end + len(false)
    record = struct.pack(
        *("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0),
        *(len(true), len(true), len(false), end),
    )
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, began, 1)
    rest = bytes(false) + record + b"pad" + locator  # for Python, a comment
    last = bytearray(true.pop())
    struct.pack_into("<H", last, 32, len(rest))
    directory = b"".join(true) + last + rest
    plain = struct.pack(
        *("<4sHHHHIIH", b"PK\x05\x06", 0, 0, len(entries), len(entries)),
        *(len(directory), start, 0),
    )
    path.write_bytes(content[:start] + directory + plain)


@case
def half_a_storage(folder, mark):
    """A storage shorter than its tensors: what lies behind it must not be read."""
    path = folder / "embedding_model.ckpt"
    with zipfile.ZipFile(path) as old:
        entries = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, content in entries.items():
            half = len(content) // 2 if "/data/" in name else len(content)
            new.writestr(name, content[:half])


@case
def zero_weights(folder, mark):
    def change(weights):
        for value in weights.values():
            value.zero_()

    change_weights(folder, change)


@case
def whole_network(folder, mark):
    torch.save(torch.nn.Linear(2, 2), folder / "embedding_model.ckpt")


@case
def scripted_network(folder, mark):
    scripted = torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2))
    torch.jit.save(scripted, str(folder / "embedding_model.ckpt"))


@case
def compressed_weights(folder, mark):
    path = folder / "embedding_model.ckpt"
    with zipfile.ZipFile(path) as old:
        entries = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name, content in entries.items():
            zeros = 50_000_000 if name.endswith("data/0") else 0
            new.writestr(name, content + bytes(zeros))


@case
def truncated_weights(folder, mark):
    path = folder / "embedding_model.ckpt"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@case
def empty_weights(folder, mark):
    (folder / "embedding_model.ckpt").write_bytes(b"")


@case
def flipped_weights(folder, mark):
    path = folder / "embedding_model.ckpt"
    content = bytearray(path.read_bytes())
    content[40:400] = bytes(b ^ 0x5A for b in content[40:400])
    path.write_bytes(bytes(content))


@case
def other_shape(folder, mark):
    def change(weights):
        key = "fc.conv.weight"
        weights[key] = torch.zeros(5, *weights[key].shape[1:])

    change_weights(folder, change)


@case
def unfolded_shape(folder, mark):
    def change(weights):
        weights["fc.conv.weight"] = torch.zeros(1).expand(10**6, 10**6)

    change_weights(folder, change)


@case
def missing_weight(folder, mark):
    def change(weights):
        del weights["fc.conv.weight"]

    change_weights(folder, change)


@case
def unknown_weight(folder, mark):
    change_weights(folder, lambda w: w.update(other=torch.ones(1)))


@case
def nan_weight(folder, mark):
    def change(weights):
        weights["fc.conv.weight"].fill_(float("nan"))

    change_weights(folder, change)


@case
def infinite_weight(folder, mark):
    def change(weights):
        weights["fc.conv.bias"][0] = float("inf")

    change_weights(folder, change)


@case
def sparse_weight(folder, mark):
    def change(weights):
        dense = weights["fc.conv.weight"]
        weights["fc.conv.weight"] = dense.to_sparse()

    change_weights(folder, change)


@case
def not_a_mapping(folder, mark):
    torch.save([torch.ones(2)], folder / "embedding_model.ckpt")


@case
def text_as_weight(folder, mark):
    change_weights(folder, lambda w: w.update({"fc.conv.bias": "much"}))


@case
def missing_file(folder, mark):
    (folder / "embedding_model.ckpt").unlink()


@case
def features_that_do_not_fit(folder, mark):
    replace(folder, "n_mels: 40", "n_mels: 41")


# Settings that would make wrong decisions


@case
def similarity_of_another_kind(folder, mark):
    replace(folder, "!new:torch.nn.CosineSimilarity\n  dim: -1\n  eps: 1e-06", "euclid")


@case
def nan_threshold(folder, mark):
    replace(folder, "value: 0.5", "value: .nan")


@case
def text_threshold(folder, mark):
    replace(folder, "value: 0.5", "value: high")


@case
def odd_rate(folder, mark):
    replace(folder, "sample_rate: 16000", "sample_rate: fast")
