"""`mvdiff data cache-text`: embed all prompts of a run, so that it needs no text encoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mvdiff.cli.command import Command, done, plural, typed


@dataclass(frozen=True, kw_only=True)
class CacheTextOptions:
    """Run and device."""

    config: Path
    """YAML file of the run, with model.cache.dir"""
    device: str = "auto"
    """device of the text encoder: auto (the GPU if there is one), cpu, cuda, or one of several GPUs, such as cuda:1"""


def cache_text(options: CacheTextOptions) -> int:
    """Fill the cache; return the exit status."""
    from dataclasses import replace

    import torch

    from mvdiff.cli.opening import usable_device
    from mvdiff.cli.progress import quiet_libraries
    from mvdiff.data.from_config import data_from_config
    from mvdiff.training.latent_shards import model_of_run
    from mvdiff.training.multi_view import MultiViewModule
    from mvdiff.training.text_cache import fill

    quiet_libraries()
    data = data_from_config([options.config])
    model, precision = model_of_run(options.config, "--config")
    if not isinstance(model, MultiViewModule):
        raise ValueError(f"--config must have a MultiViewModule; got {type(model).__name__}, in {options.config}.")
    model.cache = replace(model.cache, text_only=False)  # this run reads the text encoder
    autocast = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
    count = fill(model, data, usable_device(options.device), autocast)
    done(
        f"{model.cache.dir}: {plural(count, 'text')}",
        typed("mvdiff", "fit", "--config", options.config, "--model.cache.text_only", "true"),
    )
    return 0


CACHE_TEXT = Command(
    name="data cache-text",
    summary="embed the prompts of a run, to train without the text encoder",
    description="Embed every prompt that a run can ask for with the text encoder of its base, and write the embeddings "
    "into model.cache.dir. With model.cache.text_only, the run then never loads the text encoder. Embeddings that are "
    "there are kept, so an interrupted call can be rerun.",
    example="mvdiff data cache-text --config my.yaml",
    settings=(CacheTextOptions,),
    run=cache_text,
)
