"""How much memory this machine, or this job's part of it, has left."""

from __future__ import annotations

from pathlib import Path

RESERVE = 2 << 30
SHARE = 0.1
"""Of all memory, what stays free in any case, or `RESERVE` if that is more: workers and evaluations want some, too."""


def room_for(size: int) -> bool:
    """Whether `size` bytes may be taken without need; yes where the system does not say."""
    room = [_of_machine(Path("/proc/meminfo")), _of_group(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))]
    return all(left - size >= max(RESERVE, SHARE * total) for left, total in filter(None, room))


def _of_machine(meminfo: Path) -> tuple[int, int] | None:
    """Available and all bytes."""
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return tuple(int(lines[name].split()[0]) * 1024 for name in ("MemAvailable", "MemTotal"))  # type: ignore[return-value]
    except (OSError, ValueError, KeyError):
        return None


def _of_group(membership: Path, groups: Path) -> tuple[int, int] | None:
    """The same within the limits that a container or a batch system sets (cgroup v2); None without a limit."""
    found = None
    try:
        own = membership.read_text().strip().rpartition("::/")[2]
        for group in (groups / own, *(groups / own).parents):
            if groups not in (group, *group.parents) or not (group / "memory.max").is_file():
                continue
            limit = (group / "memory.max").read_text().strip()
            if limit == "max":
                continue
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            cache = int(stat["active_file"]) + int(stat["inactive_file"])  # given back when it is asked for
            left = int(limit) - int((group / "memory.current").read_text()) + cache
            if found is None or left < found[0]:
                found = left, int(limit)
    except (OSError, ValueError, KeyError):
        return found
    return found
