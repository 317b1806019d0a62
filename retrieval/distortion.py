"""What is done to a query picture to see which rankings withstand it."""

import io
from dataclasses import dataclass

from PIL import Image, ImageFilter, ImageOps

WHITE = (255, 255, 255)
NOT_ENCODED = 100  # JPEG quality that leaves the picture as it is


@dataclass(frozen=True)
class Distortion:
    """How a picture is changed; the defaults change nothing.

    Attributes:
        rotation: degrees counter-clockwise, -180 to 180; the picture is made larger to hold it, on white.
        crop: share of width and height that is cut away around the middle, 0 to 0.9.
        blur: standard deviation of a Gaussian as a share of the shorter side, 0 to 0.1.
        grey: share of grey mixed in, 0 to 1 (no colour left).
        quality: of a JPEG it is saved as and read again, 1 to 100; 100 leaves it as it is.
    """

    rotation: float = 0.0
    crop: float = 0.0
    blur: float = 0.0
    grey: float = 0.0
    quality: int = NOT_ENCODED

    def apply(self, picture: Image.Image) -> Image.Image:
        """Return a changed copy of an RGB picture."""
        if self.crop:
            width, height = picture.size
            x, y = int(width * self.crop / 2), int(height * self.crop / 2)
            picture = picture.crop((x, y, width - x, height - y))
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


UNDISTORTED = Distortion()
