import pytest
import torch

from dsdiff.conditioning.condition import ConditioningConfig
from dsdiff.conditioning.network import Conditioner, named
from dsdiff.config import run as configs
from dsdiff.inference import model as models
from dsdiff.inference.denoise import predict
from dsdiff.inference.options import Sampling
from dsdiff.model import checkpoint
from dsdiff.preprocessing import normalize, slices
from dsdiff.volume import Volume
from tests.conditioning.test_condition import SOURCES, THERE
from tests.toy_data import TINY, patient, wake

CPU = torch.device("cpu")


def conditioner(**config):
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
def test_conditions_are_as_wide_as_their_layout_says(config):
    cond = conditioner(**config)(SOURCES, THERE)
    layout = ConditioningConfig(**config).layout(("t1", "t2", "flair"), 3)
    assert cond.maps().shape == (2, layout.channels, 16, 24)
    assert {cond.stream(i).shape[1] for i in range(3)} == {layout.stream_channels}
    for size in ((16, 24), (8, 12), (2, 3)):
        if layout.guidance:
            assert cond.guidance(size).shape == (2, layout.guidance, *size)
    assert layout.injected == (layout.guidance if cond.fusion == "spade" else 0)


def test_one_encoder_serves_all_contrasts_and_an_embedding_tells_them_apart():
    module = conditioner(encoder="shared", edges="none")
    same = SOURCES[:, :1].repeat(1, 3, 1, 1, 1)
    first = module(same, THERE).encoded
    assert not torch.allclose(first.shared[0][:, 0], first.shared[0][:, 1])
    with torch.no_grad():
        module.encoder.contrast.zero_()
    alike = module(same, THERE).encoded
    for maps in (*alike.shared, *alike.specific):
        assert torch.allclose(maps[:, 0], maps[:, 1])
    assert [tuple(maps.shape[-2:]) for maps in alike.common] == [(8, 12), (4, 6), (2, 3)]


def test_nothing_of_an_absent_contrast_is_encoded():
    module = conditioner(encoder="shared", edges="learned", style="linear")
    module.average_style.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    there = torch.tensor([[True, False, True], [True, True, True]])
    spoilt = SOURCES.clone()
    spoilt[0, 1] = torch.nan
    one, other = module(SOURCES, there), module(spoilt, there)
    assert torch.equal(one.maps(), other.maps())
    for shared, specific, common in zip(one.encoded.shared, one.encoded.specific, one.encoded.common, strict=True):
        assert not specific[0, 1].any()
        assert torch.allclose(common[0], (shared[0, 0] + shared[0, 2]) / 2)
    other.maps().sum().backward()
    assert all(p.grad.isfinite().all() for p in module.parameters())


def test_the_average_style_is_told_where_no_other_is():
    module = conditioner(style="linear", edges="none")
    module.average_style.copy_(torch.tensor([1.0, -2.0, 0.5, 3.0]))
    middle = SOURCES[:, :, 1]
    expected = middle[:, 0] - 2 * middle[:, 1] + 0.5 * middle[:, 2] + 3
    assert torch.allclose(module(SOURCES, THERE).style[:, 0], expected, atol=1e-5)
    told = torch.randn(2, 1, 16, 24)
    assert torch.equal(module(SOURCES, THERE, told).maps()[:, -1:], told)


def test_weights_saved_before_there_was_a_conditioner_give_the_same_bits(tmp_path):
    config = configs.parse(TINY, "tiny")
    torch.manual_seed(3)
    backbone = config.build_backbone().eval()
    wake(backbone)
    checkpoint.save(tmp_path / "old", backbone.state_dict(), configs.dump(config), "", {})
    model = models.load(tmp_path / "old", CPU)
    backbone.load_state_dict(checkpoint.read(tmp_path / "old").weights)
    x_t, t = torch.randn(2, 1, 16, 24), torch.tensor([1000.0, 3.0])
    cond = model.network.condition(SOURCES, THERE)
    assert torch.equal(model.network(x_t, t, cond).value, backbone(x_t, t, cond).value)
    assert named(model.network.state_dict()).keys() == model.network.state_dict().keys()


@pytest.mark.parametrize(("steps", "samples"), [(1, 1), (5, 3)])
def test_the_encoder_runs_once_per_slice_whatever_the_steps_and_samples(steps, samples):
    config = configs.parse({**TINY, "conditioning": {"encoder": "shared"}}, "tiny")
    network = config.build_network().eval()
    wake(network)
    model = models.Model("tiny", "0", config, network, config.build_process(), config.build_sampler(), CPU)
    encoded = []
    network.conditioner.encoder.register_forward_hook(lambda _, given, __: encoded.append(len(given[0])))
    given = {name: Volume(array, torch.eye(4).numpy()) for name, array in patient().items() if name in model.contrasts}
    prepared = normalize.apply(given)
    batches = list(slices.batches(prepared, model.contrasts, 3, model.multiple, 4))[:2]
    for batch in batches:
        predict(model, batch, Sampling(steps, samples))
    assert encoded == [len(batch.boxes) for batch in batches]
