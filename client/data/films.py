"""Frames of MP4 and the like by PyAV: only wanted ones are decoded, from the key frame before each, wherever packets say where that is."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

from dictpfl.common.errors import ConfigError, DataError

LIMIT = 600.0
"""Seconds that one file may take."""
_WHOLE = 0.95
"""Share of the frames that a header counts which a file has to have: some count those as well that are never shown."""


@dataclass(frozen=True)
class Times:
    """Times of a clip's frames, from its packets.

    Attributes:
        ticks: when each frame is shown, rising, in ticks of the container's clock.
        tick: seconds of one; None where the file does not say.
        keys: when key frames are shown, rising: decoding can begin at them.
    """

    ticks: Sequence[int]
    tick: Fraction | None
    keys: Sequence[int] = ()

    @property
    def is_even(self) -> bool:
        """True where frames follow each other at one rate, up to the rounding of a tick."""
        if isinstance(self.ticks, range):  # a number that a damaged file claims may be any
            return True
        gaps, span = len(self.ticks) - 1, self.ticks[-1] - self.ticks[0]
        return all(abs((later - one) * gaps - span) <= gaps for one, later in pairwise(self.ticks))


Choice = Callable[[Times], Sequence[int]]
"""Numbers of the wanted frames, rising, from the times of all."""


class Deadline:
    """Time until which a file has to be read: a clip of hours, or one that says so, does not stop those behind it."""

    def __init__(self, path: Path) -> None:
        self._path, self._until = path, time.monotonic() + LIMIT

    def over(self, items: Iterable[Any]) -> Iterator[Any]:
        """Hand items on as long as there is time.

        Raises:
            DataError: there is none left; names the file.
        """
        for item in items:
            if time.monotonic() > self._until:
                raise DataError(
                    f"the clip {self._path} takes longer than {LIMIT:g} seconds to read; encode it anew, smaller or with more key frames, cut it, "
                    "or drop it"
                )
            yield item


def frames_of(path: Path, choose: Choice) -> list[Any]:
    """Decode the frames of a clip that are wanted, as images of Pillow, upright.

    Raises:
        ConfigError: PyAV is not installed.
        DataError: a clip that takes longer than `LIMIT`.
        Exception: of any kind, where the file is damaged.
    """
    try:
        import av
    except ImportError as error:
        raise ConfigError(
            f"{path.name} needs PyAV ({error}); run `pip install 'dictpfl[video]'`, or store clips as GIF, WebP or TIFF"
        ) from error
    film = Film(path, av.open)
    times = film.times()
    if times is not None:
        numbers = choose(times)
        found = film.sought(times, numbers)
        if found is not None:
            return [found[number] for number in numbers]
    return film.one_by_one(choose)


class Film:
    """A file that is read from its beginning as often as it takes, and no longer than `LIMIT` in all."""

    def __init__(self, path: Path, opened: Callable[..., Any]) -> None:
        self._path, self._open, self._deadline = path, opened, Deadline(path)

    def times(self) -> Times | None:
        """Times of frames, without decoding one; None where packets do not tell, or are damaged."""
        ticks, keys = [], []
        with self._open(str(self._path)) as container:
            stream = _pictures(container)
            try:
                for packet in self._deadline.over(container.demux(stream)):
                    if packet.is_discard or (packet.pts is None and not packet.size):  # the last one is empty
                        continue
                    if packet.pts is None or packet.is_corrupt:
                        return None
                    ticks.append(packet.pts)
                    if packet.is_keyframe:
                        keys.append(packet.pts)
            except DataError:
                raise
            except Exception:  # noqa: BLE001 -- damaged: what can be read all the same shows when it is decoded
                return None
            tick = stream.time_base
        if not keys or len(set(ticks)) < len(ticks):
            return None
        return Times(sorted(ticks), tick, sorted(keys))

    def sought(self, times: Times, numbers: Sequence[int]) -> dict[int, Any] | None:
        """Decode wanted frames from the key frames before them; None where they are not where packets say."""
        found: dict[int, Any] = {}
        with self._open(str(self._path)) as container:
            stream = _pictures(container)
            decoded, now = self._deadline.over(container.decode(stream)), times.ticks[0] - 1
            for number in sorted(set(numbers)):
                wanted = times.ticks[number]
                at = bisect_right(times.keys, wanted)
                if not at:
                    return None
                if times.keys[at - 1] > max(now, times.keys[0]):
                    container.seek(times.keys[at - 1], stream=stream)
                    decoded = self._deadline.over(container.decode(stream))
                frame = next((one for one in decoded if one.pts is None or one.pts >= wanted), None)
                if frame is None or frame.pts != wanted or frame.is_corrupt:
                    return None
                found[number], now = _upright(frame), wanted
        return found

    def one_by_one(self, choose: Choice) -> list[Any]:
        """Decode from the beginning to the last wanted frame; how many there are is said, or counted before.

        Raises:
            ValueError: no frame can be decoded, a wanted one is damaged, or the file ends long before it says.
        """
        with self._open(str(self._path)) as container:
            stream = _pictures(container)
            count, rate = stream.frames, stream.average_rate
            times = Times(range(count), 1 / rate if rate else None)
            if not count:
                times = self._counted(container, stream)
        numbers = choose(times)
        wanted, held, decoded = {*numbers}, {}, 0
        with self._open(str(self._path)) as container:
            for number, frame in enumerate(self._deadline.over(container.decode(_pictures(container)))):
                decoded = number + 1
                if number in wanted:
                    if frame.is_corrupt:
                        raise ValueError(f"frame {number} is damaged")
                    held[number] = _upright(frame)
                if number >= numbers[-1]:
                    break
        if not held:
            raise ValueError("it has no frames")
        if decoded <= numbers[-1] and decoded < _WHOLE * len(times.ticks):
            raise ValueError(f"it ends after {decoded} of the {len(times.ticks)} frames that it says it has")
        last = max(held)
        return [held.get(number, held[last]) for number in numbers]

    def _counted(self, container: Any, stream: Any) -> Times:
        ticks = [frame.pts for frame in self._deadline.over(container.decode(stream))]
        if not ticks:
            raise ValueError("it has no frames")
        if None in ticks or any(one >= later for one, later in pairwise(ticks)):
            return Times(range(len(ticks)), 1 / stream.average_rate if stream.average_rate else None)
        return Times(ticks, stream.time_base)


def _pictures(container: Any) -> Any:
    if not container.streams.video:
        raise ValueError("it has no frames, only other tracks")
    if container.format.name.endswith("_pipe"):  # so FFmpeg calls single images
        raise ValueError(f"it is an image ({container.format.name.removesuffix('_pipe')}), whatever its name ends in")
    return container.streams.video[0]


def _upright(frame: Any) -> Any:
    """The image of a frame, turned as its file says that it was filmed."""
    turned = int(getattr(frame, "rotation", 0) or 0)
    image = frame.to_image()
    return image.rotate(turned, expand=True) if turned else image
