"""training.metric = "top-two": the label is among the two largest outputs."""

from torch import Tensor


class TopTwo:
    """Share of samples whose label is one of the two largest outputs."""

    name = "top-two accuracy"
    higher_is_better = True

    def total(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Number of such samples in a batch; institutions add these under encryption."""
        return (outputs.topk(2, dim=1).indices == targets.unsqueeze(1)).any(dim=1).sum()
