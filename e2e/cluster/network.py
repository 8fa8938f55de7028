"""The bridge, the kernel settings and the firewall rules of the cluster: make and unmake.

Called by `up.py` and `down.py`; `leftovers.py` looks for what should be gone.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from e2e.cluster.layout import BRIDGE, NODE_IP, POD_CIDR, SYSCTLS

# Replies between two pods of one bridge pass the firewall only with bridge-nf-call-iptables; else Services do not work.
SETTINGS = ("net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables")
MASQUERADE = ["POSTROUTING", "-s", POD_CIDR, "!", "-d", POD_CIDR, "-j", "MASQUERADE"]
FIREWALLS = ("iptables", "ip6tables")
OURS = re.compile(r"\bKUBE-|\bpaddock\b|10\.244\.0\.")


def ip(*args: str, check: bool = True) -> str:
    """Run `ip`; its output."""
    return subprocess.run(["ip", *args], check=check, capture_output=True, text=True).stdout


def setting(name: str) -> Path:
    """The file of a kernel setting."""
    return Path("/proc/sys") / name


def make() -> None:
    """Bridge with the node's address, forwarding, and masquerading of what leaves the machine."""
    if f" {BRIDGE}:" not in ip("-o", "link", "show"):
        ip("link", "add", BRIDGE, "type", "bridge")
    ip("addr", "replace", f"{NODE_IP}/24", "dev", BRIDGE)
    ip("link", "set", BRIDGE, "up")
    if not SYSCTLS.exists():
        present = [name for name in SETTINGS if setting(name).exists()]
        SYSCTLS.write_text(json.dumps({name: setting(name).read_text().strip() for name in present}))
    for name in json.loads(SYSCTLS.read_text()):
        setting(name).write_text("1")
    subprocess.run(["iptables", "-w", "-t", "nat", "-A", *MASQUERADE], check=True)


def saved(firewall: str) -> str:
    """All rules as `iptables-save` prints them; empty if the kernel has no such firewall."""
    return subprocess.run([f"{firewall}-save"], check=False, capture_output=True, text=True).stdout


def our_rules(firewall: str) -> list[str]:
    """The lines of iptables-save that are the cluster's."""
    return [line for line in saved(firewall).splitlines() if line[:1] in "-:" and OURS.search(line)]


def remove_rules(firewall: str) -> None:
    """Take the cluster's chains and rules out by loading the tables without them, each table in one step."""
    text = saved(firewall)
    if not any(OURS.search(line) for line in text.splitlines()):
        return
    kept = [line for line in text.splitlines() if line[:1] not in "-:" or not OURS.search(line)]
    subprocess.run([f"{firewall}-restore", "-w"], input="\n".join(kept) + "\n", text=True, check=True)


def unmake() -> None:
    """Remove the bridge and the rules, and put the kernel's settings back."""
    if f" {BRIDGE}:" in ip("-o", "link", "show"):
        ip("link", "delete", BRIDGE)
    for firewall in FIREWALLS:
        remove_rules(firewall)
    if SYSCTLS.exists():
        for name, value in json.loads(SYSCTLS.read_text()).items():
            setting(name).write_text(value)


def attached() -> list[str]:
    """Links of the cluster: the bridge and what hangs on it."""
    lines = ip("-o", "link", "show").splitlines()
    return [line.split(": ")[1] for line in lines if re.search(rf"\b{BRIDGE}\b", line)]
