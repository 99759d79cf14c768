"""Checkpoints of torch.save are read as data. A hostile file runs nothing and raises one error."""

import argparse
import collections
import datetime
import io
import os
import pickle
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

from dsdiff.errors import ModelError
from dsdiff.model.stored_tensor import StoredTensor
from dsdiff.model.torch_file import LEGACY_MAGIC, LEGACY_PROTOCOL, read_torch_file

BASE = torch.arange(24.0).reshape(4, 6)
TENSORS = {
    "float": BASE,
    "transposed": BASE.t(),
    "part": BASE[1:3, ::2],
    "parameter": torch.nn.Parameter(torch.ones(2)),
    "bfloat16": torch.ones(3, dtype=torch.bfloat16),
    "empty": torch.empty(0, 3),
    "scalar": torch.tensor(3.0),
    "integer": torch.arange(4),
    "boolean": torch.tensor([True, False]),
}
FORMATS = {
    "zip": {},
    "legacy": {"_use_new_zipfile_serialization": False},
    "protocol 1": {"pickle_protocol": 1},
    "protocol 5": {"pickle_protocol": 5},
    "legacy protocol 4": {"_use_new_zipfile_serialization": False, "pickle_protocol": 4},
}
SYSTEM = b"cos\nsystem\n"


def write_zip(path, data, entries=()):
    """A file as torch.save writes it, with `data` as its pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        for name, content in entries:
            archive.writestr(name, content)
    return path


def write_legacy(path, data):
    """A file in the format before torch 1.6, with `data` as its pickle."""
    header = [LEGACY_MAGIC, LEGACY_PROTOCOL, {"little_endian": True}]
    path.write_bytes(b"".join(pickle.dumps(value, 2) for value in header) + data + pickle.dumps([], 2))
    return path


def text(value):
    """A string of a pickle of protocol 0."""
    return b"S'" + str(value).encode() + b"'\n"


def storage_pickle(numel, shape, stride, key="0"):
    """A pickle that holds one tensor, whose sizes may be untrue."""

    class Tensor:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (Storage(), 0, shape, stride, False, collections.OrderedDict())

    class Storage:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", torch.FloatStorage, key, "cpu", numel) if isinstance(value, Storage) else None

    buffer = io.BytesIO()
    Pickler(buffer, 2).dump({"weight": Tensor()})
    return buffer.getvalue()


@pytest.mark.parametrize("options", FORMATS.values(), ids=FORMATS)
def test_tensors_are_those_that_torch_saved(tmp_path, options):
    contents = {
        "state_dict": collections.OrderedDict(TENSORS),
        "hyper_parameters": OmegaConf.create({"lr": 1e-4, "unet_config": {"params": [1, None, "a"]}}),
        "args": argparse.Namespace(model="DiT-XL/2", path=Path("folder"), date=datetime.date(2026, 1, 1)),
        "arrays": [np.arange(3), np.float64(1), np.random.default_rng(0).normal(size=2).astype(np.float32)],
        "optimizer": torch.optim.Adam([torch.nn.Parameter(torch.ones(2))]).state_dict(),
        "plain": [{1, 2}, frozenset([3]), 2**100, b"bytes", 1.5, None, torch.Size([2]), torch.device("cpu")],
        ("a", "tuple"): 1,
    }
    torch.save(contents, tmp_path / "file.ckpt", **options)
    file = read_torch_file(tmp_path / "file.ckpt")
    assert file.contents.keys() == contents.keys() - {("a", "tuple")}
    assert file.contents["args"].state["model"] == "DiT-XL/2"
    assert {"argparse.Namespace", "omegaconf.dictconfig.DictConfig"} <= set(file.skipped_names)

    loaded = file.load(file.contents["state_dict"])
    assert loaded.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor.detach())


def test_safetensors_are_read(tmp_path):
    tensors = {name: tensor.detach().contiguous() for name, tensor in TENSORS.items()}
    save_file(tensors, tmp_path / "file.safetensors")
    file = read_torch_file(tmp_path / "file.safetensors")
    loaded = file.load(file.contents)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


def attacks(command):
    """Pickles that run a command, or import a module, when Python's pickle reads them."""
    argument = b"(" + text(command) + b"t"
    namespace = b"cargparse\nNamespace\n)\x81"
    return {
        "reduce": SYSTEM + argument + b"R.",
        "inst": b"(" + text(command) + b"ios\nsystem\n.",
        "obj": b"(" + SYSTEM + text(command) + b"o.",
        "stack global": b"\x80\x04\x8c\x02os\x8c\x06system\x93" + argument + b"R.",
        "posix": b"cposix\nsystem\n" + argument + b"R.",
        "eval": b"cbuiltins\neval\n(" + text(f'__import__("os").system("{command}")') + b"tR.",
        "python 2 eval": b"c__builtin__\neval\n(" + text(f'__import__("os").system("{command}")') + b"tR.",
        "build": namespace + b"}(" + text("__setstate__") + SYSTEM + b"ub" + text(command) + b"b.",
        "partial": b"cfunctools\npartial\n(" + SYSTEM + b"tR.",
        "nested": b"}(" + text("state_dict") + b"}(" + text("weight") + SYSTEM + argument + b"Ruu.",
        "discarded": SYSTEM + argument + b"R0}.",
        "default factory": b"ccollections\ndefaultdict\n(" + SYSTEM + b"tR.",
    }


