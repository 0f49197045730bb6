"""A folder of one host that others mount over NFS: a server in user space, the kernel's client."""

import shutil
from pathlib import Path

from tests.cluster.hosts.host import Host, Program

FOLDER = "/tmp/shared"
_SETTINGS = f"""
NFS_CORE_PARAM {{
  Protocols = 4; Enable_UDP = false; Enable_NLM = false; Enable_RQUOTA = false;
}}
NFS_KRB5 {{ Active_krb5 = false; }}
NFSv4 {{ Graceless = true; RecoveryRoot = /tmp/nfs; }}
EXPORT {{
  Export_Id = 1; Path = {FOLDER}; Pseudo = /shared; Access_Type = RW; SecType = sys;
  Squash = No_Root_Squash; FSAL {{ Name = VFS; }}
}}
"""


def missing() -> str:
    """Why there can be no NFS here; empty if there can."""
    if not shutil.which("ganesha.nfsd") or not shutil.which("mount.nfs"):
        return "needs an NFS server: apt-get install nfs-ganesha-vfs nfs-common"
    known = Path("/proc/filesystems").read_text().split()
    return "" if "nfs4" in known else "this kernel has no NFS client (modprobe nfs, if it can)"


def serve(host: Host) -> Program:
    """Serve the host's own folder."""
    (host.home / "nfs.conf").write_text(_SETTINGS, encoding="utf-8")
    host.call("sh", "-c", "mkdir -p /tmp/nfs /var/run/ganesha")
    words = ("ganesha.nfsd", "-F", "-f", "nfs.conf", "-L", "/dev/stdout", "-p", "/tmp/nfs/pid")
    server = host.start("nfs", *words)
    server.printed(120, "NFS SERVER INITIALIZED")
    return server


def mount(host: Host, server: str) -> None:
    """Mount it in the same place, over what the host has there."""
    host.call("mount", "-t", "nfs4", f"{server}:/shared", FOLDER)
    host.altered = True
