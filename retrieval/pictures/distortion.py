"""What is done to a query picture to see which rankings withstand it."""

import io
import math
from dataclasses import dataclass

from PIL import Image, ImageFilter, ImageOps

WHITE = (255, 255, 255)  # what transparency is laid on, too
NOT_ENCODED = 100  # JPEG quality that leaves the picture as it is

LIMITS: dict[str, tuple[float, float]] = {
    "rotation": (-180, 180),
    "crop": (0, 0.9),
    "blur": (0, 0.1),
    "grey": (0, 1),
    "quality": (1, NOT_ENCODED),
}
"""The least and the largest value of each part of a `Distortion`."""

# A larger picture is shrunk first: turning and blurring 80 megapixels took 26 s, and 0.3 s with this. What is kept is
# far more than any features look at, and a JPEG of one quality does the same harm to a photo of any camera.
WORKING_PIXELS = 2**20
LONGEST = 65_500  # pixels of a side, the most that libjpeg encodes


@dataclass(frozen=True)
class Distortion:
    """How a picture is changed; the defaults change nothing. Values lie within `LIMITS`.

    Attributes:
        rotation: degrees counter-clockwise; the picture is made larger to hold it, on white.
        crop: share of width and height that is cut away, as much on either side.
        blur: standard deviation of a Gaussian as a share of the shorter side.
        grey: share of grey mixed in, up to 1 (no colour left); luma of ITU-R BT.601.
        quality: of a JPEG it is saved as and read again; 100 leaves it as it is.
    """

    rotation: float = 0.0
    crop: float = 0.0
    blur: float = 0.0
    grey: float = 0.0
    quality: int = NOT_ENCODED

    def apply(self, picture: Image.Image) -> Image.Image:
        """Return a changed copy of an RGB picture, or the very picture where nothing is to be changed.

        It is cropped first, so that no white of the rotation counts as picture, then shrunk to at most about
        `WORKING_PIXELS` once it is turned, and then changed in the order of the attributes.
        """
        if self == UNDISTORTED:
            return picture
        picture = self._cropped_and_shrunk(picture)
        if self.rotation:
            picture = picture.rotate(self.rotation, Image.Resampling.BICUBIC, expand=True, fillcolor=WHITE)
        if self.blur:
            picture = picture.filter(ImageFilter.GaussianBlur(self.blur * min(picture.size)))
        if self.grey:
            picture = Image.blend(picture, ImageOps.grayscale(picture).convert("RGB"), self.grey)
        if self.quality < NOT_ENCODED:
            buffer = io.BytesIO()
            picture.save(buffer, "JPEG", quality=self.quality)
            with Image.open(buffer, formats=("JPEG",)) as encoded:
                picture = encoded.convert("RGB")
        return picture

    def _cropped_and_shrunk(self, picture: Image.Image) -> Image.Image:
        x, y = (int(side * self.crop / 2) for side in picture.size)
        box = (x, y, picture.width - x, picture.height - y)
        width, height = box[2] - box[0], box[3] - box[1]
        across, down = turned(width, height, self.rotation)
        scale = min(1.0, math.sqrt(WORKING_PIXELS / (across * down)), LONGEST / max(across, down))
        if scale == 1:
            return picture.crop(box)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        return picture.resize(size, Image.Resampling.LANCZOS, box, reducing_gap=2.0)


UNDISTORTED = Distortion()


def turned(width: float, height: float, degrees: float) -> tuple[float, float]:
    """Return width and height of the upright rectangle that holds a turned one."""
    c, s = abs(math.cos(math.radians(degrees))), abs(math.sin(math.radians(degrees)))
    return width * c + height * s, width * s + height * c