@pytest.mark.parametrize("write", [write_zip, write_legacy])
@pytest.mark.parametrize("name", attacks(""))
def test_a_hostile_pickle_runs_nothing(tmp_path, name, write):
    attack = attacks(f"touch {tmp_path / 'marker'}")[name]
    path = write(tmp_path / "hostile.ckpt", b"\x80\x02" + attack)
    with pytest.raises(ModelError, match=r"was refused.*could run code; nothing was run"):
        read_torch_file(path)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("name", ["reduce", "inst", "obj", "stack global", "eval", "build", "nested", "discarded"])
def test_these_attacks_would_run_in_pickle(tmp_path, name):
    pickle.loads(attacks(f"touch {tmp_path / 'marker'}")[name])  # noqa: S301 (the attack is ours)
    assert (tmp_path / "marker").exists()


def test_an_object_that_torch_saved_with_a_hostile_reduce_runs_nothing(tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'marker'}",)

    torch.save({"state_dict": {"weight": torch.ones(1)}, "hyper_parameters": Hostile()}, tmp_path / "hostile.ckpt")
    with pytest.raises(ModelError, match="system, which could run code"):
        read_torch_file(tmp_path / "hostile.ckpt")
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("name", ["antigravity fly", "webbrowser open", "builtins exec", "nt system", "sys exit"])
def test_a_module_that_a_pickle_names_is_not_imported(tmp_path, name):
    module, function = name.split()
    imported = set(sys.modules)
    with pytest.raises(ModelError, match="was refused"):
        read_torch_file(write_zip(tmp_path / "hostile.ckpt", f"c{module}\n{function}\n.".encode()))
    assert not {"antigravity", "webbrowser", "nt"} & (set(sys.modules) - imported)


