"""A data module whose workers are killed while they read, as where memory runs out."""

import os
import signal

from torch.utils.data import Dataset, get_worker_info

from mvdiff.data.datamodule import EquirectangularDataModule


class Deadly(Dataset):
    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, key):
        if get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.dataset[key]


class DeadlyDataModule(EquirectangularDataModule):
    """Kills every worker."""

    def train_dataset(self):
        return Deadly(super().train_dataset())
