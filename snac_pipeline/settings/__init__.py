"""pipeline.yaml -> typed settings: what to work on, where to keep it, and with which devices.

How to train is not here but in the recipes. Every unknown key is an error that names it; relative paths count from the
folder of the file.
"""

from snac_pipeline.settings.loading import (
    DEVICES_VARIABLE,
    PROJECT,
    SETTINGS_VARIABLE,
    Settings,
    load_settings,
    naming_words,
    settings_path,
)
from snac_pipeline.settings.operation import (
    AutomationSettings,
    EmailSettings,
    NotificationSettings,
    Policy,
    UiSettings,
    WhenTaken,
    is_cron,
)
from snac_pipeline.settings.work import (
    BaseCodecSettings,
    CachingSettings,
    CorpusSettings,
    DecoderName,
    DecoderSettings,
    Deduplicate,
    EvaluationSettings,
    LayoutName,
    MetricName,
    Precision,
    ScorerSettings,
    Side,
    TokenResult,
    TokenSettings,
    TrackerName,
)
from snac_pipeline.settings.yaml_files import Section, parse_model, read_yaml

__all__ = [
    "DEVICES_VARIABLE",
    "PROJECT",
    "SETTINGS_VARIABLE",
    "AutomationSettings",
    "BaseCodecSettings",
    "CachingSettings",
    "CorpusSettings",
    "DecoderName",
    "DecoderSettings",
    "Deduplicate",
    "EmailSettings",
    "EvaluationSettings",
    "LayoutName",
    "MetricName",
    "NotificationSettings",
    "Policy",
    "Precision",
    "ScorerSettings",
    "Section",
    "Settings",
    "Side",
    "TokenResult",
    "TokenSettings",
    "TrackerName",
    "UiSettings",
    "WhenTaken",
    "is_cron",
    "load_settings",
    "naming_words",
    "parse_model",
    "read_yaml",
    "settings_path",
]
