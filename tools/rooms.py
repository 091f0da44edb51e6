"""Rooms, arrows and circles of the package by folder: `python tools/rooms.py [--root PACKAGE ...]`.

A room of a folder is what stands directly in it: a module or a folder. An arrow goes from a room to another one of the
same folder that it imports. Exits with 1 if there is a circle: rooms that need each other, at whatever distance.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping

import grimp

MOST_ROOMS = {"dictpfl.client": 15, "dictpfl.common": 17}


def arrows(graph: grimp.ImportGraph, folder: str) -> dict[str, set[str]]:
    """Which rooms of a folder each of its rooms imports."""
    rooms = sorted(graph.find_children(folder))
    inside = {room: {room, *graph.find_descendants(room)} for room in rooms}
    home = {module: room for room, modules in inside.items() for module in modules}
    found: dict[str, set[str]] = {}
    for room in rooms:
        imported = {m for module in inside[room] for m in graph.find_modules_directly_imported_by(module)}
        found[room] = {home[module] for module in imported if module in home} - {room}
    return found


def circles(needs: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of rooms that need each other, each sorted."""
    reached = {room: _reached(needs, room) for room in needs}
    groups = {frozenset({room, *(other for other in reached[room] if room in reached[other])}) for room in needs}
    return sorted(sorted(group) for group in groups if len(group) > 1)


def _reached(needs: Mapping[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    waiting = list(needs[start])
    while waiting:
        room = waiting.pop()
        if room not in found:
            found.add(room)
            waiting += needs[room]
    return found


def folders(graph: grimp.ImportGraph, root: str) -> Iterator[str]:
    """The root and all folders in it, outermost first."""
    yield root
    for child in sorted(graph.find_children(root)):
        if graph.find_children(child):
            yield from folders(graph, child)


def main() -> int:
    """Print a line a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", nargs="+", default=["dictpfl"], help="packages to look at")
    roots = parser.parse_args().root
    graph = grimp.build_graph(*roots)
    wrong = 0
    print(f"{'folder':32} {'rooms':>5} {'arrows':>6} {'circles':>7}")
    for root in roots:
        for folder in folders(graph, root):
            needs = arrows(graph, folder)
            found = circles(needs)
            crowded = len(needs) > MOST_ROOMS.get(folder, len(needs))
            wrong += len(found) + crowded
            note = f"  at most {MOST_ROOMS[folder]} wanted" if crowded else ""
            print(f"{folder:32} {len(needs):5} {sum(map(len, needs.values())):6} {len(found):7}{note}")
            for group in found:
                print("  circle: " + ", ".join(room.removeprefix(f"{folder}.") for room in group))
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