def test_objects_of_unknown_classes_are_skipped_but_their_functions_are_not_called(tmp_path):
    mentioned = b"}(" + text("callbacks") + b"cmy_project.training\nCheckpoint\n)\x81}bu."
    file = read_torch_file(write_zip(tmp_path / "file.ckpt", mentioned))
    assert file.skipped_names == ("my_project.training.Checkpoint",)
    assert "my_project" not in sys.modules
    for function in (b"cmy_project\nload\n", b"ctorch.hub\nload\n", b"ctorch\nload\n", b"cpip\nmain\n"):
        with pytest.raises(ModelError, match=r"it calls .*load|it calls pip\.main"):
            read_torch_file(write_zip(tmp_path / "file.ckpt", function + b"(" + text("a") + b"tR."))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"(" + text("module") + SYSTEM + text("source") + b"tQ.", "could run code"),
        (b"(" + text("module") + b"cmy_project\nNet\n" + text("source") + b"tQ.", "persistent id"),
        (text("storage") + b"Q.", "persistent id"),
        (b"Pstorage\n.", "PERSID"),
        (b"(" + text("storage") + b"cmy_project\nStorage\n" + text(0) + text("cpu") + b"I1\ntQ.", "unknown kind"),
        (b"(" + text("storage") + b"ctorch\nFloatStorage\nI0\n" + text("cpu") + b"I1\ntQ.", "no text"),
        (b"\x82\x01.", "EXT1"),
        (b"cmy_project\n\x1b[2J\n.", "not readable"),
        (b"\x97.", "NEXT_BUFFER"),
        (b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch.hub\nload\nN)NtR.", "unknown function"),
    ],
)
def test_pickles_that_weights_do_not_need_are_refused(tmp_path, data, message):
    with pytest.raises(ModelError, match=f"was refused.*{message}"):
        read_torch_file(write_zip(tmp_path / "hostile.ckpt", data))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"}",
        b"N}.",
        b"}}.",
        b"R.",
        b"0.",
        b"h\x05.",
        b"\xff.",
        b"}NNs\x86\x86\x86.",
        b"I1\nI2\nb.",
        b"I1\n)R.",
        b"](I1\nu.",
        b"}(I1\ne.",
        b"}(I1\nu.",
        b"\x8d" + struct.pack("<Q", 1 << 60) + b"a.",
        b"\x8b" + struct.pack("<i", -5) + b".",
        b"ctorch._utils\n_rebuild_tensor_v2\n(I1\nI2\nI3\nI4\ntR.",
        b"ctorch._utils\n_rebuild_tensor_v2\n)R.",
        b"ctorch._utils\n_rebuild_parameter\n(I1\ntR.",
        b"ctorch\nSize\n(I1\ntR.",
        b"cos.path\n",
    ],
)
@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_a_malformed_pickle_raises_one_error(tmp_path, data, write):
    with pytest.raises(ModelError, match=r"cannot be read|was refused"):
        read_torch_file(write(tmp_path / "malformed.ckpt", data))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (storage_pickle(1 << 50, (4,), (1,)), "claims 4503599627370496 bytes and has 16"),
        (storage_pickle(4, (1 << 40,), (1,)), "has a storage of only 16 bytes"),
        (storage_pickle(4, (1 << 40,), (0,)), "has a storage of only 16 bytes"),
        (storage_pickle(4, (4,), (2,)), "has a storage of only 16 bytes"),
        (storage_pickle(4, (-4,), (1,)), "no count"),
        (storage_pickle(4, (2.0,), (1,)), "no count"),
        (storage_pickle(4, (4,), (1, 1)), "fewer strides|strides"),
        (storage_pickle(-1, (4,), (1,)), "no count"),
        (storage_pickle(4, (4,), (1,), "../../../etc/passwd"), "no item named"),
    ],
)
def test_sizes_are_compared_with_the_bytes_of_the_file(tmp_path, data, message):
    path = write_zip(tmp_path / "huge.ckpt", data, [("archive/data/0", b"\0" * 16)])
    with pytest.raises(ModelError, match=message):
        read_torch_file(path)


def test_many_tensors_of_one_storage_are_refused(tmp_path):
    tensor = torch.zeros(100_000)
    torch.save({f"w{i}": tensor for i in range(10)}, tmp_path / "shared.pt")
    file = read_torch_file(tmp_path / "shared.pt")
    with pytest.raises(ModelError, match="but its weights claim 4000000"):
        file.load(file.contents)


