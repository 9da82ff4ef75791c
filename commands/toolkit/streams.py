"""stdout and stderr of the command line.

On a terminal nothing but printable text comes out, whatever a lake, a model or a message holds; files and pipes get the
bytes as they are. What cannot be written is an error of one sentence, and never taken for success.
"""

import errno
import io
import os
import sys
from typing import Any, TextIO

from ...lake.errors import ConfigError, DiskFullError, LakeError
from ...lake.output.printable import printable

_LINES = "\n\t"


class Bytes(io.RawIOBase):
    """What `sys.stdout.buffer` is to those who write bytes."""

    def __init__(self, text: "Stream") -> None:
        self._text = text

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: Any) -> int:
        """Write bytes; on a terminal, what they say as text."""
        if self._text.isatty():
            self._text.write(bytes(data).decode(errors="replace"))
        else:
            self._text.write_bytes(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Pass on what is buffered."""
        self._text.flush()


class Stream(io.TextIOBase):
    """A standard stream that escapes what could steer a terminal; `raw` is the stream itself, for our own bars."""

    def __init__(self, raw: TextIO, name: str) -> None:
        self.raw, self._name = raw, name
        self.buffer = Bytes(self)
        self._terminal = raw.isatty()
        self._failure: LakeError | None = None

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Of the stream itself."""
        return self.raw.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        """Of the stream itself."""
        return self.raw.errors

    def isatty(self) -> bool:
        """Whether somebody looks at it."""
        return self._terminal

    def fileno(self) -> int:
        """Of the stream itself."""
        return self.raw.fileno()

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, text: str) -> int:
        """Write text; on a terminal, with all but line breaks and tabs made printable."""
        self._check()
        try:
            self.raw.write(printable(text, _LINES) if self._terminal else text)
        except OSError as error:
            self._failed(error)
        return len(text)

    def write_bytes(self, data: bytes) -> None:
        """Write bytes behind the text that was written before."""
        self._check()
        try:
            self.raw.flush()
            self.raw.buffer.write(data)
        except OSError as error:
            self._failed(error)

    def flush(self) -> None:
        """Pass on what is buffered."""
        self._check()
        try:
            self.raw.flush()
        except OSError as error:
            self._failed(error)

    def _check(self) -> None:
        """Say a failure again: whoever met it first may have taken it for something else."""
        if self._failure is not None:
            raise self._failure

    def _failed(self, error: OSError) -> None:
        """Nothing more can be written: nobody reads any more, which is no mistake, or there is no room."""
        _discard(self.raw)
        if error.errno == errno.EPIPE:
            raise SystemExit(0) from None
        if self._name == "stderr":
            return  # there is nowhere left to say it
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        self._failure = (
            DiskFullError("The output cannot be written: the disk is full.")
            if full
            else ConfigError(f"The output cannot be written: {error.strerror}.")
        )
        raise self._failure from error


class Closed(io.TextIOBase):
    """A stdout that was closed before the command began."""

    def write(self, text: str) -> int:
        """There is nowhere to write."""
        raise ConfigError("The output cannot be written: stdout is closed. Redirect it to a file or to /dev/null.")

    def fileno(self) -> int:
        """The number that a stdout has; it leads nowhere."""
        return 1

    @property
    def buffer(self) -> "Closed":
        """Bytes have nowhere to go either."""
        return self


def prepare() -> None:
    """Put ours in the place of the standard streams."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # else the next file opened would get its number, and what is printed
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = Closed() if sys.stdout is None else _stream(sys.stdout, "stdout")  # type: ignore[assignment]
    sys.stderr = open(os.devnull, "w") if sys.stderr is None else _stream(sys.stderr, "stderr")  # type: ignore[assignment]


def restore() -> None:
    """Give the streams back: at exit Python flushes them once more, when there is nobody left to catch an error."""
    sys.stdout, sys.stderr = (getattr(stream, "raw", stream) for stream in (sys.stdout, sys.stderr))


def _stream(raw: Any, name: str) -> Stream:
    if isinstance(raw, Stream):
        return raw
    if isinstance(raw, io.TextIOWrapper):
        raw.reconfigure(errors="backslashreplace")  # a lone surrogate, or a sign that the terminal's encoding lacks
    return Stream(raw, name)


def steering(stream: Any) -> TextIO:
    """The stream itself, for a progress bar of ours that moves the cursor."""
    return stream.raw if isinstance(stream, Stream) else stream


def _discard(raw: Any) -> None:
    """Let what is still buffered go to nowhere, so that nothing fails again at exit."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, raw.fileno())
        os.close(null)
    except (OSError, ValueError):
        return
