"""What the trainers of the original system do, as far as its files do not say it.

Its latent-diffusion files name the network and the process. The rest is in its trainer and in its train_config.yaml,
which give the same values for every recipe.
"""

from typing import Any

from dsdiff.backbones import registry
from dsdiff.config.imported import ConfigKeys
from dsdiff.config.original_network import CONTRASTS, has_streams
from dsdiff.errors import ConfigError

STEPS_PER_EPOCH = 1000  # an epoch of the original has no fixed length; its 200 epochs are 200,000 steps here
EPOCHS = 200
BATCH_SIZE = 16
LEARNING_RATE = 1e-4
FINAL_LEARNING_RATE = 1e-7
CROP = (192, 192)
AUGMENTATION_PROBABILITY = 0.4
ROTATION_DEGREES = 30
SAMPLING_STEPS = 20
DISC_DIFF_WEIGHT = 1.0  # of its disentanglement loss
DS_DIFF_WEIGHT = 0.5
DS_DIFF_TERMS = ("content_style", "anatomy_lesion")
# The loss of the original is sqrt(e^2 + 1e-6). Ours with this epsilon is the same minus 1e-3.
CHARBONNIER_EPSILON = 1e-3

# Differences from every program whose files are imported.
GENERAL_NOTES = (
    "intensities: the original scales volumes to [-1, 1]; dsdiff takes robust z-scores over process.params.scale",
    "background: the original's losses count every pixel of a slice; those of dsdiff count the brain",
    "gradients: the original does not clip them; dsdiff clips their norm to training.clip",
)
TRAINING_NOTE = (
    "training: steps, batch size and learning rate that the file does not give are those of the original's "
    f"train_config.yaml; an epoch counts as {STEPS_PER_EPOCH} steps"
)
SAMPLING_NOTE = (
    f"sampling: the file names no sampler; DDIM takes {SAMPLING_STEPS} steps with eta 0, as in the original (whose "
    "steps lie one timestep later than those of spacing leading)"
)
DISENTANGLE_NOTE = (
    "disentangling: the file names no such loss, but the trainer of this network always adds it; "
    "conditioning.disentangle has it"
)
EUCLIDEAN_NOTE = "disentangling: with guided-diffusion the original takes Euclidean distances; dsdiff absolute ones"
CHARBONNIER_NOTE = (
    "sqrt(e^2 + 1e-6); dsdiff computes sqrt(e^2 + epsilon^2) - epsilon with epsilon 1e-3, which has the same gradient"
)
LEARNED_VARIANCE = (
    "dsdiff does not learn the variance of a step; the network returns one channel, of its weights only those of the "
    "first output channel count, and DDIM with eta 0 needs no variance"
)


def default_blocks(network: str) -> dict[str, Any]:
    """Return what the trainers of the original do with a network.

    Args:
        network: Registered name of the backbone.

    Returns:
        Blocks of a config, without backbone, process and loss.
    """
    return {
        "seed": 2024,
        "data": {
            "contrasts": list(CONTRASTS),
            "context_slices": 1,
            "crop": list(CROP),
            "lesion_fraction": 0.0,
            "augment": augmentation(AUGMENTATION_PROBABILITY),
        },
        "conditioning": {"edges": "none", "disentangle": disentangle_terms(network)},
        "sampler": {"target": "ddim", "params": {"steps": SAMPLING_STEPS, "eta": 0.0, "spacing": "leading"}},
        "training": {
            "steps": EPOCHS * STEPS_PER_EPOCH,
            "batch_size": BATCH_SIZE,
            "lr": LEARNING_RATE,
            "final_lr": FINAL_LEARNING_RATE,
            "warmup": 0,
        },
    }


def augmentation(probability: float) -> dict[str, Any]:
    """Return the augmentation of the original: flips and rotations.

    Args:
        probability: Of each of them.

    Returns:
        The `data.augment` block.
    """
    return {
        "flip": {"probability": probability},
        "affine": {"probability": probability, "degrees": ROTATION_DEGREES, "zoom": 0.0, "shear": 0.0},
        "scanner": {"probability": 0.0},
    }


def disentangle_terms(network: str) -> list[dict[str, Any]]:
    """Return the disentanglement loss that the trainer of a network always adds.

    Args:
        network: Registered name of the backbone.

    Returns:
        The `conditioning.disentangle` block; empty for a network without such features.
    """
    if not has_streams(network):
        return []
    if getattr(registry.lookup(network), "returns_lesion_features", False):
        return [{"target": target, "weight": DS_DIFF_WEIGHT} for target in DS_DIFF_TERMS]
    return [{"target": "common_over_distinct", "weight": DISC_DIFF_WEIGHT}]


def convert_loss(keys: ConfigKeys, key: str, losses: dict[str, str], weight: float) -> dict[str, Any]:
    """Convert the loss. The original weights all voxels alike.

    Args:
        keys: The file. The key is taken.
        key: Dotted name of the loss.
        losses: Loss of the file -> loss of dsdiff.
        weight: Factor of the loss.

    Returns:
        The `loss` block.

    Raises:
        ConfigError: dsdiff has no such loss.
    """
    original_loss = keys.remaining.get(key) or "l2"
    target = keys.translate(key, losses, "l2")
    loss: dict[str, Any] = {"target": target, "weight": weight, "tumour": 1.0, "enhancing": 1.0}
    if target == "charbonnier":
        loss["epsilon"] = CHARBONNIER_EPSILON
        keys.add_note(key, original_loss, CHARBONNIER_NOTE)

    return loss


def convert_epochs(keys: ConfigKeys, key: str, epochs: Any) -> int:
    """Convert epochs to steps, and note it.

    Args:
        keys: The file.
        key: Dotted name of the key that holds the epochs.
        epochs: Its value.

    Returns:
        `training.steps`.

    Raises:
        ConfigError: The value is not a positive integer.
    """
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise ConfigError(f"{key} is {epochs}; it must be an integer of at least 1")

    keys.add_note(
        key,
        epochs,
        f"dsdiff counts steps; an epoch became {STEPS_PER_EPOCH} steps, so set training.steps to epochs x slices / "
        "batch size of your data",
    )
    return epochs * STEPS_PER_EPOCH
