"""A logger that names the folder of a run as those of experiment servers do, for tests without their packages."""

from uuid import uuid4

from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers.logger import rank_zero_experiment


class ServerLogger(Logger):
    """Logger as `WandbLogger` (and, with `save_dir: null`, `MLFlowLogger` and `CometLogger`) of Lightning 2.6.

    `save_dir` holds all runs, `name` is the project, `version` an id that the first rank gets with its experiment.
    """

    def __init__(self, save_dir: str | None = ".", project: str = "lightning_logs", id: str | None = None) -> None:
        super().__init__()
        self._save_dir, self._project, self._id = save_dir, project, id

    @property
    @rank_zero_experiment
    def experiment(self) -> object:
        if self._id is None:
            self._id = uuid4().hex[:8]
        return object()

    @property
    def save_dir(self) -> str | None:
        return self._save_dir

    @property
    def name(self) -> str:
        return self._project

    @property
    def version(self) -> str | None:
        return self._id

    def log_metrics(self, metrics, step=None) -> None:
        assert self.experiment is not None

    def log_hyperparams(self, params, *args, **kwargs) -> None:
        assert self.experiment is not None
