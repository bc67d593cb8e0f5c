"""Draw the "shapes" detection data set: discs, triangles, squares and stars, in YOLO layout.

    python data/make_shapes.py OUT --seed 0 --train 192 --val 64

writes ``OUT/images/{train,val}/*.jpg``, ``OUT/labels/{train,val}/*.txt`` and ``OUT/shapes.yaml``.

Each image has a varied background, one to seven shapes of the four classes and some distractors (ellipses,
crosses, hexagons, crescents) that belong to no class.  Shapes are painted one over the other; a shape of which less
than 40 % stays visible, being painted over or cut off by the border, is left in the image but not labelled.  A box
is tight to the part of the whole outline inside the image, whether or not something covers a part of it.

Outlines and boxes come from NumPy alone, from a ``RandomState`` (a frozen stream) of their own, so a seed gives the
same labels everywhere; OpenCV draws backgrounds, blurs and encodes, so pixels are the same for one OpenCV version only.
Image ``i`` of a split depends on the seed, the split and ``i`` only: asking for more images leaves the first ones be.

No relative ``path:`` in a data yaml means "beside this file": YOLOv5 v6.0 takes it from the working directory, v6.1
and later from the root of the YOLOv5 checkout.  ``shapes.yaml`` has upstream's customary ``../datasets/shapes`` (right
for a copy of the folder in ``datasets`` beside the checkout); :func:`write_yaml`, or ``--yaml FILE`` on the command
line, writes a file with the absolute path for any other place.

SPDX-License-Identifier: AGPL-3.0-or-later
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

CLASSES = ("disc", "triangle", "square", "star")
DISTRACTORS = ("ellipse", "cross", "hexagon", "crescent")
RELATIVE_PATH = "../datasets/shapes"  # upstream's habit: a "datasets" folder beside the YOLOv5 checkout
SIZE = 320  # image width and height, pixels
SUB = 4  # sub-samples per pixel and axis of an outline
MIN_VISIBLE = 0.4  # a shape of which less is seen gets no label
Rng = np.random.RandomState


def yaml_text(path: str) -> str:
    """Return the text of the data yaml, in the form that YOLOv5 v6.0 to v7.0 all read."""
    return (
        "# Shapes: small drawn detection data set, made by make_shapes.py (AGPL-3.0-or-later).\n"
        "# A relative path counts from the YOLOv5 checkout (v6.0: from the working directory).\n"
        f"path: {path}\ntrain: images/train\nval: images/val\nnc: {len(CLASSES)}\nnames: [{', '.join(CLASSES)}]\n"
    )


def write_yaml(folder: str | Path, yaml_file: str | Path) -> Path:
    """Write to ``yaml_file`` a data yaml that names ``folder`` (images/, labels/) by its absolute path."""
    target = Path(yaml_file)
    quoted = "'" + Path(folder).resolve().as_posix().replace("'", "''") + "'"  # a YAML single-quoted string
    target.write_text(yaml_text(quoted), encoding="utf-8", newline="\n")
    return target


def regular(n: int, turn: float = 0.0, inner: float = 1.0) -> np.ndarray:
    """Return n points on the unit circle; with ``inner`` < 1 the odd ones move inwards (a star)."""
    angle = turn + 2 * np.pi * np.arange(n) / n
    radius = np.where(np.arange(n) % 2, inner, 1.0)
    return np.stack([np.cos(angle), np.sin(angle)], 1) * radius[:, None]


def outline(kind: str, rng: Rng) -> np.ndarray:
    """Return the (n, 2) polygon of one shape, within the unit circle, before it is turned and scaled."""
    squeeze = np.array([1.0, rng.uniform(0.88, 1.0)])
    if kind in ("disc", "ellipse"):
        return regular(64) * (squeeze if kind == "disc" else np.array([1.0, rng.uniform(0.35, 0.6)]))
    if kind == "triangle":
        return regular(3) * np.array([1.0, rng.uniform(0.75, 1.0)])
    if kind in ("square", "hexagon"):
        return regular(4 if kind == "square" else 6, np.pi / 4) * squeeze
    if kind == "star":
        return regular(10, inner=rng.uniform(0.4, 0.5)) * squeeze
    if kind == "cross":
        w = rng.uniform(0.2, 0.35)
        x = np.array([1, 1, w, w, -w, -w, -1, -1, -w, -w, w, w])
        return np.stack([x, np.roll(x, 3)], 1) * 0.9
    a = np.linspace(-np.pi / 2, np.pi / 2, 33)  # crescent: a half circle and, backwards, a flatter arc
    outer = np.stack([np.cos(a), np.sin(a)], 1)
    return np.concatenate([outer, outer[::-1] * np.array([rng.uniform(0.2, 0.5), 1.0])]) - np.array([0.5, 0.0])


def inside(polygon: np.ndarray, xs: np.ndarray, ys: np.ndarray) -> np.ndarray:
    """Return a (len(ys), len(xs)) mask of the grid points inside ``polygon`` (even-odd rule)."""
    odd = np.zeros((len(ys), len(xs)), bool)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, 0), strict=True):
        rows = np.flatnonzero((y0 > ys) != (y1 > ys))
        cut = x0 + (ys[rows] - y0) * (x1 - x0) / (y1 - y0 if y1 != y0 else 1.0)
        odd[rows] ^= xs[None, :] < cut[:, None]
    return odd


def colour(rng: Rng) -> np.ndarray:
    """Return a random BGR colour, rather saturated."""
    hsv = np.array([[[rng.randint(0, 180), rng.randint(40, 256), rng.randint(50, 256)]]], np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0].astype(np.float32)


def ramp(rng: Rng) -> np.ndarray:
    """Return a SIZE x SIZE linear ramp 0..1 in a random direction."""
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) / SIZE - 0.5
    a = rng.uniform(0, 2 * np.pi)
    return np.clip(x * np.cos(a) + y * np.sin(a) + 0.5, 0, 1)


def mix(a: np.ndarray, b: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Blend two colours or images by the weight map ``t`` (0: a, 1: b)."""
    return a + (b - a) * np.clip(t, 0, 1)[..., None].astype(np.float32)


