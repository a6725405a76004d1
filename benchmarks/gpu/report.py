"""What is written about a run: the machine, and a table of its rows."""

from __future__ import annotations

import os
import re
import subprocess
import time
from typing import Any

import torch
from gpu.measuring import Row

import fastforget


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def output_of(*command: str) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout.strip()  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def facts(device: torch.device) -> dict[str, Any]:
    found = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "driver": output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "fastforget": fastforget.__version__,
        "commit": os.environ.get("FASTFORGET_COMMIT") or output_of("git", "rev-parse", "--short", "HEAD"),
        "changed": bool(output_of("git", "status", "--porcelain", "--untracked-files=no")),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_GB": round(properties.total_memory / 1e9, 1),
            "L2_MB": round(getattr(properties, "L2_cache_size", 0) / 1e6, 1),
        }
    return found


def table(about: dict[str, Any], rows: list[Row]) -> str:
    """Return Markdown: what most rows have in common in columns, the rest behind."""
    columns = ("ms", "TFLOP/s", "GB/s", "share", "x", "of forward+backward", "relative error")
    hidden = {*columns, "name", "error", "traceback", "took_s"}
    number = lambda v: "" if v is None else f"{v:.3g}" if isinstance(v, float) else str(v)  # noqa: E731
    lines = [
        f"# {about['device']}",
        "",
        ", ".join(f"{key} {value}" for key, value in about.items() if key != "device"),
        "",
        "*share*: of the rate measured here, of the copy for GB/s, of the product in the same precision for TFLOP/s.",
        "*x*: the time of PyTorch's best way by ours.",
        "",
        "| | " + " | ".join(columns) + " | more |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for row in rows:
        more = ", ".join(f"{k} {number(v)}" for k, v in row.items() if k not in hidden and v is not None)
        more = "; ".join(part for part in (f"**{row['error']}**" if row.get("error") else "", more) if part)
        cells = [row["name"], *(number(row.get(column)) for column in columns), more]
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    return "\n".join(lines) + "\n"
