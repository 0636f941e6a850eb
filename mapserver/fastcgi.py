"""FastCGI records (protocol version 1): reading requests and responses, and writing a short response.

Only what `dispatcher` needs between nginx and mapserv: one request for each connection, which nginx sends without a body.
"""

import struct
from collections.abc import Collection, Iterator
from enum import IntEnum

_HEADER = struct.Struct(">BBHHBx")  # version, type, request id, content length, padding length
_LONG_LENGTH = struct.Struct(">I")
_REQUEST_ID = 1
_MAX_CONTENT_BYTES = 0xFFFF


class RecordType(IntEnum):
    """The types of records that a server and a responder exchange."""

    BEGIN_REQUEST = 1
    END_REQUEST = 3
    PARAMS = 4
    STDIN = 5
    STDOUT = 6
    STDERR = 7


def read_records(data: bytes | bytearray) -> Iterator[tuple[int, bytes]]:
    """Type and content of the records in `data`. An incomplete record at the end is left out."""
    position = 0
    while position + _HEADER.size <= len(data):
        _version, kind, _request_id, length, padding = _HEADER.unpack_from(data, position)
        start = position + _HEADER.size
        position = start + length + padding
        if position > len(data):
            return
        yield kind, bytes(data[start : start + length])


class RecordFollower:
    """Follows the records of a response that arrives in parts of any size, without keeping them."""

    def __init__(self) -> None:
        self._header, self._kind, self._remaining_bytes = b"", 0, 0

    @property
    def is_at_end(self) -> bool:
        """Whether the record that ends a response has arrived."""
        return self._kind == RecordType.END_REQUEST and not self._header and not self._remaining_bytes

    def add(self, data: bytes) -> None:
        position = 0
        while position < len(data):
            if self._remaining_bytes:
                step = min(self._remaining_bytes, len(data) - position)
                self._remaining_bytes -= step
                position += step
                continue
            part = data[position : position + _HEADER.size - len(self._header)]
            self._header += part
            position += len(part)
            if len(self._header) == _HEADER.size:
                _version, self._kind, _request_id, length, padding = _HEADER.unpack(self._header)
                self._header, self._remaining_bytes = b"", length + padding


def is_complete_request(data: bytes | bytearray) -> bool:
    """Whether `data` ends with the empty STDIN record that closes a request."""
    return any(kind == RecordType.STDIN and not content for kind, content in read_records(data))


def read_parameters(data: bytes | bytearray, names: Collection[bytes]) -> dict[bytes, str]:
    """Those parameters of a request that are in `names`, such as REMOTE_ADDR. Raises ValueError for a malformed list."""
    stream = b"".join(content for kind, content in read_records(data) if kind == RecordType.PARAMS)
    parameters, position, end = {}, 0, len(stream)
    try:
        while position < end:
            # Inline for short lengths, which nearly all are: nginx sends about thirty parameters with each request.
            name_bytes, position = (stream[position], position + 1) if stream[position] < 0x80 else _read_long(stream, position)
            value_bytes, position = (stream[position], position + 1) if stream[position] < 0x80 else _read_long(stream, position)
            value = position + name_bytes
            if (name := stream[position:value]) in names:
                parameters[name] = stream[value : value + value_bytes].decode("latin-1")
            position = value + value_bytes
    except (IndexError, struct.error):
        raise ValueError("A FastCGI parameter list ends too early.") from None
    return parameters


def write_request(parameters: dict[str, str]) -> bytes:
    """A request without a body."""
    pairs = b"".join(_write_pair(name.encode(), value.encode()) for name, value in parameters.items())
    begin = struct.pack(">HB5x", 1, 0)  # as a responder; close the connection after the response
    records = [_write_record(RecordType.BEGIN_REQUEST, begin)]
    records += [_write_record(RecordType.PARAMS, pairs)] if pairs else []
    return b"".join([*records, _write_record(RecordType.PARAMS, b""), _write_record(RecordType.STDIN, b"")])


def write_response(text: str, errors: bytes = b"") -> bytes:
    """A complete response. `text`: CGI header lines, an empty line and the body. `errors`: what the server logs."""
    records = (
        *([_write_record(RecordType.STDERR, errors[:_MAX_CONTENT_BYTES])] if errors else []),
        _write_record(RecordType.STDOUT, text.encode()),
        _write_record(RecordType.STDOUT, b""),
        _write_record(RecordType.END_REQUEST, bytes(8)),
    )
    return b"".join(records)


def _read_long(stream: bytes, position: int) -> tuple[int, int]:
    """A length of four bytes, with the highest bit set, and the position behind it."""
    return _LONG_LENGTH.unpack_from(stream, position)[0] & 0x7FFFFFFF, position + _LONG_LENGTH.size


def _write_pair(name: bytes, value: bytes) -> bytes:
    return b"".join(_LONG_LENGTH.pack(len(part) | 0x80000000) for part in (name, value)) + name + value


def _write_record(kind: RecordType, content: bytes) -> bytes:
    assert len(content) <= _MAX_CONTENT_BYTES
    return _HEADER.pack(1, kind, _REQUEST_ID, len(content), 0) + content
