"""dictpfl from Python: simulate a federation, decompose and merge models, plug in parts of the method.

import dictpfl
config = dictpfl.FederationConfig.load("experiments/digits.toml")
run = dictpfl.simulate(config, "runs/mine", engine="local")
print(run.accuracy, run.summary["bytes"])
"""

from client.data import Dataset, Samples
from client.tasks import Task
from client.twin import Twin, decompose, merge
from common.budget import BudgetAllocator
from common.config import FederationConfig
from common.errors import DictPFLError
from common.schedule import PruningSchedule
from deploy.comparison import compare, configurations
from deploy.observer import RoundRecord
from deploy.run import Run
from deploy.simulation import simulate

__all__ = [
    "BudgetAllocator",
    "Dataset",
    "DictPFLError",
    "FederationConfig",
    "PruningSchedule",
    "RoundRecord",
    "Run",
    "Samples",
    "Task",
    "Twin",
    "compare",
    "configurations",
    "decompose",
    "merge",
    "simulate",
]
