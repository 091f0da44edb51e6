"""Clips of files: the same frames whatever the container, and what is no clip is named."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dictpfl.client.data import films
from dictpfl.client.data.films import frames_of
from dictpfl.client.data.source import load_dataset
from dictpfl.client.data.sources.short_events import drawn_clips
from dictpfl.client.data.videos import BY_PILLOW, chosen, reader, spaced
from dictpfl.common.errors import ConfigError, DataError
from dictpfl.common.settings import Data


def pictures(count: int = 7) -> list[Image.Image]:
    """Frames whose grey says which they are."""
    return [Image.fromarray(np.full((24, 24, 3), 30 * n + 20, dtype=np.uint8)) for n in range(count)]


def written(path: Path, images: list[Image.Image]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lossless = {"lossless": True} if path.suffix == ".webp" else {}
    images[0].save(path, save_all=True, append_images=images[1:], **lossless)
    return path


@pytest.mark.parametrize("ending", [".gif", ".tif", ".webp"])
def test_frames_are_evenly_spaced(tmp_path: Path, ending: str) -> None:
    path = written(tmp_path / f"clip{ending}", pictures())
    found = reader({"frames": 4, "size": 16, "mean": 0, "std": 1})(path)
    assert found.shape == (4, 3, 16, 16)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:, 0, 8, 8] * 255, [20, 80, 140, 200], atol=1.5)


def filmed(
    path: Path,
    images: list[Image.Image],
    codec: str = "mpeg4",
    at: Sequence[int] | None = None,
    **options: str,
) -> Path:
    """A clip of ten frames a second, or with each frame shown at its own tenth of a second."""
    av = pytest.importorskip("av")
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options=options)
        stream.width, stream.height = images[0].size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_image(image)
            frame.pts, frame.time_base = (number if at is None else at[number]), Fraction(1, 10)
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def test_mp4_gives_the_same_frames(tmp_path: Path) -> None:
    path = filmed(tmp_path / "clip.mp4", pictures())
    found = reader({"frames": 4, "size": 16, "mean": 0, "std": 1})(path)
    np.testing.assert_allclose(found[:, 0, 8, 8] * 255, [20, 80, 140, 200], atol=8)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"broken\.mp4"):
        reader({"frames": 4})(broken)


def damaged(content: bytes, rng: np.random.Generator) -> Iterator[bytes]:
    """What a transfer or a disk makes of a file: cut off at any place, and bytes that changed, most of them in its head."""
    yield from (content[: len(content) * n // 60] for n in range(60))
    for _ in range(240):
        changed = np.frombuffer(content, dtype=np.uint8).copy()
        places = rng.integers(0, rng.choice([64, 400, len(content)]), rng.choice([1, 2, 8])) % len(content)
        changed[places] = rng.choice([0, 255, rng.integers(256)], len(places))
        yield changed.tobytes()


@pytest.mark.filterwarnings("ignore")  # Pillow's, of metadata and of large images
@pytest.mark.parametrize("ending", [".gif", ".tif", ".webp", ".mp4", ".avi", ".mkv"])
def test_damaged_files_are_named_or_read(tmp_path: Path, ending: str) -> None:
    rng = np.random.default_rng(5)
    noise = [Image.fromarray(rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)) for _ in range(4)]
    whole = (written if ending in BY_PILLOW else filmed)(tmp_path / f"whole{ending}", noise)
    read, path, refused = reader({"frames": 4, "size": 8}), tmp_path / f"damaged{ending}", 0
    for content in damaged(whole.read_bytes(), rng):
        path.write_bytes(content)
        try:
            assert read(path).shape == (4, 3, 8, 8)
        except DataError as error:
            refused += 1
            assert path.name in str(error)  # noqa: PT017 -- most are read, or refused: which is not said
    assert refused > 30


def test_a_film_that_ends_long_before_it_says_is_named(tmp_path: Path) -> None:
    """The head of an AVI counts its frames; those that are missing are none to repeat the last one for."""
    rng = np.random.default_rng(5)
    images = [Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)) for _ in range(60)]
    whole = filmed(tmp_path / "whole.avi", images, g="10").read_bytes()
    half = tmp_path / "half.avi"
    half.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"half\.avi: it ends after \d+ of the 60 frames"):
        reader({"frames": 8, "size": 16})(half)


def test_an_image_is_no_clip_whatever_its_name(tmp_path: Path) -> None:
    for name in ("still.gif", "still.mp4"):
        if name.endswith(".mp4"):
            pytest.importorskip("av")
        pictures(1)[0].save(tmp_path / name, format="PNG")
        with pytest.raises(DataError, match=rf"{name}: it is an image"):
            reader({"frames": 2})(tmp_path / name)


def test_frames_of_16_bits_are_refused(tmp_path: Path) -> None:
    """Read in 8 bits they would be white nearly everywhere."""
    deep = [Image.fromarray(np.full((24, 24), 3000 * n, dtype=np.uint16)) for n in range(3)]
    with pytest.raises(DataError, match=r"deep\.tif: frames of 16 bits or more"):
        reader({"frames": 2, "size": 8})(written(tmp_path / "deep.tif", deep))


def moving(count: int) -> list[Image.Image]:
    """A bright square on its way over noise: each frame leans on those before it."""
    rng = np.random.default_rng(1)
    frames = [rng.integers(0, 90, (48, 64, 3), dtype=np.uint8) for _ in range(3)]
    found = []
    for n in range(count):
        frame = frames[n * 3 // count].copy()
        frame[n % 32 : n % 32 + 16, n % 48 : n % 48 + 16] = 255
        found.append(Image.fromarray(frame))
    return found


@pytest.mark.parametrize(
    ("ending", "codec", "options"),
    [
        (".mp4", "mpeg4", {"g": "8"}),
        (".mp4", "libx264", {"g": "12", "bf": "2"}),
        (".mkv", "libx264", {"g": "12", "bf": "3", "x264-params": "open-gop=1:scenecut=0"}),
        (".mov", "libx264", {"x264-params": "intra-refresh=1:keyint=15"}),
        (".webm", "libvpx-vp9", {"g": "10", "deadline": "realtime", "cpu-used": "8"}),
        (".mov", "mjpeg", {}),
        (".avi", "mpeg4", {"g": "8", "bf": "2"}),
    ],
)  # fmt: skip
def test_frames_that_are_sought_are_those_that_come_by(
    tmp_path: Path, ending: str, codec: str, options: dict[str, str]
) -> None:
    """Bit for bit, whatever key frames a container has, for few frames, for all, and for more than there are."""
    path = filmed(tmp_path / f"clip{ending}", moving(50), codec, **options)
    for frames in (1, 2, 7, 50, 60):
        choose = partial(chosen, frames=frames)
        sought = frames_of(path, choose)
        passed = films.Film(path, pytest.importorskip("av").open).one_by_one(choose)
        assert len(sought) == frames
        for one, other in zip(sought, passed, strict=True):
            np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def test_only_what_is_wanted_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, decoded = filmed(tmp_path / "clip.mp4", moving(120), "mpeg4", g="10"), []

    def noted(self: films.Deadline, items: Iterable[Any], over: Any = films.Deadline.over) -> Iterator[Any]:
        for item in over(self, items):
            decoded.append(type(item).__name__)
            yield item

    monkeypatch.setattr(films.Deadline, "over", noted)
    assert len(frames_of(path, partial(chosen, frames=4))) == 4
    assert decoded.count("VideoFrame") <= 4 * 10


@pytest.mark.parametrize("ending", [".mp4", ".gif"])
def test_a_file_that_takes_too_long_is_named(tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = (written if ending == ".gif" else filmed)(tmp_path / f"long{ending}", pictures())
    monkeypatch.setattr(films, "LIMIT", -1.0)
    with pytest.raises(DataError, match=rf"long\{ending} takes longer than -1 seconds to read"):
        reader({"frames": 4})(path)


def test_frames_of_uneven_times_are_chosen_by_time(tmp_path: Path) -> None:
    """Six frames in the first half second, one in the second after it."""
    path = filmed(tmp_path / "clip.mp4", pictures(7), at=[0, 1, 2, 3, 4, 5, 16])
    found = reader({"frames": 3, "size": 16, "mean": 0, "std": 1})(path)
    np.testing.assert_allclose(found[:, 0, 8, 8] * 255, [20, 170, 200], atol=8)  # at 0, 8 and 16 tenths
    numbers = chosen(films.Times([0, 33, 67, 100, 133, 167], Fraction(1, 1000)), 3)
    assert numbers == spaced(6, 3), "a clock of milliseconds makes no clip uneven"
    claimed = films.Times(range(1 << 40), Fraction(1, 10))  # by a damaged file: nothing is counted
    assert chosen(claimed, 2) == [0, (1 << 40) - 1]
    assert chosen(claimed, 2, fps=1) == [0, 10]


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".avi", ".gif", ".webp"])
def test_so_many_frames_a_second(tmp_path: Path, ending: str) -> None:
    """Of ten a second five: every other one, and the last again behind the end."""
    if ending in BY_PILLOW:
        lossless = {"lossless": True} if ending == ".webp" else {}
        path, images = tmp_path / f"clip{ending}", pictures()
        images[0].save(path, save_all=True, append_images=images[1:], duration=100, **lossless)
    else:
        path = filmed(tmp_path / f"clip{ending}", pictures())
    found = reader({"frames": 6, "fps": 5, "size": 16, "mean": 0, "std": 1})(path)
    np.testing.assert_allclose(found[:, 0, 8, 8] * 255, [20, 80, 140, 200, 200, 200], atol=8)


def test_a_file_without_times_has_no_frames_a_second(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"still\.tif: it does not say when its frames are shown"):
        reader({"frames": 2, "fps": 5})(written(tmp_path / "still.tif", pictures()))


def test_a_clip_that_was_filmed_upright_is_turned(tmp_path: Path) -> None:
    """As telephones write it: pictures lie on their side, and the track's matrix turns them clockwise."""
    frame = np.zeros((32, 64, 3), dtype=np.uint8)
    frame[:, :32] = 255  # the left half, which is the upper one when it is turned
    path = filmed(tmp_path / "clip.mp4", [Image.fromarray(frame)] * 3)
    content = bytearray(path.read_bytes())
    plain = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    at = content.index(plain, content.index(b"tkhd"))
    content[at : at + len(plain)] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 32 << 16, 0, 1 << 30)
    path.write_bytes(content)
    for image in frames_of(path, partial(chosen, frames=2)):
        assert image.size == (32, 64)
        seen = np.asarray(image.convert("L"))
        assert seen[:30].min() > 200
        assert seen[34:].max() < 55