def test_nested_tuples_as_keys_do_not_hang(tmp_path):
    bomb = b"N" + b"2\x86" * 80  # a pair of the same pair of ...
    file = read_torch_file(write_zip(tmp_path / "bomb.ckpt", b"}(" + bomb + b"I1\nu."))
    assert file.contents == {}


def test_paths_in_an_archive_write_nothing(tmp_path):
    folder = tmp_path / "inside"
    folder.mkdir()
    path = folder / "tricks.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../archive/data.pkl", storage_pickle(4, (4,), (1,)))
        archive.writestr("../../archive/data/0", b"\0" * 16)
        archive.writestr("../outside", b"outside")
    file = read_torch_file(path)
    assert torch.equal(file.load(file.contents)["weight"], torch.zeros(4))
    assert sorted(entry.name for entry in tmp_path.rglob("*")) == ["inside", "tricks.ckpt"]


def test_an_archive_of_another_form_raises_an_error(tmp_path):
    path = tmp_path / "file.ckpt"
    write_zip(path, b"}.", [("other/data.pkl", b"}.")])
    with pytest.raises(ModelError, match="2 entries named"):
        read_torch_file(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(["a" * 10_000]))
    with pytest.raises(ModelError, match="is compressed"):
        read_torch_file(path)
    write_zip(path, b"}.", [("archive/byteorder", b"big")])
    with pytest.raises(ModelError, match="big-endian"):
        read_torch_file(path)
    write_zip(path, b"}.", [("archive/constants.pkl", b")."), ("archive/code/a.py", b"")])
    with pytest.raises(ModelError, match="TorchScript"):
        read_torch_file(path)


@pytest.mark.parametrize("options", [{}, FORMATS["legacy"]], ids=["zip", "legacy"])
def test_a_truncated_file_raises_one_error(tmp_path, options):
    torch.save(TENSORS, tmp_path / "whole.pt", **options)
    data = (tmp_path / "whole.pt").read_bytes()
    for size in range(0, len(data) - 1, 37):
        (tmp_path / "cut.pt").write_bytes(data[:size])
        with pytest.raises(ModelError, match=r"cut\.pt (cannot be read|is neither|is empty)"):
            file = read_torch_file(tmp_path / "cut.pt")
            file.load({name: tensor for name, tensor in file.contents.items() if isinstance(tensor, StoredTensor)})


def test_a_file_that_ends_in_the_count_of_an_empty_storage_raises_an_error(tmp_path):
    torch.save({"empty": torch.empty(0)}, tmp_path / "whole.pt", **FORMATS["legacy"])
    data = (tmp_path / "whole.pt").read_bytes()
    assert read_torch_file(tmp_path / "whole.pt").contents["empty"].shape == (0,)
    for size in range(1, 9):
        (tmp_path / "cut.pt").write_bytes(data[:-size])
        with pytest.raises(ModelError, match="a storage claims 0 bytes"):
            read_torch_file(tmp_path / "cut.pt")


def test_a_damaged_storage_raises_an_error(tmp_path):
    torch.save({"weight": torch.ones(1000)}, tmp_path / "file.pt")
    data = bytearray((tmp_path / "file.pt").read_bytes())
    position = data.find(torch.ones(100).numpy().tobytes())
    data[position + 5] ^= 1
    (tmp_path / "file.pt").write_bytes(data)
    file = read_torch_file(tmp_path / "file.pt")
    with pytest.raises(ModelError, match="Bad CRC"):
        file.load(file.contents)


@pytest.mark.parametrize("content", [b"", b"PK", b"\x89HDF", b"\x80\x02}.", pickle.dumps({"a": 1}), b"weights"])
def test_a_file_of_another_kind_raises_one_error(tmp_path, content):
    (tmp_path / "other.pt").write_bytes(content)
    with pytest.raises(ModelError, match=r"other\.pt (cannot be read|is neither|is empty)"):
        read_torch_file(tmp_path / "other.pt")
    with pytest.raises(ModelError, match="is not a file"):
        read_torch_file(tmp_path)
