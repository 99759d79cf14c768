import pytest
import torch

from dsdiff.conditioning.condition import ConditioningConfig
from dsdiff.conditioning.network import Conditioner, add_backbone_prefix
from dsdiff.config.run import dump_config, parse_config
from dsdiff.inference.denoise import sample_slices
from dsdiff.inference.model import Model, load_model
from dsdiff.inference.options import SamplingPlan
from dsdiff.model import checkpoint
from dsdiff.model.metadata import ModelMetadata
from dsdiff.preprocessing import normalize, slices
from dsdiff.volume import Volume
from tests.conditioning.test_condition import ALL_PRESENT, SOURCES
from tests.toy_data import TINY_CONFIG, make_patient, randomize_zeros

CPU = torch.device("cpu")


def build_conditioner(**config):
    torch.manual_seed(0)
    return Conditioner(ConditioningConfig(**config), 3, 3)


@pytest.mark.parametrize(
    "config",
    [
        {"encoder": "shared"},
        {"encoder": "per_contrast", "edges": "none"},
        {"encoder": "shared", "edges": "learned", "fusion": "spade"},
        {"edges": "laplacian", "style": "linear"},
    ],
)
def test_conditions_have_the_channels_of_their_layout(config):
    cond = build_conditioner(**config)(SOURCES, ALL_PRESENT)
    layout = ConditioningConfig(**config).layout(("t1", "t2", "flair"), 3)
    assert cond.maps().shape == (2, len(layout.map_channels), 16, 24)
    assert {cond.stream(i).shape[1] for i in range(3)} == {len(layout.stream_channels)}
    if layout.guidance_channels:
        for size in ((16, 24), (8, 12), (2, 3)):
            assert cond.guidance(size).shape == (2, len(layout.guidance_channels), *size)
    assert len(layout.fused_channels) == (len(layout.guidance_channels) if cond.fusion == "spade" else 0)


def test_a_shared_encoder_distinguishes_contrasts_by_an_embedding():
    module = build_conditioner(encoder="shared", edges="none")
    equal_sources = SOURCES[:, :1].repeat(1, 3, 1, 1, 1)
    features = module(equal_sources, ALL_PRESENT).encoder_features
    assert not torch.allclose(features.shared[0][:, 0], features.shared[0][:, 1])

    with torch.no_grad():
        module.encoder.contrast.zero_()
    features = module(equal_sources, ALL_PRESENT).encoder_features
    for maps in (*features.shared, *features.specific):
        assert torch.allclose(maps[:, 0], maps[:, 1])
    assert [tuple(maps.shape[-2:]) for maps in features.shared_mean] == [(8, 12), (4, 6), (2, 3)]


def test_an_absent_contrast_does_not_change_the_condition():
    module = build_conditioner(encoder="shared", edges="learned", style="linear")
    module.average_style.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    present = torch.tensor([[True, False, True], [True, True, True]])
    changed_sources = SOURCES.clone()
    changed_sources[0, 1] = torch.nan

    cond, changed_cond = module(SOURCES, present), module(changed_sources, present)
    assert torch.equal(cond.maps(), changed_cond.maps())
    features = cond.encoder_features
    for shared, specific, mean in zip(features.shared, features.specific, features.shared_mean, strict=True):
        assert not specific[0, 1].any()
        assert torch.allclose(mean[0], (shared[0, 0] + shared[0, 2]) / 2)

    changed_cond.maps().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())


def test_the_style_image_defaults_to_the_average_style():
    module = build_conditioner(style="linear", edges="none")
    module.average_style.copy_(torch.tensor([1.0, -2.0, 0.5, 3.0]))
    t1, t2, flair = SOURCES[:, :, 1].unbind(1)
    average = t1 - 2 * t2 + 0.5 * flair + 3
    assert torch.allclose(module(SOURCES, ALL_PRESENT).style[:, 0], average, atol=1e-5)
    style = torch.randn(2, 1, 16, 24)
    assert torch.equal(module(SOURCES, ALL_PRESENT, style).maps()[:, -1:], style)


def test_weights_of_a_backbone_without_prefix_give_the_same_bits(tmp_path):
    config = parse_config(TINY_CONFIG, "tiny")
    torch.manual_seed(3)
    backbone = config.build_backbone().eval()
    randomize_zeros(backbone)
    checkpoint.save_model(tmp_path / "old", backbone.state_dict(), dump_config(config), "", ModelMetadata())
    model = load_model(tmp_path / "old", CPU)
    backbone.load_state_dict(checkpoint.read_model(tmp_path / "old").weights)
    x_t, t = torch.randn(2, 1, 16, 24), torch.tensor([1000.0, 3.0])
    cond = model.network.condition(SOURCES, ALL_PRESENT)
    assert torch.equal(model.network(x_t, t, cond).value, backbone(x_t, t, cond).value)
    assert add_backbone_prefix(model.network.state_dict()).keys() == model.network.state_dict().keys()


@pytest.mark.parametrize(("steps", "samples"), [(1, 1), (5, 3)])
def test_the_encoder_runs_once_per_slice_for_all_steps_and_samples(steps, samples):
    config = parse_config({**TINY_CONFIG, "conditioning": {"encoder": "shared"}}, "tiny")
    network = config.build_network().eval()
    randomize_zeros(network)
    model = Model("tiny", "0", config, network, config.build_process(), config.build_sampler(), CPU)
    batch_sizes = []
    network.conditioner.encoder.register_forward_hook(lambda _, inputs, __: batch_sizes.append(len(inputs[0])))
    images = make_patient()
    volumes = {name: Volume(images[name], torch.eye(4).numpy()) for name in model.contrasts}
    case = normalize.preprocess(volumes).case
    batches = list(slices.make_batches(case, model.contrasts, 3, model.multiple, 4))[:2]
    for batch in batches:
        sample_slices(model, batch, SamplingPlan(steps, samples))
    assert batch_sizes == [len(batch.boxes) for batch in batches]
