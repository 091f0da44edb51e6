"""TensorBoard events of a run, where the `sim` extra is installed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from deploy.run import Run


def write_events(run: Run, folder: Path) -> bool:
    """Write event files, one step an update round; False where TensorBoard is not installed."""
    if find_spec("tensorboard") is None:
        return False
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        for record in run.history:
            step = record.update
            figures = {
                "accuracy/test": record.accuracy,
                "loss/test": record.loss,
                "accuracy/validation": record.validation_accuracy,
                "loss/train": record.train_loss,
                "traffic/values sent": record.sent,
                "traffic/bytes up": record.bytes_up,
                "traffic/bytes down": record.bytes_down,
            }
            figures |= {f"seconds/{phase}": value for phase, value in record.seconds.items()}
            for name, value in figures.items():
                if value is not None:
                    writer.add_scalar(name, value, step)
    return True
