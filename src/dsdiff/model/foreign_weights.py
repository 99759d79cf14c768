"""Find the weights of a network in the checkpoint of another program.

Lightning files hold the whole training module; the network of latent diffusion begins with `model.diffusion_model.`.
Their averaged weights (EMA) begin with `model_ema.` and have no dots in their names. DiT holds both versions as
`model` and `ema`. guided-diffusion writes one state dict a file, and averaged ones to `ema_*.pt`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dsdiff.errors import ModelError
from dsdiff.model.pickle_names import SkippedObject, is_readable
from dsdiff.model.stored_tensor import StoredTensor
from dsdiff.model.torch_file import TorchFile

LIGHTNING_KEY = "state_dict"
PLAIN_KEYS = ("model", "model_state_dict", "network", "net", "module", "params", "weights")
AVERAGE_KEYS = ("ema", "ema_state_dict", "model_ema", "ema_model", "params_ema")
NETWORK_PREFIX = "model.diffusion_model."  # of latent diffusion
WRAPPED_PREFIX = "model."  # of the wrapper that latent diffusion averages
AVERAGE_PREFIX = "model_ema."
# Prefixes that wrappers add to all names of a state dict.
WRAPPER_PREFIXES = ("module.", "_orig_mod.", "diffusion_model.", "model.", "unet.", "net.", "network.", "denoise_fn.")
AVERAGE_FILE = re.compile(r"ema[_-]", re.IGNORECASE)  # begins the name of a file with averaged weights
OPTIMIZER_KEYS = {"state", "param_groups"}
BETAS_KEY = "betas"

StateDict = dict[str, StoredTensor]


@dataclass(frozen=True)
class ForeignWeights:
    """Weights of a network in a checkpoint.

    Attributes:
        tensors: By their names in the network, without prefixes.
        is_average: Whether they are averaged weights (EMA).
        origin: Where in the file they are, for the user.
        betas: The schedule of betas, if the file stores it.
    """

    tensors: StateDict
    is_average: bool
    origin: str
    betas: StoredTensor | None = None


def select_weights(file: TorchFile, average: bool | None = None) -> ForeignWeights:
    """Find the weights of the network in a checkpoint.

    Args:
        file: The checkpoint.
        average: True for averaged weights (EMA), False for those of the last step, None for averaged weights if the
            file has them.

    Returns:
        The weights.

    Raises:
        ModelError: The file has no such weights.
    """
    contents = file.contents
    if isinstance(contents, SkippedObject):
        raise ModelError(
            f"{file.path} holds a pickled {contents.name}; only weights can be read: save its state_dict() and import "
            "that"
        )
    if not isinstance(contents, dict):
        raise ModelError(f"{file.path} holds a {type(contents).__name__}, not weights by name")
    if contents.keys() >= OPTIMIZER_KEYS:
        raise ModelError(f"{file.path} holds the state of an optimizer; import the file of the model instead")

    if isinstance(contents.get(LIGHTNING_KEY), dict):
        candidates = _read_lightning(contents[LIGHTNING_KEY])
    else:
        candidates = _read_state_dicts(contents, AVERAGE_FILE.match(file.path.name) is not None)
    if not candidates:
        keys = ", ".join(key for key in list(contents)[:5] if isinstance(key, str) and is_readable(key))
        raise ModelError(f"{file.path} holds no weights by name; its first keys are: {keys or 'none'}")

    weights = _choose(candidates, average, file)
    if not all(is_readable(name) for name in weights.tensors):
        raise ModelError(f"{file.path} holds weights whose names are not readable text")
    return weights


def _choose(candidates: list[ForeignWeights], average: bool | None, file: TorchFile) -> ForeignWeights:
    by_kind = {weights.is_average: weights for weights in candidates}
    if average is None:
        average = True in by_kind
    if average in by_kind:
        return by_kind[average]

    if average:
        raise ModelError(
            f"{file.path} has no averaged weights (EMA): no {AVERAGE_PREFIX}* and none of {', '.join(AVERAGE_KEYS)}; "
            "leave out --ema for the weights of the last step"
        )
    raise ModelError(f"{file.path} has only averaged weights (EMA); leave out --no-ema")


def _read_state_dicts(contents: Mapping[Any, Any], is_average_file: bool) -> list[ForeignWeights]:
    """Find a state dict at the top, or a state dict and its average one level below."""
    tensors = _keep_tensors(contents)
    if tensors:
        origin = "the averaged weights (EMA), by the name of the file" if is_average_file else "the state dict"
        return [ForeignWeights(_strip_wrappers(tensors), is_average_file, origin)]

    candidates = []
    for keys, is_average in ((PLAIN_KEYS, False), (AVERAGE_KEYS, True)):
        for key in keys:
            tensors = _keep_tensors(contents.get(key))
            if tensors:
                origin = f"the averaged weights (EMA) in '{key}'" if is_average else f"the weights in '{key}'"
                candidates.append(ForeignWeights(_strip_wrappers(tensors), is_average, origin))
                break
    return candidates


def _read_lightning(state: Mapping[Any, Any]) -> list[ForeignWeights]:
    tensors = _keep_tensors(state)
    betas = tensors.get(BETAS_KEY)
    network = {
        name.removeprefix(NETWORK_PREFIX): tensor for name, tensor in tensors.items() if name.startswith(NETWORK_PREFIX)
    }
    if not network:
        stripped = _strip_wrappers(tensors)
        return [ForeignWeights(stripped, False, "the weights in 'state_dict'", betas)] if stripped else []

    candidates = [ForeignWeights(network, False, f"the weights {NETWORK_PREFIX}* of the last step", betas)]
    average = _match_averages(network, tensors)
    if average:
        candidates.append(ForeignWeights(average, True, f"the averaged weights (EMA) {AVERAGE_PREFIX}*", betas))
    return candidates


def _match_averages(network: StateDict, tensors: StateDict) -> StateDict:
    """Find the averages of weights. Weights that are not trained have none and stay as they are.

    Returns an empty dictionary if the file has no averages.
    """
    averages: StateDict = {}
    n_matched = 0
    for name, tensor in network.items():
        flat_name = f"{NETWORK_PREFIX}{name}".removeprefix(WRAPPED_PREFIX).replace(".", "")
        averages[name] = tensors.get(f"{AVERAGE_PREFIX}{flat_name}", tensor)
        n_matched += averages[name] is not tensor
        if averages[name].shape != tensor.shape:
            raise ModelError(f"the average of {name} has another shape than {name}; use --no-ema")

    return averages if n_matched else {}


def _keep_tensors(values: Any) -> StateDict:
    if not isinstance(values, dict):
        return {}
    return {name: value for name, value in values.items() if isinstance(name, str) and isinstance(value, StoredTensor)}


def _strip_wrappers(tensors: StateDict) -> StateDict:
    """Remove the prefixes that wrappers added to all names."""
    for prefix in WRAPPER_PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            shorter = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
            return _strip_wrappers(shorter)
    return tensors
