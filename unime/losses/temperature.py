"""A temperature that is learnt beside a model."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from unime.config import OptimConfig


class LearntTemperature:
    """The logarithm of the scale 1 / temperature, learnt by Adam and bounded (CLIP,
    arXiv 2103.00020, 2.5); one number of the run, on the CPU, the same on every rank.

    Args:
        value: of the temperature at the start.
        least: it stays at or above.
    """

    def __init__(self, value: float, least: float, optim: OptimConfig) -> None:
        self.log_scale = torch.tensor(-math.log(value), dtype=torch.double, requires_grad=True)
        self._most = -math.log(least)
        decay = optim.beta1, optim.beta2
        self._optimizer = torch.optim.Adam([self.log_scale], betas=decay, eps=optim.epsilon)

    @property
    def value(self) -> Tensor:
        """A scalar with a graph."""
        return (-self.log_scale).exp()

    def step(self, learning_rate: float) -> None:
        """Move by the gradient that the last step has left."""
        self._optimizer.param_groups[0]["lr"] = learning_rate
        self._optimizer.step()
        with torch.no_grad():
            self.log_scale.clamp_(max=self._most)

    @property
    def state(self) -> dict[str, float]:
        """To go on from, to the last bit."""
        of_adam = self._optimizer.state[self.log_scale]
        moments = {name: float(value) for name, value in of_adam.items()}
        return {"log_scale": float(self.log_scale.detach()), **moments}

    def go_on(self, state: dict[str, float]) -> None:
        with torch.no_grad():
            self.log_scale.fill_(state["log_scale"])
        if moments := {name: value for name, value in state.items() if name != "log_scale"}:
            self._optimizer.state[self.log_scale] = {
                name: torch.tensor(value, dtype=torch.float if name == "step" else torch.double)
                for name, value in moments.items()
            }
