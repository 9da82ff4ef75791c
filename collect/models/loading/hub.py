"""Whether the Hugging Face hub can be asked at all, so that nobody without a network waits for its retries."""

import socket
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants


def out_of_reach(source: str) -> bool:
    """Whether a model or dataset can only be one fetched before: it is no folder, the hub's host has no address.

    A host without an address answers nobody, yet each request to it is tried six times, which takes 23 s. A proxy
    looks hosts up itself.
    """
    if Path(source).is_dir() or getproxies().keys() & {"https", "http", "all"}:
        return False
    host = urlsplit(constants.ENDPOINT)
    try:
        return not socket.getaddrinfo(host.hostname, host.port or host.scheme)
    except OSError:
        return True
