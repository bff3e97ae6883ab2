"""Draws the map of the world in Equal Earth, and where on it a place is."""

import math
from functools import cache
from importlib.resources import files

# The polynomial of Equal Earth (Šavrič, Patterson, Jenny, 2018).
_A1, _A2, _A3, _A4 = 1.340264, -0.081106, 0.000893, 0.003796
_WIDTH, _HEIGHT = 2.7066299837, 1.3173627592  # of half the globe
WIDE = 1000.0  # of the drawing
TALL = 424.0  # down to 59° south: further there is ice


@cache
def land() -> str:
    """The continents, as the path of an SVG of WIDE by TALL."""
    return files(__package__).joinpath("static/land.svgpath").read_text("ascii").strip()


def place(latitude: float, longitude: float) -> tuple[float, float]:
    """Where a place (in degrees) is on the map: right and down."""
    theta = math.asin(math.sqrt(3) / 2 * math.sin(math.radians(latitude)))
    slope = 9 * _A4 * theta**8 + 7 * _A3 * theta**6 + 3 * _A2 * theta**2 + _A1
    x = 2 * math.sqrt(3) * math.radians(longitude) * math.cos(theta) / (3 * slope)
    y = _A4 * theta**9 + _A3 * theta**7 + _A2 * theta**3 + _A1 * theta
    scale = WIDE / 2 / _WIDTH
    return (x + _WIDTH) * scale, (_HEIGHT - y) * scale
