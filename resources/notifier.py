"""How messages reach people: an SNS topic in production, a file on a laptop, and always a line of the log."""

from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from ls4_assets import logs
from ls4_assets.errors import NotificationError

if TYPE_CHECKING:
    from mypy_boto3_sns.client import SNSClient

# SNS's own rule; a longer subject is rejected as a whole.
_LONGEST_SUBJECT = 100


class Notifier(Protocol):
    """Something that takes messages. Raises NotSent when it did not take one, and does not try for long."""

    def send(self, subject: str, body: str) -> None: ...


class SnsNotifier:
    """A topic of SNS: who gets its messages, and how, is its subscriptions' to say."""

    def __init__(self, topic: str, endpoint_url: str | None = None) -> None:
        self._topic = topic
        self._endpoint_url = endpoint_url

    @cached_property
    def client(self) -> "SNSClient":
        # A message that is not taken is sent again at a later tick: this one has others to send.
        config = Config(retries={"mode": "standard", "total_max_attempts": 2}, connect_timeout=3, read_timeout=5)
        region = self._topic.split(":")[3]
        return boto3.client("sns", endpoint_url=self._endpoint_url, region_name=region, config=config)

    def send(self, subject: str, body: str) -> None:
        try:
            self.client.publish(TopicArn=self._topic, Subject=plain_subject(subject), Message=body)
        except (BotoCoreError, ClientError) as error:
            raise NotificationError(f"SNS did not take the message '{subject}' ({error}); it is sent again by itself.") from error


class FileNotifier:
    """A text file that grows, the newest message last."""

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
    """A line of the log, for machines that read it."""

    def send(self, subject: str, body: str) -> None:
        logs.event("notice", subject=subject, body=body)


class Notifiers:
    """Several at once. The first that does not take a message keeps it from the next, so that it is sent to all again."""

    def __init__(self, *notifiers: Notifier) -> None:
        self._notifiers = notifiers

    def send(self, subject: str, body: str) -> None:
        for notifier in self._notifiers:
            notifier.send(subject, body)


def plain_subject(subject: str) -> str:
    """As SNS takes it: printable ASCII, no line break, 100 characters."""
    ascii_ = " ".join(subject.split()).encode("ascii", "replace").decode()
    printable = "".join(char if char.isprintable() else "?" for char in ascii_)
    return printable if len(printable) <= _LONGEST_SUBJECT else f"{printable[: _LONGEST_SUBJECT - 3]}..."
