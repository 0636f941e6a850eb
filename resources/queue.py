"""The SQS queue of bucket events. What the messages mean is decided in `ls4_assets/ingest/events.py`."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config

if TYPE_CHECKING:
    from mypy_boto3_sqs.client import SQSClient

# The limit of SQS for one call.
MAX_MESSAGES = 10
# Long polling queries all servers of SQS. Without it a response may be empty although the queue has messages.
_WAIT_SECONDS = 1


@dataclass(frozen=True)
class QueueMessage:
    """A message of the queue. `receipt` is the handle to delete it."""

    body: str
    receipt: str


class EventQueue:
    """An SQS queue. A message that is not deleted is delivered again after its visibility timeout, and finally goes to the
    dead-letter queue."""

    def __init__(self, url: str, region: str | None = None) -> None:
        self._url = url
        self._region = region

    @cached_property
    def client(self) -> "SQSClient":
        config = Config(retries={"mode": "standard", "total_max_attempts": 3}, connect_timeout=4, read_timeout=10)
        return boto3.client("sqs", region_name=self._region, config=config)

    def receive(self) -> list[QueueMessage]:
        """Returns up to MAX_MESSAGES messages; none when the queue is empty or almost empty."""
        response = self.client.receive_message(
            QueueUrl=self._url, MaxNumberOfMessages=MAX_MESSAGES, WaitTimeSeconds=_WAIT_SECONDS
        )
        return [QueueMessage(message["Body"], message["ReceiptHandle"]) for message in response.get("Messages", [])]

    def delete(self, messages: Sequence[QueueMessage]) -> None:
        """Delete the messages. Those that cannot be deleted are delivered again, which is harmless."""
        entries = [{"Id": str(number), "ReceiptHandle": message.receipt} for number, message in enumerate(messages)]
        if entries:
            self.client.delete_message_batch(QueueUrl=self._url, Entries=entries)  # type: ignore[arg-type]