def test_a_file_without_frames_is_named(tmp_path: Path) -> None:
    """Sound alone, in a container that holds clips otherwise."""
    av = pytest.importorskip("av")
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        for packet in (*stream.encode(frame), *stream.encode()):
            container.mux(packet)
    with pytest.raises(DataError, match=r"sound\.mp4"):
        reader({"frames": 4})(path)


@pytest.mark.parametrize(
    ("count", "frames", "expected"), [(5, 5, [0, 1, 2, 3, 4]), (2, 4, [0, 1, 1, 1]), (9, 3, [0, 4, 8]), (9, 1, [0])]
)
def test_wanted_frames(count: int, frames: int, expected: list[int]) -> None:
    assert spaced(count, frames) == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.gif", b"GIF89a", r"cannot read the clip .*a\.gif"),
        ("a.webp", b"no", r"a\.webp"),
        ("a.txt", b"no", r"a\.txt is no clip"),
        ("b.mp4", b"", r"no clip .*b\.mp4"),
    ],
)
def test_what_is_no_clip_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    if content:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        reader({})(tmp_path / name)


def test_a_folder_for_each_class(tmp_path: Path) -> None:
    for name, first in (("fall", 0), ("rise", 3)):
        for number in range(2):
            written(tmp_path / name / f"{number}.gif", pictures()[first:])
    data = Data(source="videofolder", path=str(tmp_path), options={"frames": 3, "size": 8, "mode": "L"})
    found = load_dataset(data, 1)
    assert found.samples.features.shape == (4, 3, 1, 8, 8)
    assert found.samples.labels.tolist() == [0, 0, 1, 1]
    assert found.class_names == ("fall", "rise")


