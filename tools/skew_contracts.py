"""Turns the contracts into those of a release to come: one more field in every message, sent in every gRPC message.

For tests of mixed versions, inside an image build (`--build-arg CONTRACTS=next`): first over `proto`, then over what
was generated from it. Never run it on a working tree; it changes files in place.
"""

import re
import sys
from pathlib import Path

FIELD = "added_in_next_release"
NUMBER = 18000
"""Far above what any message uses; below protobuf's own reserved numbers (19000 to 19999)."""
VALUE = b"from the next release"

_MESSAGE = re.compile(r"^ *message \w+ \{", re.MULTILINE)
_SERIALIZER = re.compile(
    r"(?P<what>request_serializer|response_serializer)=(?P<from>[\w.]+)\.SerializeToString"
)
_SENDS_MORE = '''

def _with_added_field(message):
    """The message as the next release would send it."""
    return message.SerializeToString() + {field!r}
'''


def add_field(text: str) -> str:
    """A .proto file's text with one more field in each of its messages."""
    return _MESSAGE.sub(rf"\g<0> string {FIELD} = {NUMBER};", text)


def send_field(text: str) -> str:
    """A generated `_pb2_grpc.py` whose messages all carry the field: later ones win, so appending sets it."""
    text, changed = _SERIALIZER.subn(r"\g<what>=_with_added_field", text)
    if not changed:
        return text
    start = text.index("\nclass ")
    return text[:start] + _SENDS_MORE.format(field=_wire()) + "\n" + text[start:]


def _wire() -> bytes:
    """The field on the wire: tag (length-delimited), length, value."""
    return _varint(NUMBER << 3 | 2) + _varint(len(VALUE)) + VALUE


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def main() -> None:
    """Change every contract under the folder named on the command line."""
    folder = Path(sys.argv[1])
    for pattern, change in (
        ("contracts/**/*.proto", add_field),
        ("contracts/**/*_grpc.py", send_field),
    ):
        for path in sorted(folder.glob(pattern)):
            path.write_text(change(path.read_text()))


if __name__ == "__main__":
    main()
