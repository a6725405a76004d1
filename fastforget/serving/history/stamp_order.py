"""The certificates in an answer of a time-stamping authority, in the order that DER asks for.

Authorities that run OpenSSL send them in another one, and strict readers refuse that. Nobody signs their order.
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["in_order"]

_CERTIFICATES = 0xA0  # the tag [0] in SignedData (RFC 5652, section 5.1)


def in_order(reply: bytes) -> bytes:
    """Return an answer with its certificates in order; as it is, where it is something else.

    Args:
        reply: DER of TimeStampResp (RFC 3161, section 2.4.2).

    Returns:
        The answer, of the same length.
    """
    try:
        response = _first(reply, 0, len(reply))
        token = list(_parts(reply, *response[1:]))[1]  # beside the status
        content = list(_parts(reply, *token[1:]))[1]  # beside its type
        signed = _first(reply, *content[1:])
        _, start, end = next(part for part in _parts(reply, *signed[1:]) if part[0] == _CERTIFICATES)
        certificates, begin = [], start
        for _, _, after in _parts(reply, start, end):
            certificates.append(reply[begin:after])
            begin = after
    except (IndexError, StopIteration):
        return reply
    return reply[:start] + b"".join(sorted(certificates)) + reply[end:]


def _first(data: bytes, at: int, end: int) -> tuple[int, int, int]:
    """Return tag, start and end of the content of the element at a place."""
    tag, length, start = data[at], data[at + 1], at + 2
    if length & 0x80:
        size = length & 0x7F
        length, start = int.from_bytes(data[start : start + size], "big"), start + size
    if start + length > end:
        raise IndexError
    return tag, start, start + length


def _parts(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield the elements that stand one after the other."""
    while start < end:
        part = _first(data, start, end)
        yield part
        start = part[2]
