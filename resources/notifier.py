"""Delivery of notifications: to an SNS topic in production, to a file on one machine, and always to the log.

Which notifications are due, and their texts, are in `ls4_assets/notifications`.
"""

from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ls4_assets import logs
from ls4_assets.errors import NotificationError

if TYPE_CHECKING:
    from mypy_boto3_sns.client import SNSClient

# SNS rejects a message with a longer subject.
_MAX_SUBJECT_CHARS = 100


class Notifier(Protocol):
    """A recipient of messages. `send` raises NotificationError when it is not accepted, within seconds."""

    def send(self, subject: str, body: str) -> None: ...


class SnsNotifier:
    """An SNS topic, whose subscriptions decide who gets the messages and how.

    Without a topic, the webserver does without the 7 MB of the client's modules.
    """

    def __init__(self, topic: str, endpoint_url: str | None = None) -> None:
        self._topic = topic
        self._endpoint_url = endpoint_url

    @cached_property
    def client(self) -> "SNSClient":
        import boto3
        from botocore.config import Config

        # Short timeouts: a later tick sends a failed message again, and this tick has others to send.
        config = Config(retries={"mode": "standard", "total_max_attempts": 2}, connect_timeout=3, read_timeout=5)
        region = self._topic.split(":")[3]
        return boto3.client("sns", endpoint_url=self._endpoint_url, region_name=region, config=config)

    def send(self, subject: str, body: str) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            self.client.publish(TopicArn=self._topic, Subject=plain_subject(subject), Message=body)
        except (BotoCoreError, ClientError) as error:
            raise NotificationError(
                f"SNS did not accept the message '{subject}' ({error}); it is sent again automatically."
            ) from error


class FileNotifier:
    """A text file, to which messages are appended."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def send(self, subject: str, body: str) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC  {subject}\n\n{body}\n{'-' * 78}\n")
        except OSError as error:
            raise NotificationError(
                f"The message '{subject}' cannot be written to {self._path} ({error}); correct LS4_NOTIFY_FILE."
            ) from error


class LogNotifier:
    """A log event, for alarms and log queries."""

    def send(self, subject: str, body: str) -> None:
        logs.emit("notification", subject=subject, body=body)


class Notifiers:
    """Several notifiers in order. When one fails, the following get nothing, and a later tick sends the message to all again."""

    def __init__(self, *notifiers: Notifier) -> None:
        self._notifiers = notifiers

    def send(self, subject: str, body: str) -> None:
        for notifier in self._notifiers:
            notifier.send(subject, body)


def plain_subject(subject: str) -> str:
    """Returns a subject that SNS accepts: printable ASCII, no line break, at most 100 characters."""
    ascii_ = " ".join(subject.split()).encode("ascii", "replace").decode()
    printable = "".join(char if char.isprintable() else "?" for char in ascii_)
    return printable if len(printable) <= _MAX_SUBJECT_CHARS else f"{printable[: _MAX_SUBJECT_CHARS - 3]}..."
