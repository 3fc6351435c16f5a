"""A layer that multiplies by a number."""

from torch import Tensor, nn

__all__ = ["Scaled"]


class Scaled(nn.Module):
    """Multiplies by a fixed number.

    Args:
        factor: the number.
    """

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Return x times the number, of x's shape."""
        return x * self.factor

    def extra_repr(self) -> str:
        """Return the number."""
        return str(self.factor)
