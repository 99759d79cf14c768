"""The loss of a batch: the one module that DDP and FSDP wrap, so that condition and backbone go through it together."""

from torch import Tensor, nn

from dsdiff.conditioning import disentangle
from dsdiff.conditioning.network import Network
from dsdiff.config.run import RunConfig
from dsdiff.data.batch_sampling import Batch
from dsdiff.system import device
from dsdiff.training import losses
from dsdiff.types import Condition, Prediction

SPREAD_WEIGHT = 0.1  # of what the network is asked about its own error


class Objective(nn.Module):
    """A network and what it is asked for."""

    def __init__(self, config: RunConfig, network: Network) -> None:
        super().__init__()
        self.config, self.network, self.process = config, network, config.build_process()

    def forward(self, batch: Batch, time: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The loss and the predicted x_0 (robust z-scores) of a batch noised to `time`."""
        where = next(self.network.parameters()).device
        sources, target, region, noise = (
            tensor.to(where, non_blocking=True) for tensor in (batch.sources, batch.target, batch.region, noise)
        )
        styled = None if batch.styled is None else batch.styled.to(where, non_blocking=True)
        data, process = self.config.data, self.process
        x_0 = target / process.scale
        start = sources[:, data.contrasts.index(data.source_contrast), data.context_slices // 2, None]  # b 1 h w
        with device.autocast(where, self.config.training.precision):
            cond = self.network.condition(sources, batch.present.to(where), styled)
            x_t = process.q_sample(x_0, start, time, noise)
            prediction = self.network(x_t, process.timestep(time).to(where), cond)
            apart = self._disentangled(cond, prediction)
        predicted = process.predicted(prediction.value.float(), start)
        wanted, made = process.target(x_0, start, time, noise), process.x_0(predicted, x_t, time) * process.scale
        loss = losses.total(self.config.loss, predicted, wanted, made, target, start, region) + apart
        if process.predict_error and self.network.training:  # validation compares runs with and without it
            expected = process.expected_error(prediction.value.float()) * process.scale
            loss = loss + SPREAD_WEIGHT * (losses.surprise(made, target, expected) * (region > 0)).mean()
        return loss, made

    def _disentangled(self, cond: Condition, prediction: Prediction) -> Tensor | float:
        """The losses on features: of training alone, so that validation compares runs with and without them."""
        terms = self.config.conditioning.disentangle
        if not terms or not self.network.training:
            return 0.0
        return disentangle.total(terms, cond, prediction, self.network.conditioner.decoder)