def test_what_is_left_out_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("fall/1.gif", "rise/1.gif", "2.gif", ".hidden/3.gif"):
        written(tmp_path / name, pictures())
    (tmp_path / "fall" / "notes.txt").write_text("mine")
    data = Data(source="videofolder", path=str(tmp_path), options={"frames": 3, "size": 8, "mode": "L"})
    assert len(load_dataset(data, 1).samples) == 2
    said = capsys.readouterr().out
    assert "none of these samples are left out" in said
    assert "files=2" in said
    assert "2.gif" in said
    more = data.model_copy(update={"options": {**data.options, "classes": ["fall", "rise", "zzz"]}})
    assert load_dataset(more, 1).outputs == 3
    said = capsys.readouterr().out
    assert "classes without a folder" in said, "an institution may have no sample of a class"
    assert "zzz" in said
    few = data.model_copy(update={"options": {**data.options, "classes": ["fall", "rize"]}})
    with pytest.raises(DataError, match=r"has folders rise, which are not in data.options.classes \(fall, rize\)"):
        load_dataset(few, 1)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"frames": 0}, ConfigError, "data.options.frames is 0"),
        ({"frames": True}, ConfigError, "data.options.frames is True"),
        ({"speed": 2}, ConfigError, "unknown speed"),
        ({"fps": -1}, ConfigError, "data.options.fps is -1"),
        ({"fps": "fast"}, ConfigError, "data.options.fps is 'fast'"),
        ({"frames": 1024, "size": 200_000}, DataError, "no clips|take"),
    ],
)
def test_options_say_what_is_wrong(
    tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    if "size" in options:
        (tmp_path / "empty").mkdir()
    else:
        written(tmp_path / "class" / "0.gif", pictures())
    with pytest.raises(error, match=message):
        load_dataset(Data(source="videofolder", path=str(tmp_path), options=options), 1)


def test_clips_that_would_not_fit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "class" / "0.gif", pictures())
    monkeypatch.setattr("os.sysconf", lambda _name: 10)
    with pytest.raises(DataError, match="use fewer frames"):
        load_dataset(Data(source="videofolder", path=str(tmp_path), options={"frames": 2, "size": 8}), 1)


