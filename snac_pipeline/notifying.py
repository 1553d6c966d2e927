"""Telling people that a run failed: a webhook, Slack, e-mail.

In: what failed, and the settings' names of environment variables. Out: of each channel, what went wrong with it.
Addresses and credentials are read from the environment when they are needed and are in nothing that is returned: of
errors only what cannot hold them is told, their number or their kind.
"""

import json
import os
import smtplib
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from email.message import EmailMessage

from snac_pipeline.errors import PipelineError
from snac_pipeline.settings import EmailSettings, NotificationSettings

TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True)
class FailedRun:
    """What there is to tell."""

    job: str
    run_id: str
    step: str | None
    """The first that failed; None where the run failed outside of its steps."""
    error: str
    """Its sentence."""
    machine: str

    @property
    def title(self) -> str:
        return f"{self.job} failed" + (f" in {self.step}" if self.step else "")

    @property
    def text(self) -> str:
        return f"{self.title}: {self.error}\n(run {self.run_id} on {self.machine})"


def notify(settings: NotificationSettings, failed: FailedRun) -> dict[str, str | None]:
    """Tell every channel of the settings; by channel, None where it took the message, else what went wrong."""
    told: dict[str, str | None] = {}
    if settings.webhook is not None:
        content = {"event": "run_failed", **asdict(failed), "text": failed.text}
        told["webhook"] = _outcome(_post, settings.webhook, content)
    if settings.slack is not None:
        told["slack"] = _outcome(_post, settings.slack, {"text": _for_slack(failed.text)})
    if settings.email.server is not None:
        told["email"] = _outcome(_mail, settings.email, failed)
    return told


def _outcome(send: Callable[..., None], *arguments: object) -> str | None:
    try:
        send(*arguments)
    except PipelineError as error:
        return str(error)
    except urllib.error.HTTPError as error:
        return f"the server answered {error.code}"
    except smtplib.SMTPResponseException as error:
        return f"the mail server answered {error.smtp_code}"
    except Exception as error:  # whatever it is, the run's own failure is what matters
        reason = getattr(error, "reason", error)
        return (isinstance(reason, OSError) and reason.strerror) or type(reason).__name__
    return None


def _post(variable: str, content: dict[str, object]) -> None:
    address = _of_environment(variable)
    if urllib.parse.urlsplit(address).scheme not in ("http", "https"):
        raise PipelineError(f"${variable} holds no address; it begins with https://")
    request = urllib.request.Request(address, json.dumps(content).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):
        pass


def _for_slack(text: str) -> str:
    """Slack takes these three for markup."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _mail(settings: EmailSettings, failed: FailedRun) -> None:
    assert settings.server and settings.sender and settings.recipients, "settings have all three or none"
    server = urllib.parse.urlsplit(_of_environment(settings.server))
    if server.scheme not in ("smtp", "smtps") or not server.hostname:
        raise PipelineError(f"${settings.server} holds no mail server; it is smtp://user:password@host:587 or smtps://")
    message = EmailMessage()
    message["Subject"] = " ".join(failed.title.split())
    message["From"] = _of_environment(settings.sender)
    message["To"] = _of_environment(settings.recipients)
    message.set_content(failed.text)
    connect = smtplib.SMTP_SSL if server.scheme == "smtps" else smtplib.SMTP
    with connect(server.hostname, server.port or 0, timeout=TIMEOUT_SECONDS) as mail:
        if server.scheme == "smtp" and mail.has_extn("starttls"):
            mail.starttls()
        if server.username:
            mail.login(urllib.parse.unquote(server.username), urllib.parse.unquote(server.password or ""))
        mail.send_message(message)


def _of_environment(variable: str) -> str:
    if not (value := os.environ.get(variable, "").strip()):
        raise PipelineError(f"the environment variable {variable} is not set where Dagster runs; set it and restart it")
    return value
