"""`strobe doctor`: the lab's doctor, printed."""

from __future__ import annotations

import argparse

from strobe.cli.screen import show_table
from strobe.lab.doctor import Check, examine, facts
from strobe.rooms import ROOMS


def run(arguments: argparse.Namespace) -> int:
    """Prints facts, rooms and comparisons; 1 if a room is wrong."""
    known = facts()
    width = max(len(what) for what, _ in known)
    for what, answer in known:
        print(f"  {what.ljust(width)}  {answer}")
    checks = list(examine())
    print()
    for room in ROOMS:
        print(f"  {_verdict(room, [check for check in checks if check.room == room])}")
    ran = [check for check in checks if check.ran]
    shown = ran if arguments.all else _worst(ran)
    print()
    headings = ["problem", "room", "dtype", "error", "plain's", "of what is allowed", ""]
    show_table(headings, [_line(check) for check in shown], _title(arguments.all, len(ran)))
    wrong = [check for check in checks if not check.passed]
    for check in wrong:
        print(f"\nwrong: {check.room}, {check.trial}, {check.dtype}: {check.why}")
    print(f"\n{'Every room that runs here is right.' if not wrong else f'{len(wrong)} comparison(s) failed.'}")
    return 1 if wrong else 0


def _title(everything: bool, ran: int) -> str:
    shown = "all" if everything else "the worst of each room and problem, of"
    return f"errors against float64, ‖found − truth‖ / ‖truth‖; {shown} {ran} comparisons"


def _verdict(room: str, checks: list[Check]) -> str:
    ran = [check for check in checks if check.ran]
    refused = [check for check in checks if not check.ran]
    reasons = "; ".join(dict.fromkeys(reason for check in refused for reason in check.why.split("; ")))
    if not ran:
        return f"{room.ljust(10)} does not run here: {reasons}"
    bad = sum(not check.passed for check in ran)
    verdict = f"{room.ljust(10)} {'right' if not bad else 'WRONG'} on {len(ran) - bad} of {len(ran)}"
    names = list(dict.fromkeys(check.trial for check in refused))
    return verdict + (f"; does not take {', '.join(names)}: {reasons}" if refused else "")


def _worst(ran: list[Check]) -> list[Check]:
    """The comparison nearest to failing, a room and problem."""
    worst = {(check.room, check.trial): check for check in sorted(ran, key=lambda check: check.share)}
    return [worst[key] for key in dict.fromkeys((check.room, check.trial) for check in ran)]


def _line(check: Check) -> list[str]:
    numbers = ["", "", ""] if check.error is None else [f"{check.error:.1e}", f"{check.plain:.1e}", f"{100 * check.share:.0f} %"]
    return [check.trial, check.room, check.dtype, *numbers, "pass" if check.passed else "FAIL"]
