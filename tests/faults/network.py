"""Two hosts on one machine: Linux network namespaces with a link that can be cut."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

#: IP and MAC addresses of the two ends, and a MAC address that neither has.
ADDRESSES = ("10.77.0.1", "10.77.0.2")
MACS = ("02:00:00:00:00:01", "02:00:00:00:00:02")
UNUSED_MAC = "02:00:00:00:00:03"
#: The name of the network interface on both hosts.
INTERFACE = "link"


@dataclass(frozen=True)
class NetworkLink:
    """A link between two network namespaces."""

    namespaces: tuple[str, str]

    def cut(self) -> None:
        """Drop every packet in both directions; no program gets an error."""
        self._resolve_to(UNUSED_MAC, UNUSED_MAC)

    def restore(self) -> None:
        self._resolve_to(*MACS)

    def _resolve_to(self, *macs: str) -> None:
        peers = zip(self.namespaces, reversed(ADDRESSES), reversed(macs), strict=True)
        for namespace, address, mac in peers:
            entry = ["to", address, "lladdr", mac, "dev", INTERFACE, "nud", "permanent"]
            ip("-n", namespace, "neighbour", "replace", *entry)


@contextmanager
def network_link() -> Iterator[NetworkLink]:
    """Two namespaces and their link inside the ``with``."""
    link = NetworkLink((f"capdist-{os.getpid()}-0", f"capdist-{os.getpid()}-1"))
    try:
        for namespace in link.namespaces:
            ip("netns", "add", namespace)
            ip("-n", namespace, "link", "set", "lo", "up")
        first, second = (
            ["name", INTERFACE, "address", mac, "netns", namespace]
            for mac, namespace in zip(MACS, link.namespaces, strict=True)
        )
        ip("link", "add", *first, "type", "veth", "peer", *second)
        for namespace, address in zip(link.namespaces, ADDRESSES, strict=True):
            ip("-n", namespace, "address", "add", f"{address}/24", "dev", INTERFACE)
            ip("-n", namespace, "link", "set", INTERFACE, "up")
        link.restore()
        yield link
    finally:
        for namespace in link.namespaces:  # deletes the link as well
            subprocess.run(["ip", "netns", "delete", namespace], check=False, capture_output=True)


def why_unavailable() -> str:
    """Why namespaces can't be made here; empty if they can."""
    if os.geteuid() or shutil.which("ip") is None:
        return "network namespaces need root and iproute2"
    return ""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
