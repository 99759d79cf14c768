import pytest

from dsdiff.config import run as configs
from dsdiff.profiling import cost


def config(target, **params):
    block = {"target": target, "params": params}
    return configs.parse(
        {"data": {"context_slices": 1, "crop": [32, 32]}, "conditioning": {"edges": "none"}, "backbone": block}, "test"
    )


@pytest.mark.parametrize("fused", [True, False])
def test_macs_of_a_transformer_are_those_of_the_formula(fused):
    e, depth, p, size = 32, 3, 4, 32
    n = (size // p) ** 2
    counted = cost.count(
        config("vit", hidden_size=e, depth=depth, num_heads=4, patch_size=p, image_size=size, fused=fused), size, size
    )
    linear = n * (e * 3 * e + e * e + 2 * 4 * e * e)
    attention = 2 * n * n * e  # queries by keys, then weights by values
    time = 256 * e + e * e
    assert counted.macs == depth * (linear + attention) + n * (4 * p * p * e + e * p * p) + time


def test_macs_of_a_trunk_are_those_of_the_formula():
    c, size = 32, 16
    counted = cost.count(
        config("resnet_attention", model_channels=c, num_res_blocks=1, attention_every=2, stem=1), size, size
    )
    emb = 4 * c
    pixels = size * size
    assert counted.macs == pixels * 9 * (4 * c + 2 * c * c + c) + c * emb + emb * emb + emb * c


def test_fused_attention_keeps_no_weights_of_all_pairs():
    params = {"hidden_size": 32, "depth": 1, "num_heads": 1, "patch_size": 4, "image_size": 128}
    n = (128 // 4) ** 2
    fused, plain = (cost.count(config("vit", **params, fused=fused), 128, 128).activations for fused in (True, False))
    assert plain - fused >= 2 * n * n  # bytes: a weight in bfloat16 for every pair
    assert fused < 2 * n * n


def test_activations_grow_with_the_image_and_shrink_with_checkpointing():
    params = {"model_channels": 64, "channel_mult": [1, 2], "num_res_blocks": 2}
    small, large = (cost.count(config("unet", **params), size, size) for size in (32, 64))
    again = cost.count(config("unet", **params, use_checkpoint=True), 64, 64)
    assert 3.5 < large.activations / small.activations < 4.5
    assert again.activations < large.activations / 3
    assert large.gpu_training > 22 * large.parameters / 2**30


def test_a_measurement_in_a_process_of_its_own(tmp_path):
    file = tmp_path / "small.yaml"
    file.write_text("backbone: {target: unet, params: {model_channels: 64, channel_mult: [1, 2], num_res_blocks: 1}}\n")
    counted = cost.count(configs.load(file), 32, 32)
    measured = cost.measure(file, 32, "cpu", 1, counted)
    assert measured.seconds > 0
    weights = 4 * counted.parameters / 2**30
    assert measured.inference > 0.8 * weights
    assert measured.training > 3 * weights
