"""Distortions of a query image, used to measure the robustness of rankings."""

import io
import math
from dataclasses import dataclass

from PIL import Image, ImageFilter, ImageOps

WHITE = (255, 255, 255)  # the background that `load_picture` puts behind transparency
NOT_ENCODED = 100  # the JPEG quality that stands for "not encoded as JPEG"

LIMITS: dict[str, tuple[float, float]] = {
    "rotation": (-180, 180),
    "crop": (0, 0.9),
    "blur": (0, 0.1),
    "grey": (0, 1),
    "quality": (1, NOT_ENCODED),
}
"""The minimum and maximum of each attribute of a `Distortion`."""

# Larger images are shrunk first: rotating and blurring 80 megapixels takes half a minute. No feature type looks at
# more pixels than this, and a JPEG quality then has the same effect on the photos of any camera.
WORKING_PIXELS = 2**20
LONGEST = 65_500  # pixels; libjpeg encodes no longer side


@dataclass(frozen=True)
class Distortion:
    """A change to an image; the defaults change nothing. Values lie within `LIMITS`."""

    rotation: float = 0.0  # degrees counter-clockwise; the canvas grows to fit the rotated image, on white
    crop: float = 0.0  # share of width and height that is removed, half of it on each side
    blur: float = 0.0  # standard deviation of a Gaussian, as a share of the shorter side
    grey: float = 0.0  # share of grey mixed in, up to 1 (greyscale), with the luma of ITU-R BT.601
    quality: int = NOT_ENCODED  # JPEG quality at which the image is encoded and decoded again; 100 skips this step

    def apply(self, picture: Image.Image) -> Image.Image:
        """Return a distorted copy of an RGB image, or the image itself if nothing changes.

        The image is cropped first, so that the crop does not count the white corners of the rotation, then shrunk so
        that it has about `WORKING_PIXELS` after the rotation, then changed in the order of the attributes.
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
        rotated_width, rotated_height = rotated_size(width, height, self.rotation)
        scale = min(
            1.0,
            math.sqrt(WORKING_PIXELS / (rotated_width * rotated_height)),
            LONGEST / max(rotated_width, rotated_height),
        )
        if scale == 1:
            return picture.crop(box)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        return picture.resize(size, Image.Resampling.LANCZOS, box, reducing_gap=2.0)


UNDISTORTED = Distortion()


def rotated_size(width: float, height: float, degrees: float) -> tuple[float, float]:
    """Return the width and height of the bounding box of a rotated rectangle."""
    c, s = abs(math.cos(math.radians(degrees))), abs(math.sin(math.radians(degrees)))
    return width * c + height * s, width * s + height * c
