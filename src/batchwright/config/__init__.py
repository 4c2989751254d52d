"""Settings: what there is (`settings`), how one is read (`values`), and all of them (`loading`)."""

from __future__ import annotations

from batchwright.config.loading import BUILTIN, load_config
from batchwright.config.settings import (
    LOOPBACK,
    Config,
    EffectiveSetting,
    LimitsConfig,
    ModelConfig,
    ProviderConfig,
    ServerConfig,
    effective_settings,
)

__all__ = [
    "BUILTIN",
    "LOOPBACK",
    "Config",
    "EffectiveSetting",
    "LimitsConfig",
    "ModelConfig",
    "ProviderConfig",
    "ServerConfig",
    "effective_settings",
    "load_config",
]
