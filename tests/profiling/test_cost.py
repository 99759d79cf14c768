import pytest

from dsdiff.config.run import load_config, parse_config
from dsdiff.profiling import cost


def build_config(target, **params):
    content = {
        "data": {"context_slices": 1, "crop": [32, 32]},
        "conditioning": {"edges": "none"},
        "backbone": {"target": target, "params": params},
    }
    return parse_config(content, "test")


@pytest.mark.parametrize("fused", [True, False])
def test_macs_of_a_transformer_follow_the_formula(fused):
    width, depth, patch, size = 32, 3, 4, 32
    params = {"hidden_size": width, "depth": depth, "num_heads": 4, "patch_size": patch, "image_size": size}
    counts = cost.count_cost(build_config("vit", **params, fused=fused), size, size)

    n_tokens = (size // patch) ** 2
    linear = n_tokens * (width * 3 * width + width * width + 2 * 4 * width * width)
    attention = 2 * n_tokens * n_tokens * width  # queries by keys, then weights by values
    patch_layers = n_tokens * (4 * patch * patch * width + width * patch * patch)
    time_embedding = 256 * width + width * width
    assert counts.macs == depth * (linear + attention) + patch_layers + time_embedding


def test_macs_of_a_resnet_follow_the_formula():
    channels, size = 32, 16
    params = {"model_channels": channels, "num_res_blocks": 1, "attention_every": 2, "stem": 1}
    counts = cost.count_cost(build_config("resnet_attention", **params), size, size)

    embedding = 4 * channels
    convolutions = size * size * 9 * (4 * channels + 2 * channels * channels + channels)
    assert counts.macs == convolutions + channels * embedding + embedding * embedding + embedding * channels


def test_fused_attention_saves_no_weights_of_token_pairs():
    params = {"hidden_size": 32, "depth": 1, "num_heads": 1, "patch_size": 4, "image_size": 128}
    n_tokens = (128 // 4) ** 2
    fused, plain = (
        cost.count_cost(build_config("vit", **params, fused=fused), 128, 128).activation_bytes
        for fused in (True, False)
    )
    assert plain - fused >= 2 * n_tokens * n_tokens  # bytes: one weight in bfloat16 for every pair
    assert fused < 2 * n_tokens * n_tokens


def test_activations_grow_with_the_image_and_shrink_with_checkpointing():
    params = {"model_channels": 64, "channel_mult": [1, 2], "num_res_blocks": 2}
    small, large = (cost.count_cost(build_config("unet", **params), size, size) for size in (32, 64))
    checkpointed = cost.count_cost(build_config("unet", **params, use_checkpoint=True), 64, 64)
    assert 3.5 < large.activation_bytes / small.activation_bytes < 4.5
    assert checkpointed.activation_bytes < large.activation_bytes / 3
    assert large.gpu_training_gib > 22 * large.parameters / 2**30


def test_time_and_memory_are_measured_in_another_process(tmp_path):
    file = tmp_path / "small.yaml"
    file.write_text("backbone: {target: unet, params: {model_channels: 64, channel_mult: [1, 2], num_res_blocks: 1}}\n")
    counts = cost.count_cost(load_config(file), 32, 32)
    measured_cost = cost.measure_cost(file, 32, "cpu", 1, counts)
    assert measured_cost.seconds > 0
    weights_gib = 4 * counts.parameters / 2**30
    assert measured_cost.inference_gib > 0.8 * weights_gib
    assert measured_cost.training_gib > 3 * weights_gib
