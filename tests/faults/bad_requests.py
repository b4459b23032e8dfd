"""Requests as they stand on the wire, none of which a client library would send."""

from __future__ import annotations

import gzip
import zlib

from tests.faults.raw_http import Play, forever, sending

HOST = b"Host: localhost\r\n"
GET = b"GET /health HTTP/1.1\r\n" + HOST
POST = b"POST /sessions HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
END = b"\r\n"
SMUGGLED = b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: smuggled\r\n\r\n"
JSON_CHUNK = b"2\r\n{}\r\n0\r\n\r\n"

# What cannot be read as one request in one way only. Behind it nothing may be read at all.
CONFLICTS = {
    "two lengths": POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "the same length twice": POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "a list of lengths": POST + b"Content-Length: 2, 2\r\n\r\n{}",
    "a signed length": POST + b"Content-Length: +2\r\n\r\n{}",
    "a negative length": POST + b"Content-Length: -2\r\n\r\n{}",
    "a hexadecimal length": POST + b"Content-Length: 0x2\r\n\r\n{}",
    "a length beyond all numbers": POST + b"Content-Length: 99999999999999999999\r\n\r\n{}",
    "a length with a space": POST + b"Content-Length: 2 0\r\n\r\n{}",
    "a length and chunks": POST + b"Content-Length: 7\r\nTransfer-Encoding: chunked\r\n\r\n" + JSON_CHUNK,
    "chunks and a length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 7\r\n\r\n" + JSON_CHUNK,
    "chunks, not the last coding": POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n" + JSON_CHUNK,
    "no chunks": POST + b"Transfer-Encoding: xchunked\r\n\r\n" + JSON_CHUNK,
    "chunks twice": POST + b"Transfer-Encoding: chunked\r\n" * 2 + END + JSON_CHUNK,
    "chunks and identity": POST
    + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n"
    + JSON_CHUNK,
    "a name with a space behind": POST + b"Transfer-Encoding : chunked\r\n\r\n" + JSON_CHUNK,
    "a value with a control": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n" + JSON_CHUNK,
    "a chunk of no size": CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n",
    "a chunk of negative size": CHUNKED + b"-2\r\n{}\r\n0\r\n\r\n",
    "a chunk of size 0x2": CHUNKED + b"0x2\r\n{}\r\n0\r\n\r\n",
    "a chunk beyond all numbers": CHUNKED + b"f" * 17 + b"\r\n{}\r\n0\r\n\r\n",
    "chunks with bare line feeds": CHUNKED + b"2\n{}\n0\n\n",
    "a chunk longer than it says": CHUNKED + b"1\r\n{}\r\n0\r\n\r\n",
    "a line feed in an extension": CHUNKED + b"2;a\nb\r\n{}\r\n0\r\n\r\n",
    "a length in a trailer": CHUNKED + b"2\r\n{}\r\n0\r\nContent-Length: 5\r\n\r\n",
    "too many trailers": CHUNKED + b"2\r\n{}\r\n0\r\n" + b"X-A: b\r\n" * 5000 + END,
    "a folded line": GET + b"X-A: b\r\n c\r\n\r\n",
    "bare line feeds": b"GET /health HTTP/1.1\nHost: localhost\n\n",
    "a bare carriage return": GET + b"X-A: b\rc\r\n\r\n",
    "a NUL in a value": GET + b"X-A: b\0c\r\n\r\n",
    "a NUL in a name": GET + b"X\0A: b\r\n\r\n",
    "a NUL in a path": b"GET /hea\0lth HTTP/1.1\r\n" + HOST + END,
    "a space in a name": GET + b"X A: b\r\n\r\n",
    "no name": GET + b": b\r\n\r\n",
    "200 headers": GET + b"".join(b"X-%d: a\r\n" % n for n in range(200)) + END,
    "no host": b"GET /health HTTP/1.1\r\n\r\n",
    "two hosts": GET + b"Host: elsewhere\r\n\r\n",
    "two content types": POST + b"Content-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}",
    "HTTP/0.9": b"GET /health\r\n",
    "HTTP/1.2": b"GET /health HTTP/1.2\r\n" + HOST + END,
    "HTTP/10.1": b"GET /health HTTP/10.1\r\n" + HOST + END,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
    "TLS": bytes.fromhex("16030100c8010000c40303") + bytes(range(200)),
    "SSH": b"SSH-2.0-OpenSSH_9.0\r\n",
    "zeros": b"\0" * 100,
    "a method in small letters": b"get /health HTTP/1.1\r\n" + HOST + END,
    "no path": b"GET health HTTP/1.1\r\n" + HOST + END,
    "bytes in a path": b"GET /sessions/\xff HTTP/1.1\r\n" + HOST + END,
    "a port that is none": b"GET http://localhost:99999999/health HTTP/1.1\r\n" + HOST + END,
    "half an address": b"GET http://[/health HTTP/1.1\r\n" + HOST + END,
    "no method": b"G" * 9000 + b" /health HTTP/1.1\r\n" + HOST + END,
}
TOO_LARGE = {
    "a line too long": GET + b"X-A: " + b"a" * 9000 + b"\r\n\r\n",
    "a name too long": GET + b"a" * 9000 + b": b\r\n\r\n",
    "a path too long": b"GET /health?" + b"a" * 10**6 + b" HTTP/1.1\r\n" + HOST + END,
    "a head too large": GET + b"".join(b"X-%d: %s\r\n" % (n, b"a" * 8000) for n in range(100)) + END,
}
# What is unusual, and plain all the same: it is answered, and so is what stands behind it.
ODDITIES = {
    "absolute": (b"GET http://localhost/health HTTP/1.1\r\n" + HOST + END, 200),
    "OPTIONS *": (b"OPTIONS * HTTP/1.1\r\n" + HOST + END, 404),
    "CONNECT": (b"CONNECT localhost:80 HTTP/1.1\r\n" + HOST + END, 404),
    "websocket": (GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 200),
    "h2c": (
        GET + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n\r\n",
        200,
    ),
    "lines before": (b"\r\n\r\n" + GET + END, 200),
    "a body of a GET": (GET + b"Content-Length: 5\r\n\r\nhello", 200),
    "an expectation": (GET + b"Expect: a miracle\r\n\r\n", 200),
    "an expectation of nothing": (b"GET /nowhere HTTP/1.1\r\n" + HOST + b"Expect: a miracle\r\n\r\n", 417),
}

