"""Two hosts on one machine, joined by a cable that can be cut: Linux network namespaces."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

#: Of the two ends. The last card is nobody's.
ADDRESSES = ("10.77.0.1", "10.77.0.2")
CARDS = ("02:00:00:00:00:01", "02:00:00:00:00:02")
NOBODY = "02:00:00:00:00:03"
#: What the card is called on both hosts.
CARD = "cable"


@dataclass(frozen=True)
class Cable:
    """Between two namespaces."""

    hosts: tuple[str, str]

    def cut(self) -> None:
        """Let every packet get lost, in both directions; no program is told."""
        self._reach(NOBODY, NOBODY)

    def mend(self) -> None:
        """Let packets arrive again."""
        self._reach(*CARDS)

    def _reach(self, *cards: str) -> None:
        others = zip(self.hosts, reversed(ADDRESSES), reversed(cards), strict=True)
        for host, address, card in others:
            beyond = ["to", address, "lladdr", card, "dev", CARD, "nud", "permanent"]
            ip("-n", host, "neighbour", "replace", *beyond)


@contextmanager
def cable() -> Iterator[Cable]:
    """The hosts and their cable, while it lasts."""
    found = Cable((f"capdist-{os.getpid()}-0", f"capdist-{os.getpid()}-1"))
    try:
        for host in found.hosts:
            ip("netns", "add", host)
            ip("-n", host, "link", "set", "lo", "up")
        ends = [["name", CARD, "address", card] for card in CARDS]
        places = [["netns", host] for host in found.hosts]
        ip("link", "add", *ends[0], *places[0], "type", "veth", "peer", *ends[1], *places[1])
        for host, address in zip(found.hosts, ADDRESSES, strict=True):
            ip("-n", host, "address", "add", f"{address}/24", "dev", CARD)
            ip("-n", host, "link", "set", CARD, "up")
        found.mend()
        yield found
    finally:
        for host in found.hosts:  # and the cable with them
            subprocess.run(["ip", "netns", "delete", host], check=False, capture_output=True)


def absent() -> str:
    """Why there can't be one; empty where there can."""
    if os.geteuid() or shutil.which("ip") is None:
        return "network namespaces need root and iproute2"
    return ""


def ip(*arguments: str) -> None:
    """Of iproute2.

    Raises:
        CalledProcessError: if it can't.
    """
    subprocess.run(["ip", *arguments], check=True)
