"""The sections about running it: what the UI tells, what is done without being asked, what is kept, who is told."""

import re
import zoneinfo
from typing import Annotated, Any, Literal

import pydantic

from snac_pipeline.settings.yaml_files import Section

WhenTaken = Literal["warn", "wait", "refuse"]

Owner = Annotated[str, pydantic.Field(pattern=r"^(team:[\w.-]+|[\w.+-]+@[\w-]+(\.[\w-]+)+)$")]

Policy = Literal["auto", "ask", "never"]
"""Who makes an asset anew when what it is made from changed; see assets/policies.py."""


class UiSettings(Section):
    """What the Dagster UI tells of every asset."""

    owners: list[Owner] = ["team:speech"]
    """Whom to ask, shown on every asset: e-mail addresses, or teams as `team:name`."""
    code_url: str | None = None
    """Where the project's folder is on the web, e.g. https://github.com/me/snac-pipeline/blob/main; null: assets link
    to their files on this machine."""


class PolicySettings(Section):
    """What happens to each asset when what it is made from changed; docs/operating.md says what the words mean."""

    manifest: Policy = "auto"
    """The manifest and the quarantine of a corpus: scanning it."""
    splits: Policy = "auto"
    base_codec: Policy = "auto"
    code_cache: Policy = "auto"
    restored_audio: Policy = "ask"
    decoder_24khz: Policy = "ask"
    decoder_48khz: Policy = "ask"
    decoder_dual_head: Policy = "ask"
    evaluation: Policy = "ask"
    token_statistics: Policy = "auto"
    token_sequences: Policy = "ask"
    bpe_tokenizer: Policy = "ask"


class AutomationSettings(Section):
    """What is done without being asked; see docs/operating.md."""

    running: bool = False
    """Whether the schedule and the sensors begin switched on; what the UI is told later counts more."""
    schedule: str | None = "0 2 * * *"
    """When to look for changed recordings, as a cron expression (minute, hour, day, month, weekday); null: never."""
    timezone: str = "UTC"
    """Of the schedule, e.g. Europe/Berlin."""
    watch: bool = True
    """Whether there is a sensor that looks for changed recordings all the time."""
    interval_seconds: int = pydantic.Field(60, ge=1)
    """How often the sensors look."""
    quiet_seconds: float = pydantic.Field(300.0, ge=0)
    """A corpus in which a file changed so recently is being copied to, perhaps: it is left for later."""
    policies: PolicySettings = PolicySettings()

    @pydantic.field_validator("schedule")
    @classmethod
    def _cron(cls, schedule: str | None) -> str | None:
        if schedule is not None and not is_cron(schedule):
            raise ValueError(
                f"{schedule!r} is not a cron expression: five fields of numbers (minute, hour, day, month, weekday), "
                "such as '0 2 * * *' for every night at two; null for no schedule"
            )
        return schedule

    @pydantic.field_validator("timezone")
    @classmethod
    def _zone(cls, timezone: str) -> str:
        try:
            zoneinfo.ZoneInfo(timezone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):  # unknown; not a name; a folder of names
            raise ValueError(
                f"{timezone!r} is not the name of a time zone; give one such as UTC or Europe/Berlin"
            ) from None
        return timezone


_CRON_FIELDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
_LONGEST = {2: 29, 4: 30, 6: 30, 9: 30, 11: 30}
"""Days of the months that have fewer than 31."""


def is_cron(text: str) -> bool:
    """Whether `text` is a cron expression of five fields: lists of `*`, numbers and ranges, and steps of these; one
    whose time comes, unlike the 30th of February's.

    All of these are ones for Dagster, which takes more: words, ranges over the turn of the day, days that no month has
    beside a weekday (and finds no time for them). Its own check is not at hand here, as the library works without it;
    a test holds the two together.
    """
    fields = text.split()
    if len(fields) != len(_CRON_FIELDS):
        return False
    _, _, days, months, _ = meant = list(map(_cron_numbers, fields, _CRON_FIELDS))
    return all(meant) and any(min(days) <= _LONGEST.get(month, 31) for month in months)


def _cron_numbers(field: str, allowed: tuple[int, int]) -> set[int]:
    """The numbers that a field stands for; none where it is not one."""
    numbers: set[int] = set()
    for item in field.split(","):
        parts = re.fullmatch(r"(?:\*|([0-9]+)(?:-([0-9]+))?)(?:/([0-9]+))?", item)
        if parts is None:
            return set()
        first, last, step = (int(number) if number else None for number in parts.groups())
        low, high = allowed if first is None else (first, first if last is None else last)
        if not allowed[0] <= low <= high <= allowed[1]:
            return set()
        if step is not None and (not 1 <= step <= allowed[1] or (first is not None and last is None)):
            return set()
        numbers.update(range(low, high + 1, step or 1))
    return numbers


class GarbageSettings(Section):
    """What is kept when garbage is collected, beside all that is needed."""

    keep: int = pydantic.Field(3, ge=0)
    """The newest so many runs of each phase, evaluations, and token results of each kind, needed or not."""


def _variable_name(value: Any) -> Any:
    """Refuse what is no name of an environment variable, without repeating it: it may be the secret itself."""
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
        return value
    raise ValueError(
        "give the name of an environment variable, such as SLACK_WEBHOOK, and put the address or password into that "
        "variable: this file is no place for it"
    )


VariableName = Annotated[str, pydantic.BeforeValidator(_variable_name)]


class EmailSettings(Section):
    """E-mail, by the names of environment variables that hold what it takes: all three, or none."""

    server: VariableName | None = None
    """Variable with the server, as smtp://user:password@host:587 or smtps://..."""
    sender: VariableName | None = None
    """Variable with the address that the e-mail comes from."""
    recipients: VariableName | None = None
    """Variable with the addresses that it goes to, with commas between them."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _keys_only(cls, value: Any) -> Any:
        if not isinstance(value, dict | EmailSettings):  # pydantic's own words would repeat it
            raise ValueError(
                "has the keys server, sender and recipients, each with the name of an environment variable"
            )
        return value

    @pydantic.model_validator(mode="after")
    def _all_or_none(self) -> "EmailSettings":
        if len({value is None for value in (self.server, self.sender, self.recipients)}) > 1:
            raise ValueError("e-mail needs all of server, sender and recipients")
        return self


class NotificationSettings(Section):
    """Who is told of runs that fail. Here are names of environment variables only, never what they hold."""

    webhook: VariableName | None = None
    """Variable with an address that gets JSON of every run that fails: job, run_id, step, error, machine, text."""
    slack: VariableName | None = None
    """Variable with the address of a Slack incoming webhook."""
    email: EmailSettings = EmailSettings()

    @pydantic.model_validator(mode="before")
    @classmethod
    def _keys_only(cls, value: Any) -> Any:
        if not isinstance(value, dict | NotificationSettings):  # pydantic's own words would repeat it
            raise ValueError("has the keys webhook, slack and email, each with the name of an environment variable")
        return value

    @property
    def channels(self) -> list[str]:
        """Those that are named."""
        named = {"webhook": self.webhook, "slack": self.slack, "email": self.email.server}
        return [channel for channel, variable in named.items() if variable is not None]
