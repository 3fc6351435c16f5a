"""A network that takes images as they lie in files: their scale and normalisation are in it."""

import torch
from torch import Tensor, nn
from typing_extensions import override

from sat_optuna.errors import TicketError
from sat_optuna.ticket import Inputs, Ticket

__all__ = ["WithPreprocessing", "inputs_of"]


def inputs_of(ticket: Ticket) -> Inputs:
    """Return how images become what a ticket's network takes, where that is known and not nothing.

    Raises:
        TicketError: the ticket does not say it, or its network takes images as they are.
    """
    if ticket.inputs is None:
        raise TicketError(
            "the ticket does not say how images become what its network takes, as those of "
            "version 0.2.0; retrain it, or export without preprocessing"
        )
    if not ticket.inputs.mean:
        raise TicketError(
            "the ticket's network takes images as they are, floats of one's own; export without "
            "preprocessing"
        )
    return ticket.inputs


class WithPreprocessing(nn.Module):
    """Scales and normalises images before a network gets them.

    Args:
        network: in the dtype that it shall compute in.
        inputs: with mean and std.

    Attributes:
        takes: the dtype of the images: uint8 of bytes, else float32 of the files' own numbers.
    """

    scale: Tensor
    offset: Tensor

    def __init__(self, network: nn.Module, inputs: Inputs) -> None:
        super().__init__()
        self.network = network
        self.takes = torch.uint8 if inputs.numbers == "bytes" else torch.float32
        self.dtype = next(network.parameters()).dtype
        centre = torch.tensor(inputs.mean, dtype=torch.float64).view(-1, 1, 1)
        spread = torch.tensor(inputs.std, dtype=torch.float64).view(-1, 1, 1)
        # (pixel / white - mean) / std as one multiplication and one addition, as in training.
        self.register_buffer("scale", (1 / (inputs.white * spread)).float())
        self.register_buffer("offset", (-centre / spread).float())

    @override
    def forward(self, images: Tensor) -> Tensor:
        """Return the logits.

        Args:
            images: (N, C, H, W) in the numbers of the files; resize them before.

        Returns:
            (N, classes).
        """
        logits: Tensor = self.network((images.float() * self.scale + self.offset).to(self.dtype))
        return logits
