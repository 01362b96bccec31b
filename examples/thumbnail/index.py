"""Makes a thumbnail of the picture in the request: its body, or the file of a form."""

import base64
import io
from email import message_from_bytes

from PIL import Image, ImageOps, UnidentifiedImageError

# Four bytes each while it is made small: 160 MB, and the function has 512.
MOST_PIXELS = 40_000_000
# Pillow's own bound is another one, with an answer of its own.
Image.MAX_IMAGE_PIXELS = None
SIZES = range(16, 1025)


def handler(event, context):
    size = event["queryStringParameters"].get("size", "128")
    if not (size.isascii() and size.isdigit() and len(size) <= 4 and int(size) in SIZES):
        return refusal(400, "size must be 16 to 1024 pixels")
    data = uploaded(event)
    if not data:
        return refusal(400, "send a picture: curl --data-binary @photo.png, or curl -F file=@photo.png")
    try:
        # Reads the head only: how large it is stands there.
        picture = Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "GIF", "WEBP"))
        if picture.width * picture.height > MOST_PIXELS:
            return refusal(413, f"{picture.width} x {picture.height} pixels are more than {MOST_PIXELS}")
        return thumbnail(picture, int(size))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        # What Pillow raises for a picture that is none, or broken off.
        return refusal(415, "not a whole JPEG, PNG, GIF or WebP picture")


def thumbnail(picture, size):
    clear = "A" in picture.getbands() or "transparency" in picture.info
    if picture.mode not in ("L", "RGB", "RGBA"):
        picture = picture.convert("RGBA" if clear else "RGB")
    # In place, and a JPEG is unpacked no larger than is needed.
    picture.thumbnail((size, size))
    # As it was held when it was taken; the small one keeps no metadata, such as where that was.
    small = ImageOps.exif_transpose(picture).convert("RGBA" if clear else "RGB")
    small.info.clear()
    kind = "PNG" if clear else "JPEG"
    out = io.BytesIO()
    small.save(out, kind)
    return {"statusCode": 200, "headers": {"content-type": f"image/{kind.lower()}"}, "body": out.getvalue()}


def uploaded(event):
    body = base64.b64decode(event["body"]) if event["isBase64Encoded"] else event["body"].encode()
    kind = event["headers"].get("content-type", "")
    if not kind.startswith("multipart/form-data"):
        return body
    form = message_from_bytes(b"content-type: " + kind.encode() + b"\r\n\r\n" + body)
    parts = form.get_payload() if form.is_multipart() else []
    return next((part.get_payload(decode=True) for part in parts if part.get_filename()), b"")


def refusal(status, why):
    return {"statusCode": status, "body": f"{why}\n"}
