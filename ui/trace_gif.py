"""A trace as a GIF: the canvas after each step, masks with their guess, colours by confidence."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from ui.theme import LIGHT

_ROW, _GAP, _EDGE, _CELL = 34, 5, 18, 30  # pixels
_WIDTH = 900
_MOST_FRAMES = 160
_FRAME_MS, _LAST_MS, _LONGEST_MS = 160, 2500, 12_000
_ENDS = ("<eos>", "<|endoftext|>", "<|eot_id|>", "<|im_end|>")  # where a trace does not say its own


def gif(events: list[dict[str, Any]]) -> bytes:
    """An endless animation, at most about 12 seconds long and of at most 160 frames, of checked events."""
    frames = canvases(events)
    every = -(-len(frames) // _MOST_FRAMES)
    shown = [*frames[:-1:every], frames[-1]]
    longest = max((len(cell["text"]) for frame in frames for cell in frame if not cell["end"]), default=3)
    images = [_draw(events[0].get("prompt") or "", frame, min(max(longest, 3), 12)) for frame in shown]
    each = min(_FRAME_MS, _LONGEST_MS // len(images))
    out = io.BytesIO()
    images[0].save(
        out, "GIF", save_all=True, append_images=images[1:], loop=0, duration=[each] * (len(images) - 1) + [_LAST_MS],
    )
    return out.getvalue()


def canvases(events: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Per step, from the empty canvas on, one cell per position: {text, sure: 0..1 or None, mask, end}."""
    ends = frozenset(events[0].get("ends") or _ENDS)
    length = events[0]["length"]
    standing = {item[0]: _cell(item[1], None, False, ends) for item in events[0].get("locked") or []}
    found = [_with_masks(standing, [], length, ends)]
    for event in (event for event in events if event.get("kind") == "step"):
        for position, token, *rest in event["commits"]:
            standing[position] = _cell(token, rest[0] if rest else None, False, ends)
        for position, token, *_ in event.get("filled") or []:
            standing[position] = _cell(token, None, False, ends)
        found.append(_with_masks(standing, event.get("ghosts") or [], length, ends))
    return found


def _cell(text: str, sure: float | None, mask: bool, ends: frozenset[str]) -> dict[str, Any]:
    return {"text": text, "sure": sure, "mask": mask, "end": text in ends}


def _with_masks(standing: dict[int, dict], ghosts: list, length: int, ends: frozenset[str]) -> list[dict[str, Any]]:
    guessed = {
        item[0]: (item[1], item[2]) for item in ghosts
        if isinstance(item, list) and len(item) > 2 and isinstance(item[1], str) and isinstance(item[2], int | float)
    }
    return [standing.get(i) or _cell(*guessed.get(i, ("", 0)), True, ends) for i in range(length)]


def _draw(prompt: str, cells: list[dict[str, Any]], width: int) -> Image.Image:
    font, small = ImageFont.load_default(17), ImageFont.load_default(13)
    cell = _CELL + 9 * max(0, width - 2)
    columns = max(1, (_WIDTH - 2 * _EDGE) // (cell + _GAP))
    rows = -(-len(cells) // columns)
    image = Image.new("RGB", (_WIDTH, 2 * _EDGE + 30 + rows * (_ROW + _GAP)), LIGHT["surface"])
    draw = ImageDraw.Draw(image)
    draw.text((_EDGE, _EDGE - 4), _shown(prompt.replace("\n", " "), 90), LIGHT["text-soft"], small)
    for index, item in enumerate(cells):
        x = _EDGE + (index % columns) * (cell + _GAP)
        y = _EDGE + 26 + (index // columns) * (_ROW + _GAP)
        box = (x, y, x + cell, y + _ROW)
        if item["mask"]:
            draw.rounded_rectangle(box, 5, LIGHT["surface"], LIGHT["line"])
            ink = _mix(LIGHT["surface"], LIGHT["text"], 0.15 + 0.5 * (item["sure"] or 0))
        else:
            draw.rounded_rectangle(box, 5, _tint(item["sure"]))
            ink = LIGHT["text-soft"] if item["end"] else LIGHT["text"]
        text = _shown("end" if item["end"] else item["text"], width)
        draw.text((x + cell / 2, y + _ROW / 2), text, ink, small if item["end"] else font, anchor="mm")
    return image.quantize(64)


def _tint(sure: float | None) -> str | tuple[int, ...]:
    return LIGHT["surface-2"] if sure is None else _mix(LIGHT["warn-soft"], LIGHT["accent-soft"], sure)


def _shown(text: str, most: int) -> str:
    """What the built-in font can draw, at most so many characters of it."""
    plain = "".join(character if character.isprintable() else "\u00b7" for character in text)
    return plain if len(plain) <= most else plain[: most - 1] + "\u2026"


def _mix(low: str, high: str, share: float) -> tuple[int, ...]:
    share = min(max(share, 0.0), 1.0)
    pairs = [(int(low[i : i + 2], 16), int(high[i : i + 2], 16)) for i in (1, 3, 5)]
    return tuple(round(a + (b - a) * share) for a, b in pairs)
