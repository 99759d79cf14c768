import pytest

from dsdiff.errors import InputError, ModelError
from dsdiff.inference.model import resolve_model_path
from dsdiff.model.checkpoint import CONFIG_FILE, WEIGHTS_FILE, read_model
from dsdiff.model.torch_file import read_torch_file

LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123\n"


@pytest.mark.parametrize("name", ["last.ckpt", "ema.pt", "weights.PTH", "diffusion.safetensors"])
def test_a_checkpoint_as_model_names_the_import(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(ModelError, match=f"{name} is a file; .*dsdiff import-weights .*{name} -o FOLDER"):
        resolve_model_path(tmp_path / name)


def test_a_file_of_a_model_folder_names_the_folder(tmp_path):
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        (tmp_path / name).touch()
        with pytest.raises(ModelError, match=f"is a file; a model is a folder: give {tmp_path}"):
            resolve_model_path(tmp_path / name)


def test_another_file_as_model_raises(tmp_path):
    (tmp_path / "config.yaml").touch()
    with pytest.raises(ModelError, match="is a file; a model folder is needed"):
        resolve_model_path(tmp_path / "config.yaml")


def test_a_git_lfs_pointer_in_place_of_weights_is_named(tmp_path):
    (tmp_path / CONFIG_FILE).touch()
    (tmp_path / WEIGHTS_FILE).write_text(LFS_POINTER)
    for read, path in ((read_model, tmp_path), (read_torch_file, tmp_path / WEIGHTS_FILE)):
        with pytest.raises(ModelError, match=r"git-lfs pointer.* git lfs pull"):
            read(path)


def test_a_git_annex_link_in_place_of_weights_is_named(tmp_path):
    (tmp_path / WEIGHTS_FILE).symlink_to(".git/annex/objects/x/y/SHA256E-s9--0.safetensors")
    for read, path in ((read_model, tmp_path), (read_torch_file, tmp_path / WEIGHTS_FILE)):
        with pytest.raises(InputError, match="git-annex link"):
            read(path)