def test_of_two_digits_in_two_scenes_the_first_is_the_label() -> None:
    from sklearn.datasets import load_digits

    options = {"scenes": [2, 4], "distractors": 0, "contrast": 1.0, "everywhere": False, "order": True}
    clips, labels, shown = drawn_clips(7, 40, 10, 3, 4, options)
    known = {label: load_digits().images[load_digits().target == label] / 16.0 for label in range(4)}
    for clip, label, where in zip(clips, labels, shown, strict=True):
        times = [np.flatnonzero(where[:, place]) for place in range(9) if where[:, place].any()]
        both = np.flatnonzero(where.any(axis=1))
        assert 1 <= len(times) <= 2  # two places, or one for both
        assert 2 <= len(both) <= 6
        first = both[0]
        place = int(np.flatnonzero(where[first])[0])
        top, left = 8 * (place // 3), 8 * (place % 3)
        seen = clip[first, 0, top : top + 8, left : left + 8]
        best = min(known, key=lambda n: min(float(np.std(seen - image)) for image in known[n]))
        assert best == label
    again = drawn_clips(7, 40, 10, 3, 4, options)
    np.testing.assert_array_equal(clips, again[0])
    for wrong in ({"scenes": [1, 3]}, {"everywhere": True}):
        with pytest.raises(ConfigError, match="order shows two digits in two scenes"):
            load_dataset(Data(source="short_events", options={"order": True, "count": 2} | wrong), 1)


def test_short_events_show_their_digit_for_three_frames() -> None:
    options = {"scenes": [3, 5], "distractors": 2, "contrast": 1.0, "everywhere": False}
    clips, labels, shown = drawn_clips(5, 6, 12, 3, 4, options)
    assert clips.shape == (6, 12, 1, 24, 24)
    assert set(labels.tolist()) <= {0, 1, 2, 3}
    assert (shown.sum(axis=(1, 2)) == 3).all()
    assert (shown.any(axis=1).sum(axis=1) == 1).all()  # at one place
    again = drawn_clips(5, 6, 12, 3, 4, options)
    np.testing.assert_array_equal(clips, again[0])
