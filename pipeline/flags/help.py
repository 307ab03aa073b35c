"""The flags as text: ``--help`` of each command, and the README's table."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.flags.flag import Flag
from pipeline.flags.table import FLAGS, default_text


def run_help() -> str:
    """Return ``nightshift run --help``."""
    return job_help("run", FLAGS, "Exit status: 0 done; 2 wrong flags or preflight; 3 the gate refused the results; 1 anything else.")


def job_help(command: str, flags: Sequence[Flag], ending: str) -> str:
    """Return ``--help`` of a command that takes the flags of a run, group by group; ``ending`` says its exit statuses."""
    lines = [f"usage: nightshift {command} --model=DIR --input=FILES --output=DIR [--flag=value …]", ""]
    for group in dict.fromkeys(flag.group for flag in flags):
        lines += [f"{group}:", *_entries([flag for flag in flags if flag.group == group]), ""]
    return "\n".join([*lines, "Apache Beam's own flags (--runner, --direct_num_workers, --project, …) are passed on.", ending])


def command_help(usage: str, flags: Sequence[Flag], ending: str) -> str:
    """Return ``--help`` of a command with few flags of its own."""
    return "\n".join([f"usage: nightshift {usage}", "", *_entries(flags), "", ending])


def _entries(flags: Sequence[Flag]) -> list[str]:
    """Return two lines a flag: what it means, and its values and default."""
    return [
        line
        for flag in flags
        for line in (f"  --{flag.name:<20} {flag.help}", f"    {'':<20} {flag.allowed}; default: {default_text(flag)}")
    ]


def markdown_table() -> str:
    """Return the README's table of flags."""
    rows = [f"| `--{flag.name}` | {flag.help} | {flag.allowed} | {default_text(flag)} |" for flag in FLAGS]
    return "\n".join(["| flag | meaning | value | default |", "|---|---|---|---|", *rows])
