"""What can go wrong in a set-up, in words."""

from __future__ import annotations

import errno
import re


class SetupError(Exception):
    """Told to the user as it is: what is wrong, and what to do."""

    @classmethod
    def from_os(cls, error: OSError) -> SetupError:
        """The same for an error of the system."""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return cls(DISK_FULL)
        return cls(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "))


def say(line: str) -> None:
    """One line of progress, at once."""
    print(line, flush=True)


AGAIN = "Then run it again: it goes on from here."
DISK_FULL = (
    "the disk is full (see df -h: the checkout's disk, and TMPDIR where pip unpacks).\n"
    f"        Make room, or put the checkout elsewhere. {AGAIN}"
)
# First match wins, so the root cause stands before its consequences.
EXPLANATIONS = [
    (r"No space left on device|Errno 28|Disk quota exceeded|Errno 122", DISK_FULL),
    (
        r"CERTIFICATE_VERIFY_FAILED|SSLError|SSL: ",
        "the package registry's certificate is not trusted here (a company proxy?).\n"
        f"        Tell pip the right one: export PIP_CERT=/path/to/ca.pem. {AGAIN}",
    ),
    (
        r"Proxy Authentication|ProxyError|Cannot connect to proxy",
        "the proxy lets nothing through (HTTPS_PROXY, or pip's proxy setting).\n"
        f"        Correct it. {AGAIN}",
    ),
    (
        r"Failed to establish a new connection|Temporary failure in name resolution"
        r"|Name or service not known|nodename nor servname|Network is unreachable"
        r"|Connection refused|No route to host|Could not fetch URL|ConnectTimeout"
        r"|NewConnectionError|ReadTimeout|Read timed out|Connection reset"
        r"|RemoteDisconnected|ProtocolError|IncompleteRead|Max retries exceeded",
        "the package registry cannot be reached (no network, or a wrong address in\n"
        f"        PIP_INDEX_URL or pip's settings: pip config list). {AGAIN}",
    ),
    (
        r"(?:401|403|407) (?:Client )?Error|40[137] Unauthorized|403 Forbidden",
        "the package registry refuses access. Give pip an address with the right\n"
        f"        name and password (PIP_INDEX_URL). {AGAIN}",
    ),
    (
        r"5\d\d Server Error|HTTP error 5\d\d|Too Many Requests",
        f"the package registry has trouble of its own. Wait a little. {AGAIN}",
    ),
    (
        r"DO NOT MATCH THE HASHES|BadZipFile|is not a valid wheel|Bad CRC"
        r"|Wheel .* is invalid|has an invalid wheel",
        f"a download was damaged. Run: pip cache purge. {AGAIN}",
    ),
    (
        r"Permission denied|Errno 13|Read-only file system|Errno 30",
        f"no permission to write (see the log for the path). {AGAIN}",
    ),
    (
        r"MemoryError|Cannot allocate memory",
        f"memory ran out. Close something. {AGAIN}",
    ),
    (
        r"error: command '[^']*(?:gcc|cc|clang|g\+\+)[^']*' failed|Microsoft Visual C",
        "a package had to be compiled here and could not be. Python 3.10 to 3.13 have\n"
        "        it ready made: make clean; make setup PYTHON=python3.12",
    ),
]


def explain(log: str, status: int) -> str:
    """Why pip failed, from what it printed.

    Arguments
    ---------
    log : str
        Its output.
    status : int
        Its exit status, negative when a signal ended it.

    Returns
    -------
    str
        One or two lines.
    """
    for pattern, explanation in EXPLANATIONS:
        if re.search(pattern, log):
            return explanation
    if status == -9:
        return f"pip was killed (memory ran out, or someone did it). {AGAIN}"
    missing = re.findall(r"No matching distribution found for (\S+)", log)
    if missing:
        return (
            f"the registry has no {missing[-1]} for this Python and machine.\n"
            "        Python 3.10 to 3.13 on 64-bit Linux or an Apple-silicon Mac have "
            "it: make clean; make setup PYTHON=python3.12"
        )
    errors = re.findall(r"^(?:ERROR|error): (.+)$", log, re.MULTILINE)
    return errors[-1] if errors else f"pip ended with status {status}"