def background(rng: Rng) -> np.ndarray:
    """Return a float BGR background: a gradient, noise texture, checks or stripes, with some clutter lines."""
    a, b = colour(rng), colour(rng)
    b = a + (b - a) * rng.uniform(0.3, 0.9)
    kind = rng.randint(4)
    if kind == 0:
        t = ramp(rng)
    elif kind == 1:
        cells = rng.randint(4, 40)
        t = cv2.resize(rng.rand(cells, cells).astype(np.float32), (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    else:
        y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
        a1, step = rng.uniform(0, np.pi), rng.uniform(9, 45)
        u, v = x * np.cos(a1) + y * np.sin(a1), y * np.cos(a1) - x * np.sin(a1)
        wave = np.sin(np.pi * u / step) * (np.sin(np.pi * v / step) if kind == 2 else 1.0)
        t = wave * step / 2 + 0.5
    image = np.ascontiguousarray(mix(a, b, t))
    for _ in range(rng.randint(0, 9)):
        p, q = rng.randint(-40, SIZE + 40, (2, 2)).tolist()
        cv2.line(image, p, q, colour(rng).tolist(), int(rng.randint(1, 5)), cv2.LINE_AA)
    return np.clip(image, 0, 255)


def fill(rng: Rng, under: np.ndarray) -> np.ndarray:
    """Return the SIZE x SIZE paint of one shape: flat, gradient or stripes, set off from the colour ``under``."""
    a = colour(rng)
    while np.abs(a - under).max() < 60:
        a = colour(rng)
    b, t = a + (colour(rng) - a) * rng.uniform(0.2, 0.7), ramp(rng)
    kind = rng.randint(3)
    if kind == 0:
        return mix(a, a, t)
    return mix(a, b, (t - 0.5) * rng.uniform(2, 5) + 0.5 if kind == 1 else np.sin(t * rng.uniform(60, 200)) * 3 + 0.5)


def small(mask: np.ndarray) -> np.ndarray:
    """Return the coverage 0..1 of each pixel by a sub-sampled mask."""
    return mask.reshape(SIZE, SUB, SIZE, SUB).mean((1, 3))


def draw(geo: Rng, look: Rng) -> tuple[np.ndarray, list[tuple[int, float, float, float, float]]]:
    """Draw an image (forms from ``geo``, paint from ``look``): uint8 BGR, and its labels (class, x, y, w, h)."""
    image = background(look)
    plan = [str(geo.choice(CLASSES)) for _ in range(geo.randint(1, 8))]
    plan += [str(geo.choice(DISTRACTORS)) for _ in range(geo.randint(0, 3))]
    grid = (np.arange(SIZE * SUB) + 0.5) / SUB
    found: list[tuple[int, float, np.ndarray, np.ndarray]] = []  # class, whole area, box, what is still to be seen
    taken: list[np.ndarray] = []
    for i in geo.permutation(len(plan)):
        kind, radius, turn = plan[i], float(np.exp(geo.uniform(np.log(9), np.log(75)))), geo.uniform(0, 2 * np.pi)
        shape = outline(kind, geo) @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) * radius
        may_cover = geo.rand() < 0.35
        for _ in range(20):  # look for a free place; failing that, or now and then at once, take one that overlaps
            centre = geo.uniform(-0.3 * radius, SIZE + 0.3 * radius, 2) if may_cover else geo.uniform(8, SIZE - 8, 2)
            whole = np.concatenate([shape.min(0), shape.max(0)]) + np.tile(centre, 2)
            if may_cover or all((whole[:2] > b[2:]).any() or (whole[2:] < b[:2]).any() for b in taken):
                break
        taken.append(whole)
        fine = inside(shape + centre, grid, grid)
        rows, cols = np.flatnonzero(fine.any(1)), np.flatnonzero(fine.any(0))
        alpha = solid = small(fine)
        if geo.rand() < 0.2 and radius > 14:  # an outline only: cut out the shape scaled down about its centre
            alpha = small(fine & ~inside(shape * geo.uniform(0.55, 0.8) + centre, grid, grid))
        for *_, seen in found:
            seen *= 1 - alpha
        x, y = np.clip(centre, 0, SIZE - 1).astype(int)
        image = mix(image, fill(look, image[y, x]), alpha)
        if kind in CLASSES and len(rows):
            box = np.array([cols[0], rows[0], cols[-1] + 1, rows[-1] + 1]) / (SIZE * SUB)
            (u, v), (p, q) = shape.T, np.roll(shape, -1, 0).T
            area = abs(float((u * q - p * v).sum())) / 2
            found.append((CLASSES.index(kind), area, box, solid.copy()))
    image = cv2.GaussianBlur(image, (0, 0), look.uniform(0.4, 1.3))
    image = image + look.normal(0, look.uniform(0, 9), image.shape)
    labels = []
    for cls, area, (x0, y0, x1, y1), seen in found:
        if seen.sum() >= MIN_VISIBLE * area and min(x1 - x0, y1 - y0) * SIZE >= 6:
            labels.append((cls, (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0))
    return np.clip(image, 0, 255).round().astype(np.uint8), labels


def main() -> None:
    """Write the whole data set."""
    parser = argparse.ArgumentParser(description="Draw the shapes data set (see the top of this file).")
    parser.add_argument("out", type=Path, help="folder to write to; images/ and labels/ are made in it")
    parser.add_argument("--seed", type=int, default=0, help="0 or more (default: 0)")
    parser.add_argument("--train", type=int, default=192, help="number of training images (default: 192)")
    parser.add_argument("--val", type=int, default=64, help="number of validation images (default: 64)")
    parser.add_argument("--yaml", type=Path, help="also write this data yaml, with the absolute path of OUT")
    args = parser.parse_args()
    for number, (split, count) in enumerate((("train", args.train), ("val", args.val))):
        images, labels = args.out / "images" / split, args.out / "labels" / split
        for folder in images, labels:
            folder.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            geo, look = (np.random.RandomState([args.seed, number, i, stream]) for stream in (0, 1))
            image, found = draw(geo, look)
            jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(look.randint(60, 86))])[1]
            (images / f"{i:04d}.jpg").write_bytes(jpeg.tobytes())
            lines = "".join(f"{c} {x:.6f} {y:.6f} {w:.6f} {h:.6f}\n" for c, x, y, w, h in found)
            (labels / f"{i:04d}.txt").write_text(lines, encoding="utf-8", newline="\n")
    (args.out / "shapes.yaml").write_text(yaml_text(RELATIVE_PATH), encoding="utf-8", newline="\n")
    if args.yaml:
        write_yaml(args.out, args.yaml)


if __name__ == "__main__":
    main()
