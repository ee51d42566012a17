"""Switches that save time: the deep cache, FreeU's scales, caches of transformers, compilation, attention kernels."""

from __future__ import annotations

from typing import Any

from diffusers import DiffusionPipeline

from mvdiff.models.bases.stable_diffusion import UNetBase
from mvdiff.models.block_caches import disable_block_cache, enable_block_cache
from mvdiff.models.deep_cache import DeepCacheSettings


class SpeedSwitches(DiffusionPipeline):
    """Switches of a pipeline that trade images for time, or change neither (`enable_compile`)."""

    deep_cache: DeepCacheSettings | None = None
    """Settings of the deep cache; None: off. See `enable_deep_cache`."""
    _cache: Any = None
    _compile: dict[str, Any] | None = None
    _compiled: Any = None

    def enable_deep_cache(self, interval: int = 3, depth: int = 1) -> None:
        """Run the deep part of the UNet in every `interval`-th call only, with its attention across views.

        Each call of the pipeline starts afresh. Schedulers of second order call the UNet twice a step.

        Args:
            interval: 1 changes nothing; 3 and 5 are usual.
            depth: See `DeepCacheSettings`; greater ones are slower and nearer to the whole UNet.

        Raises:
            ValueError: A setting is out of range, or the base has no UNet.
        """
        settings = DeepCacheSettings(interval, depth)
        if not isinstance(self._backbone(), UNetBase):
            raise ValueError(
                f"deep cache (--deep_cache) needs a base with a UNet; got a {type(self.unet).__name__}. In Python, "
                "pipeline.enable_cache takes diffusers' FirstBlockCacheConfig or TaylorSeerCacheConfig."
            )
        self.deep_cache = settings

    def disable_deep_cache(self) -> None:
        """Run the whole UNet in every call."""
        self.deep_cache = None

    def enable_cache(self, config: Any) -> None:
        """Apply a cache of diffusers to a transformer, with the attention across views in its blocks.

        Args:
            config: `FirstBlockCacheConfig`, which decides by all views of a call together, or `TaylorSeerCacheConfig`.

        Raises:
            ValueError: The base has a UNet, or the cache does not fit the network.
        """
        if isinstance(self._backbone(), UNetBase):
            raise ValueError(
                f"enable_cache needs a base with a transformer; got a {type(self.unet).__name__}. Call "
                "enable_deep_cache."
            )
        enable_block_cache(self.unet, config)
        self._cache = config

    def disable_cache(self) -> None:
        """Run all blocks of a transformer in every call."""
        disable_block_cache(self.unet)
        self._cache = None

    def enable_freeu(self, s1: float, s2: float, b1: float, b2: float) -> None:
        """Scale skip connections and features of the UNet's first two up blocks (Si et al. 2024), as in diffusers.

        Raises:
            ValueError: The base has no UNet.
        """
        if not isinstance(self._backbone(), UNetBase):
            raise ValueError(f"FreeU needs a base with a UNet; got a {type(self.unet).__name__}.")
        self.unet.enable_freeu(s1=s1, s2=s2, b1=b1, b2=b2)

    def disable_freeu(self) -> None:
        """Leave skip connections and features as they are."""
        self.unet.disable_freeu()

    def enable_compile(self, **settings: Any) -> None:
        """Compile base and adapter with `torch.compile` in the next call; outputs differ by rounding only.

        Args:
            **settings: Arguments of `torch.compile`, such as `mode` and `dynamic`.
        """
        self._compile, self._compiled = settings, None

    def disable_compile(self) -> None:
        """Run base and adapter as they are."""
        self._compile = self._compiled = None

    def _compiled_once(self, network: Any) -> Any:
        """Compile a network, unless an earlier call compiled one of the same base and adapter, which is returned."""
        known = self._compiled
        if known is None or known.unet is not network.unet or known.adapter is not network.adapter:
            network.compile(**self._compile)
            self._compiled = network
        return self._compiled

    def set_attention_backend(self, backend: str) -> None:
        """Choose the kernel of the network's own attention, see `ModelMixin.set_attention_backend` of diffusers.

        Raises:
            ValueError: The network's attention does not choose kernels, or there is no such backend.
        """
        if not any(hasattr(getattr(part, "processor", None), "_attention_backend") for part in self.unet.modules()):
            raise ValueError(
                f"set_attention_backend needs a network whose attention chooses kernels; got a "
                f"{type(self.unet).__name__}, which calls torch's. Choose one by torch.nn.attention.sdpa_kernel."
            )
        self.unet.set_attention_backend(backend)

    def unusual_settings(self) -> dict[str, Any]:
        """Return, for `sample.json`, the active switches that change images."""
        settings = super().unusual_settings()
        if self.deep_cache is not None and self.deep_cache.interval > 1:
            settings["deep_cache"] = {"interval": self.deep_cache.interval, "depth": self.deep_cache.depth}
        if self._cache is not None:
            settings["cache"] = repr(self._cache)
        first = next(iter(getattr(self.unet, "up_blocks", ())), None)
        if getattr(first, "s1", None):
            settings["freeu"] = {name: getattr(first, name) for name in ("s1", "s2", "b1", "b2")}
        return settings
