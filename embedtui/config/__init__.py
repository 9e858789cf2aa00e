"""Settings: where each comes from, what it may be, and the one clear line said when it is wrong."""

from embedtui.config.known import CHARACTERS_PER_TOKEN, LOCAL_ONLY, STORED_ALONE, STORED_SECTIONS
from embedtui.config.loading import file_of, load_settings, user_config_file
from embedtui.config.settings import ModelSettings, PacingSettings, Settings
from embedtui.config.specs import BY_PATH, CONFIG_NAME, FLAG_VARIABLE, SPECS, Spec
from embedtui.config.values import VARIABLE_IN
from embedtui.config.writing import edited, file_text, from_typed, left_out, replace_file, set_aside, typed, write_toml
from embedtui.model import CutoverSettings, GateSettings, IndexSettings, ThrottleSettings

__all__ = [
    "BY_PATH", "CHARACTERS_PER_TOKEN", "CONFIG_NAME", "FLAG_VARIABLE", "LOCAL_ONLY", "SPECS", "STORED_ALONE",
    "STORED_SECTIONS", "VARIABLE_IN", "CutoverSettings", "GateSettings", "IndexSettings", "ModelSettings",
    "PacingSettings", "Settings", "Spec", "ThrottleSettings", "edited", "file_of", "file_text", "from_typed",
    "left_out", "load_settings", "replace_file", "set_aside", "typed", "user_config_file", "write_toml",
]  # fmt: skip
