"""Results of the methods of a section: scored under its protocol, or read where the same samples were scored before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mvdiff.eval.comparability import read_results
from mvdiff.eval.feature_cache import FeatureCache
from mvdiff.eval.provenance import are_versions_of_now
from mvdiff.eval.results_file import write_results
from mvdiff.eval.runner import contents, scored_each
from mvdiff.eval.scoring import Progress
from mvdiff.eval.settings import EvaluationSettings
from mvdiff.eval.sources import FolderSource
from mvdiff.recipes.benchmarks.samples import SectionSamples

MethodResults = Mapping[str, Any]
"""Content of a results file of `mvdiff evaluate`."""


class SectionScores:
    """Results of one section.

    Args:
        samples: Data and samples.
        truth: File of true labels, or None.
        cache: Features of all images.
    """

    def __init__(self, samples: SectionSamples, truth: str | None, cache: FeatureCache) -> None:
        settings = samples.settings
        self.samples, self.cache, self.num_workers = samples, cache, settings.num_workers
        self.how = EvaluationSettings(
            truth=truth,
            device=settings.device,
            inception_weights=settings.inception_weights,
            clip_weights=settings.clip_weights,
        )
        self._real: dict[str, Any] | None = None

    def finished(self, method: str) -> MethodResults | None:
        """Return the results of an earlier run if they are those of the present samples; None otherwise.

        They are if protocol, versions of the libraries that they name, and the hashes of samples and reference are
        equal, and no number is missing.
        """
        try:
            results = read_results(self.samples.scores_of(method))
            own = contents(FolderSource(self.samples.of(method)), self.num_workers)
        except (FileNotFoundError, ValueError):
            return None
        if self._real is None:
            self._real = contents(self.samples.reference, self.num_workers)
        same = (
            results.get("protocol", {}).get("hash") == self.samples.protocol.hash()
            and are_versions_of_now(results.get("run", {}).get("versions"))
            and not any("missing" in entry for entry in results["metrics"].values())
            and _hashes(results["generated"]) == _hashes(own)
            and _hashes(results["reference"] or {}) == _hashes(self._real)
        )
        return results if same else None

    def score(
        self, methods: Sequence[str], progress: Progress, command: str | None
    ) -> Iterator[tuple[str, MethodResults]]:
        """Score methods and write the results of each as soon as it is done; yield them as they are in the file.

        The reference is measured once.

        Args:
            methods: Names of the methods.
            progress: See `mvdiff.eval.runner.scored_each`.
            command: Command to record.

        Raises:
            ValueError: See `mvdiff.eval.runner.evaluate`.
            OSError: A file cannot be written.
        """
        folders = {method: self.samples.of(method) for method in methods}
        protocol, reference = self.samples.protocol, self.samples.reference
        found = scored_each(
            folders, reference, protocol.metrics, self.how, protocol, self.cache, progress, self.num_workers
        )
        for method, results in found if folders else ():
            results["run"]["command"] = command
            path = write_results(results, self.samples.scores_of(method))
            yield method, read_results(path)


def _hashes(described: Mapping[str, Any]) -> dict[str, str]:
    """Return the hashes over all samples: of pixels, prompts and whatever else every evaluation records."""
    return {key: value for key, value in described.items() if key.endswith("_hash") and key != "panoramas_hash"}
