"""Pictures of a guest's screen are read as they are, and keys are those that QEMU knows."""

from __future__ import annotations

import pytest

from veilor.lab import screen


def picture(*colours: tuple[int, int, int]) -> bytes:
    return b"P6\n%d 1\n255\n" % len(colours) + b"".join(bytes(one) for one in colours)


def test_colours_are_counted_also_when_they_are_nearly_so():
    shown = screen.read_ppm(picture((0xFF, 0x8A, 0x80), (0xF5, 0x8A, 0x80), (0xFF, 0x8A, 0x60), (0, 0, 0)))
    assert shown.count_pixels("#ff8a80") == 2
    assert shown.share("#000000") == 0.25
    assert shown.count_pixels("#f0b84a") == 0


def test_a_part_of_the_rows_is_a_picture_of_its_own():
    data = b"P6\n1 4\n255\n" + bytes([1] * 3 + [2] * 3 + [3] * 3 + [4] * 3)
    part = screen.read_ppm(data).rows(0.5, 0.75)
    assert (part.width, part.height, part.rgb) == (1, 1, bytes([3] * 3))


def test_bytes_that_look_like_white_space_are_pixels():
    assert screen.read_ppm(picture((10, 32, 9), (32, 32, 32))).rgb == bytes([10, 32, 9, 32, 32, 32])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"P6\n1 1\n255\n",
        b"P5\n1 1\n255\nabc",
        b"P6\n1 1\n65535\nabcdef",
        picture((1, 2, 3)) + b"x",
        b"\x89PNG\n\n\n\n",
    ],
)
def test_anything_else_is_refused(data):
    with pytest.raises(ValueError):
        screen.read_ppm(data)


def test_what_is_typed_are_keys_of_qemu(monkeypatch):
    pressed = []
    monkeypatch.setattr(screen, "press_keys", lambda _, *keys: pressed.append(keys))
    screen.type_keys(None, "ab 4-\n")
    assert pressed == [("a",), ("b",), ("spc",), ("4",), ("minus",), ("ret",)]
    with pytest.raises(KeyError):
        screen.type_keys(None, "A")
