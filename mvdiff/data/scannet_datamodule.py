"""LightningDataModule of scenes in the ScanNet layout."""

from mvdiff.data.recording_datamodule import RecordingDataModule
from mvdiff.data.scannet import ScanNetScene


class ScanNetDataModule(RecordingDataModule):
    """Scenes in the ScanNet layout; arguments as for `RecordingDataModule`."""

    source_class = ScanNetScene
