"""Pictures from strangers: bounded before they are decoded."""

import warnings
from io import BytesIO

from PIL import Image

from capbench.errors import UserError
from capbench.pictures import upright

MAX_BYTES = 10 * 2**20
MAX_PIXELS = 50 * 10**6
"""A telephone's largest pictures; decoded, 150 MB."""
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM")
"""Those that hold pictures: no documents, none that another program would have to open."""
Image.init()  # Pillow knows the rarer ones only then


class Refusal(UserError):
    """What is not done for a client: a sentence, and the HTTP status that says the same."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def read_picture(data: bytes, name: str = "This") -> Image.Image:
    """The RGB picture in an upload.

    Args:
        data: its bytes.
        name: what messages call it.

    Raises:
        Refusal: it is too large, or no picture that can be read.
    """
    if not data:
        raise Refusal(400, "There is no picture in this request: send one, as its body or as a form's file.")
    require_size(len(data))
    try:
        with warnings.catch_warnings(), Image.open(BytesIO(data), formats=FORMATS) as picture:
            warnings.simplefilter("ignore")  # Pillow's own bound, of twice as many pixels, and damaged EXIF data
            width, height = picture.size
            if width * height <= MAX_PIXELS:
                return upright(picture)
    except Exception as error:  # whatever decoders raise over bytes that anybody made up
        too_many = isinstance(error, Image.DecompressionBombError)
        if not too_many:
            raise Refusal(415, f"{name} is no picture that can be read: send a JPEG, PNG, WebP or GIF.") from error
    raise Refusal(413, f"{name} has more than {MAX_PIXELS // 10**6} million pixels: send a smaller one.")


def require_size(length: int) -> None:
    """See that so many bytes are not too many.

    Raises:
        Refusal: they are.
    """
    if length > MAX_BYTES:
        raise Refusal(413, f"An upload may have {MAX_BYTES // 2**20} MB, this one has more: send a smaller picture.")
