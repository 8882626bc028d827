"""What a benchmark ran on: processor, memory, versions. Nothing that names one machine."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeAlias

Machine: TypeAlias = dict[str, Any]

# What decides the speed of 8-, 16- and 32-bit arithmetic, as /proc/cpuinfo calls it.
INSTRUCTION_SETS = (
    ("avx2", "AVX2"),
    ("avx512f", "AVX-512"),
    ("avx512_vnni", "AVX-512 VNNI"),
    ("avx512_bf16", "AVX-512 BF16"),
    ("amx_bf16", "AMX BF16"),
    ("amx_int8", "AMX INT8"),
    ("asimd", "NEON"),
    ("sve", "SVE"),
)
LIBRARIES = (
    "tellapart",
    "numpy",
    "openvino",
    "pillow",
    "simplejpeg",
    "kornia_rs",
    "torch",
    "torchvision",
    "timm",
)


def describe() -> Machine:
    """Describe machine and software as plain JSON types; the load is what others caused before."""
    facts = _cpu_facts()
    flags = set(facts.get("flags", facts.get("Features", "")).split())
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": facts.get("model name") or platform.processor() or platform.machine(),
        "cores": _cores(),
        "instruction_sets": [name for flag, name in INSTRUCTION_SETS if flag in flags],
        "memory_gb": _memory_gb(),
        "load_1_min": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version()}
        | {name: found for name in LIBRARIES if (found := _version(name))},
    }


def in_words(machine: Machine) -> str:
    """Say what `describe` found in two lines."""
    versions = (f"{name} {found}" for name, found in machine["versions"].items())
    return (
        f"{machine['processor']}, {machine['cores']} cores, "
        f"{', '.join(machine['instruction_sets'])}, {machine['memory_gb']} GB; "
        f"load before the run {machine['load_1_min']}; {machine['date']}\n{', '.join(versions)}"
    )


def _cpu_facts() -> dict[str, str]:
    """Read the first processor's facts; empty where the system has no such file."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    first = path.read_text(encoding="utf-8").split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _cores() -> int | None:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _memory_gb() -> float | None:
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return None
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    print(in_words(describe()))