BEGUN = POST + b"Content-Length: 1000\r\n\r\n"
EXPECTING = POST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n"
# What never ends, and how it is answered; None: there is nothing that could be answered.
SLOW: dict[str, tuple[Play, tuple[int, str] | None]] = {
    "nothing": (sending(), None),
    "half a head": (sending(GET), None),
    "a head byte by byte": (sending(*(bytes([byte]) for byte in GET * 20), every=0.2), None),
    "empty lines": (forever(b"", END, every=0.2), None),
    "half a body": (sending(BEGUN + b"{"), (408, "request_timeout")),
    "a body byte by byte": (forever(BEGUN, b" ", every=0.2), (408, "request_timeout")),
    "chunks of a byte": (forever(CHUNKED, b"1\r\n \r\n" * 10, every=0.02), (408, "request_timeout")),
    "half a chunk": (sending(CHUNKED + b"5\r\n{"), (408, "request_timeout")),
    "half the size of a chunk": (sending(CHUNKED + b"5"), (408, "request_timeout")),
    "an extension of a chunk": (forever(CHUNKED + b"5;", b"a" * 100, every=0.05), (408, "request_timeout")),
    "nothing after 100 Continue": (sending(EXPECTING), (408, "request_timeout")),
    "a body that has no end": (
        forever(CHUNKED, b"10000\r\n" + b" " * 65536 + b"\r\n"),
        (413, "body_too_large"),
    ),
    "a body far too long": (
        forever(POST + b"Content-Length: 9999999999\r\n\r\n", b" " * 65536),
        (413, "body_too_large"),
    ),
}
ENDLESS = {"a body that has no end", "a body far too long"}
# Of these a little more may come while the connection is closed.
GOES_ON = {"a body byte by byte", "chunks of a byte", "an extension of a chunk"}


def bombs() -> dict[str, tuple[bytes, bytes]]:
    """The coding and the body: 64 MiB of spaces in a thousandth of them, and that once more."""
    spaces = b" " * 2**26
    packed = gzip.compress(spaces)
    return {
        "gzip": (b"gzip", packed),
        "deflate": (b"deflate", zlib.compress(spaces)),
        "gzip of gzip": (b"gzip", gzip.compress(packed)),
        "said to be gzip of gzip": (b"gzip, gzip", gzip.compress(packed)),
        "br": (b"br", packed),
        "zstd": (b"zstd", packed),
    }


BOMBS = bombs()
