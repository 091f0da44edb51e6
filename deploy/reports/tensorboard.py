"""TensorBoard events of a run, where the `sim` extra is installed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from dictpfl.common.messages.protocol import RoundKind
from dictpfl.deploy.runs.record import RoundRecord
from dictpfl.deploy.runs.run import Run


def write_events(run: Run, folder: Path) -> bool:
    """Write event files in place of those of before, one step an update round; False where TensorBoard is not installed.

    Validation figures stand at the update whose model they are of: a round measures the model that it begins with.
    """
    if find_spec("tensorboard") is None:
        return False
    from torch.utils.tensorboard import SummaryWriter

    folder.mkdir(exist_ok=True, mode=0o700)  # as private as the history that it repeats
    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()  # of a run that was resumed: each point would stand twice
    before = 0
    with SummaryWriter(str(folder)) as writer:
        for record in run.records:
            for name, value in figures_of(record).items():
                if name.endswith("/validation"):
                    writer.add_scalar(name, value, before)
                elif record.kind == RoundKind.UPDATE:
                    writer.add_scalar(name, value, record.update)
            before = record.update
    return True


def figures_of(record: RoundRecord) -> dict[str, float]:
    """Return a round's figures by name, those that are not known left out."""
    metric = record.metric or "accuracy"  # which runs of 0.1 did not say
    figures = {
        f"{metric}/test": record.test,
        "loss/test": record.test_loss,
        f"{metric}/validation": record.validation,
        "loss/validation": record.validation_loss,
        "loss/train": record.train_loss,
        "traffic/values sent": record.sent,
        "traffic/bytes up": record.bytes_up,
        "traffic/bytes down": record.bytes_down,
    }
    figures |= {f"seconds/{phase}": value for phase, value in record.seconds.items()}
    return {name: value for name, value in figures.items() if value is not None}
