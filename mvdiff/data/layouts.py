"""Recognise layouts of recordings, find the recordings of a data set, and open them, also with a user's class.

Each layout has its own file with a subclass of `mvdiff.data.recordings.RecordingSource`, such as `tum.py`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from mvdiff.data.equirectangular import read_names
from mvdiff.data.recordings import RecordingSource
from mvdiff.data.resizing import Resizing
from mvdiff.data.scannet import ScanNetScene
from mvdiff.data.transforms_json import TransformsRecording
from mvdiff.data.tum import TumRecording
from mvdiff.files.paths import below, existing, expanded, expanded_values, kind_of, own_name, same_name, visible
from mvdiff.files.text import read_yaml_mapping

RECORDINGS: tuple[type[RecordingSource], ...] = (ScanNetScene, TransformsRecording, TumRecording)
"""Layouts recognised by the contents of a folder."""
_OF_PANORAMAS = ("views", "captions", "sample_id", "__len__")
"""Members required of a class that reads panoramas, see `mvdiff.data.panoramas.PanoramaSource`."""


@dataclass(frozen=True)
class Source:
    """Reader of a layout: a class and its settings, from `--data` or the `source` of a data module.

    Attributes:
        cls: Class, called with the folder, the caller's settings and `init_args`, which take precedence.
        init_args: The user's settings.

    Raises:
        ValueError: The class reads neither recordings nor panoramas, or does not accept the settings.
    """

    cls: type
    init_args: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        missing = [name for name in _OF_PANORAMAS if not hasattr(self.cls, name)]
        if inspect.isabstract(self.cls) or (missing and not self.reads_recordings):
            raise ValueError(
                f"class_path must be a RecordingSource, or a class of panoramas with {', '.join(_OF_PANORAMAS)}; got "
                f"{self.cls.__module__}.{self.cls.__name__}."
            )
        if not isinstance(self.init_args, Mapping):
            raise ValueError(f"init_args must be a mapping of settings of {self.cls.__name__}; got {self.init_args!r}.")
        if (known := _arguments(self.cls)) is not None and (unknown := self.init_args.keys() - known):
            raise ValueError(
                f"init_args of {self.cls.__name__} must be among {', '.join(known)}; got {', '.join(sorted(unknown))}."
            )

    @classmethod
    def of(cls, spec: Source | type | str | Mapping[str, Any] | None) -> Source | None:
        """Make a source from a class, a class path, or `{class_path: ..., init_args: {...}}`; None stays None.

        Raises:
            ValueError: The class does not exist, or `spec` has another form.
        """
        if spec is None or isinstance(spec, Source):
            return spec
        if isinstance(spec, type):
            return cls(spec)
        if isinstance(spec, str):
            spec = {"class_path": spec}
        if not isinstance(spec, Mapping) or "class_path" not in spec or spec.keys() - {"class_path", "init_args"}:
            raise ValueError(f"source must be a class_path, optionally with init_args; got {spec!r}.")
        return cls(_imported(spec["class_path"]), spec.get("init_args") or {})

    @classmethod
    def of_option(cls, option: str | None) -> Source | None:
        """Make a source from the value of `--data`: a class path, or a YAML file with class_path and init_args.

        Raises:
            FileNotFoundError: The file does not exist.
            ValueError: The class does not exist, or the file has another form.
        """
        if option is None or Path(option).suffix.lower() not in (".yaml", ".yml"):
            return cls.of(option)
        spec = expanded_values(read_yaml_mapping(expanded(option)))
        try:
            return cls.of(spec)
        except ValueError as error:
            raise ValueError(f"{str(error).removesuffix('.')}, in {option}.") from error

    @property
    def reads_recordings(self) -> bool:
        """True if the class reads recordings, False for panoramas."""
        return issubclass(self.cls, RecordingSource)

    def __call__(self, folder: str | Path, *args: Any, **settings: Any) -> Any:
        """Open a folder.

        Raises:
            ValueError: The class does not accept these arguments. The class may raise other errors.
        """
        settings |= self.init_args
        try:
            inspect.signature(self.cls).bind(folder, *args, **settings)
        except TypeError as error:
            raise ValueError(f"{self.cls.__name__} must accept the arguments it is called with; {error}.") from error
        return self.cls(folder, *args, **settings)


def _arguments(cls: type) -> list[str] | None:
    """Return the names of a class's arguments, including those passed on to bases; None if any name is accepted."""
    names: dict[str, None] = {}
    for base in cls.__mro__[:-1]:
        if "__init__" in vars(base):
            _, *parameters = inspect.signature(base.__init__).parameters.values()
            names |= {p.name: None for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
            if all(p.kind != p.VAR_KEYWORD for p in parameters):
                return list(names)
    return None


def _imported(class_path: str) -> type:
    module, _, name = str(class_path).rpartition(".")
    try:
        cls = getattr(import_module(module), name)
    except (ImportError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"class_path must be the import path of a class; got {class_path!r} ({error}).") from error
    if not isinstance(cls, type):
        raise ValueError(f"class_path must name a class; got {class_path!r}, a {type(cls).__name__}.")
    return cls


def recording_class(folder: Path, source: Source | None = None) -> Source | None:
    """Return the reader of a recording: `source`, or else that of its layout; None if the folder is not a recording.

    Raises:
        ValueError: The folder has several layouts, or `source` does not read recordings.
    """
    if source is not None and not source.reads_recordings:
        raise ValueError(
            "class_path must be a mvdiff.data.recordings.RecordingSource to read recordings; got "
            f"{source.cls.__name__}."
        )
    sources = [Source(cls) for cls in RECORDINGS] if source is None else [source]
    readers = [reader for reader in sources if reader.cls.recognises(folder)]
    if len(readers) > 1:
        readers = [reader for reader in readers if not reader.cls.missing_parts(folder)] or readers
    if len(readers) > 1:
        cls = readers[0].cls
        raise ValueError(
            f"{folder} must have one layout; got {' and '.join(map(looked_for, readers))}. Name the class that reads "
            f"it, such as {cls.__module__}.{cls.__name__}, with "
            "--data or the data module's `source`."
        )
    return readers[0] if readers else None


def looked_for(source: Source | None = None) -> str:
    """Return a text, for errors, that names the files by which recordings are recognised."""
    classes = RECORDINGS if source is None else (source.cls,)
    return ", or ".join(f"{', '.join(cls.parts)} ({cls.layout} layout)" for cls in classes)


def open_recording(
    folder: str | Path, source: Source | None = None, resizing: Resizing = "exact", **settings: Any
) -> RecordingSource:
    """Open a recording of any layout.

    Args:
        folder: Folder of the recording.
        source: Reader of the recording; None: the layout is detected.
        resizing: Rule by which depths and intrinsics are resized, see `mvdiff.data.resizing`.
        **settings: `on_broken` and `missing_caption`, see `RecordingSource`.

    Raises:
        FileNotFoundError: The folder is not a recording, or is incomplete.
        ValueError: The folder has several layouts.
    """
    folder = expanded(folder)
    if reader := recording_class(folder, source):
        recording = reader(folder, **settings)
        recording.resizing = resizing
        return recording
    if kind_of(folder) == "folder" and (inner := recordings_in(folder, source)):
        raise FileNotFoundError(f"{folder} must be one scene; it holds several. Name one of them, such as {inner[0]}.")
    raise FileNotFoundError(f"{folder} must be a scene with {looked_for(source)}.")


def data_set_root(root: str | Path) -> Path:
    """Return the folder that holds train/ and test/: `root`, or its subfolder with a layout's usual name."""
    root = expanded(root)
    if any(kind_of(root / split) == "folder" for split in ("train", "test")):
        return root
    inner = (root / cls.data_set for cls in RECORDINGS if cls.data_set)
    return next((folder for folder in inner if kind_of(folder) == "folder"), root)


def scene_folders(folder: Path, source: Source | None = None) -> list[Path]:
    """Return the recordings in a folder, sorted.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: The folder has no recording.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} must be a folder of scenes; it does not exist.")
    scenes = _recordings_among(_subfolders(folder), source)
    if not scenes:
        raise ValueError(f"{folder} must hold at least one scene (a folder with {looked_for(source)}); got none.")
    return scenes


def split_scenes(root: str | Path, split: str, source: Source | None = None) -> list[Path]:
    """Return the recordings of a split: those in the folder <split>/, or else those listed in <split>.txt.

    Raises:
        FileNotFoundError: Neither exists, or a listed recording does not exist.
        ValueError: The folder has no recording.
    """
    root = data_set_root(root)
    names = existing(root / f"{split}.txt")
    if kind_of(root / split) == "folder" or kind_of(names) != "file":
        return scene_folders(root / split, source)
    scenes = []
    for name in read_names(names):
        if not (found := _recordings_among([below(root, name)], source)):
            raise FileNotFoundError(f"{names} must name scenes; got {name}, which is not a scene.")
        scenes += found
    return scenes


def named_scenes(root: str | Path, split: str, source: Source | None = None) -> dict[str, Path]:
    """Return the recordings of a split like `split_scenes`, by the names that they have in the data set.

    Raises:
        ValueError: Two have the same name.
    """
    paths = split_scenes(root, split, source)
    folder = data_set_root(root) / split
    base = folder if folder.is_dir() else folder.parent
    scenes: dict[str, Path] = {}
    for path in paths:
        if (name := name_in(base, path)) in scenes:
            raise ValueError(f"{base} must hold scenes of different names; got {name!r} twice, also in NFC.")
        scenes[name] = path
    return scenes


def name_in(folder: Path, scene: Path) -> str:
    """Return the name of a scene in a data set: its path below the data set's folder, in NFC, links not followed.

    Example:
        >>> name_in(Path("data"), Path("data/scene1")), name_in(Path("data"), Path("data/scene1/scene1"))
        ('scene1', 'scene1')
    """
    if scene == folder or not scene.is_relative_to(folder):
        return own_name(scene)
    parts = scene.relative_to(folder).parts
    parts = parts[:-1] if parts[-2:-1] == parts[-1:] else parts  # a folder unpacked into one of its own name
    return same_name("/".join(parts))


def split_of(scene: Path) -> str | None:
    """Return the split, "train" or "test", in whose folder a scene lies; None if it lies in neither.

    Example:
        >>> split_of(Path("train/scene1")), split_of(Path("test/scene2/scene2")), split_of(Path("data/scene3"))
        ('train', 'test', None)
    """
    folder = scene.parent.parent if scene.parent.name == scene.name else scene.parent  # unpacked into its own name
    return folder.name if folder.name in ("train", "test") else None


def find_recordings(root: str | Path, source: Source | None = None) -> list[Path]:
    """Return the recordings of a folder, sorted: the folder itself, those in it, or those in its train/ and test/.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: The folder holds no recording.
    """
    root = expanded(root)
    if not root.is_dir():
        raise FileNotFoundError(f"DIR must be a folder of scenes; {root} does not exist.")
    if scenes := recordings_in(root, source):
        return scenes
    raise ValueError(
        f"DIR must be a scene or hold scenes, directly or in train/ and test/ (folders with {looked_for(source)}); "
        f"got {root}, which has none."
    )


def recordings_in(root: Path, source: Source | None = None) -> list[Path]:
    """Return the recordings of a folder like `find_recordings`, or an empty list."""
    if recording_class(root, source):
        return [root]
    inner = _subfolders(data_set_root(root))
    scenes = _recordings_among(inner, source)
    return scenes or _recordings_among([folder for parent in inner for folder in _subfolders(parent)], source)


def _recordings_among(folders: Iterable[Path], source: Source | None) -> list[Path]:
    """Return the recordings among folders; one that was unpacked into a folder of its own name counts, too."""
    scenes = (next((one for one in (f, f / f.name) if recording_class(one, source)), None) for f in folders)
    return [scene for scene in scenes if scene is not None]


def _subfolders(folder: Path) -> list[Path]:
    return [path for path in visible(folder) if kind_of(path) == "folder"]
