"""Asks /health again and again, and writes down how long each answer took.

A process of its own: what its parent does delays nothing here. Each line has the time at which the answer had
come and how long it took, in seconds of the clock that all processes share.
"""

from __future__ import annotations

import http.client
import sys
import time
from urllib.parse import urlsplit

PAUSE = 0.002


def main(url: str) -> None:
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    while True:
        asked = time.monotonic()
        connection.request("GET", "/health")
        connection.getresponse().read()
        answered = time.monotonic()
        print(answered, answered - asked, flush=True)
        time.sleep(PAUSE)


if __name__ == "__main__":
    main(sys.argv[1])
