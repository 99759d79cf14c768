"""The loss of a batch: the one module that DDP and FSDP wrap, so that conditioner and backbone run inside it."""

from torch import Tensor, nn

from dsdiff.conditioning import disentangle
from dsdiff.conditioning.network import Network
from dsdiff.config.run import RunConfig
from dsdiff.data.batch_sampling import Batch
from dsdiff.system.device import autocast
from dsdiff.training import losses
from dsdiff.training.losses import LossInputs
from dsdiff.types import Condition, Prediction

PREDICT_ERROR_WEIGHT = 0.1  # of the negative log-likelihood of the predicted error


class LossModule(nn.Module):
    """A network with the loss of its run.

    Args:
        config: The run.
        network: The network to train or to validate.
    """

    def __init__(self, config: RunConfig, network: Network) -> None:
        super().__init__()
        self.config = config
        self.network = network
        self.process = config.build_process()

    def forward(self, batch: Batch, time: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the loss of a batch.

        Args:
            batch: Training slices, on the CPU.
            time: Time of each slice, 0 to 1.
            noise: Gaussian noise, (b, 1, h, w).

        Returns:
            The loss, and the predicted x_0 (robust z-scores, (b, 1, h, w)).
        """
        data, process = self.config.data, self.process
        network_device = next(self.network.parameters()).device

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(network_device, non_blocking=True)

        sources, target, region, noise = move(batch.sources), move(batch.target), move(batch.region), move(noise)
        style = None if batch.style_image is None else move(batch.style_image)

        x_0 = target / process.scale
        source_index = data.contrasts.index(data.source_contrast)
        source = sources[:, source_index, data.context_slices // 2, None]  # b 1 h w

        with autocast(network_device, self.config.training.precision):
            cond = self.network.condition(sources, batch.present.to(network_device), style)
            x_t = process.compute_x_t(x_0, source, time, noise)
            output = self.network(x_t, process.timestep(time).to(network_device), cond)
            disentangle_loss = self._disentangle_loss(cond, output)

        prediction = process.decode_prediction(output.value.float(), source)
        x_0_pred = process.x_0(prediction, x_t, time) * process.scale
        inputs = LossInputs(
            prediction=prediction,
            prediction_target=process.target(x_0, source, time, noise),
            x_0_pred=x_0_pred,
            x_0=target,
            source=source,
            region=region,
        )
        loss = losses.weighted_loss(self.config.loss, inputs) + disentangle_loss

        if process.predict_error and self.network.training:  # validation compares runs with and without it
            predicted_error = process.decode_error(output.value.float()) * process.scale
            nll = losses.laplace_nll(x_0_pred, target, predicted_error)
            loss = loss + PREDICT_ERROR_WEIGHT * (nll * inputs.brain).mean()

        return loss, x_0_pred

    def _disentangle_loss(self, cond: Condition, output: Prediction) -> Tensor | float:
        """Zero in validation, which compares runs with and without these losses."""
        terms = self.config.conditioning.disentangle
        if not terms or not self.network.training:
            return 0.0
        return disentangle.weighted_disentangle_loss(terms, cond, output, self.network.conditioner.decoder)
