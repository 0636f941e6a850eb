"""The queue on SQS through which the bucket tells of its objects. Only what the intake needs of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config

if TYPE_CHECKING:
    from mypy_boto3_sqs.client import SQSClient

# SQS's own limit for one call.
MOST = 10
# One second asks all of SQS's servers; without it an answer may be empty although messages wait.
_WAIT_SECONDS = 1


@dataclass(frozen=True)
class Message:
    """`receipt` deletes it."""

    body: str
    receipt: str


class EventQueue:
    """A message that is not deleted comes again when its visibility timeout ends, and in the end goes to the dead letters."""

    def __init__(self, url: str, region: str | None = None) -> None:
        self._url = url
        self._region = region

    @cached_property
    def client(self) -> "SQSClient":
        config = Config(retries={"mode": "standard", "total_max_attempts": 3}, connect_timeout=4, read_timeout=10)
        return boto3.client("sqs", region_name=self._region, config=config)

    def receive(self) -> list[Message]:
        """Up to MOST messages; none when the queue is empty, or nearly so."""
        found = self.client.receive_message(QueueUrl=self._url, MaxNumberOfMessages=MOST, WaitTimeSeconds=_WAIT_SECONDS)
        return [Message(message["Body"], message["ReceiptHandle"]) for message in found.get("Messages", [])]

    def delete(self, messages: Sequence[Message]) -> None:
        """Those that cannot be deleted come again, which does no harm."""
        entries = [{"Id": str(number), "ReceiptHandle": message.receipt} for number, message in enumerate(messages)]
        if entries:
            self.client.delete_message_batch(QueueUrl=self._url, Entries=entries)  # type: ignore[arg-type]
