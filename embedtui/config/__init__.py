"""Settings: where each comes from, what it may be, and the one clear line said when it is wrong."""

from embedtui.config.known import CHARACTERS_PER_TOKEN, KNOWN_MODELS, LOCAL_ONLY, KnownModel
from embedtui.config.loading import load_settings, user_config_file
from embedtui.config.settings import ModelSettings, PacingSettings, Settings
from embedtui.config.specs import CONFIG_NAME, FLAG_VARIABLE, SPECS, Spec
from embedtui.config.writing import write_toml
from embedtui.model import CutoverSettings, GateSettings, IndexSettings, ThrottleSettings

__all__ = [
    "CHARACTERS_PER_TOKEN", "CONFIG_NAME", "FLAG_VARIABLE", "KNOWN_MODELS", "LOCAL_ONLY", "SPECS", "CutoverSettings",
    "GateSettings", "IndexSettings", "KnownModel", "ModelSettings", "PacingSettings", "Settings", "Spec",
    "ThrottleSettings", "load_settings", "user_config_file", "write_toml",
]  # fmt: skip
