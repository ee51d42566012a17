"""Recognise files that are not read as images, by their first bytes."""

from __future__ import annotations

HEAD_BYTES = 64
"""Number of first bytes that tell the format."""

_BRANDS = {b"heic": "HEIC", b"heix": "HEIC", b"hevc": "HEIC", b"heim": "HEIC", b"heis": "HEIC", b"avif": "AVIF"}
_BRANDS |= {b"avis": "AVIF", b"mif1": "HEIF", b"msf1": "HEIF", b"crx ": "Canon CR3"}
"""Formats by brand of an ISO media file (ISO/IEC 14496-12); the special brands stand before the general HEIF."""
_BEGINNINGS = {
    b"\x76\x2f\x31\x01": "OpenEXR",
    b"#?RADIANCE": "Radiance HDR",
    b"#?RGBE": "Radiance HDR",
    b"PF\n": "PFM",
    b"Pf\n": "PFM",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL \r\n\x87\n": "JPEG XL",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"8BPS": "a Photoshop file",
    b"%PDF": "a PDF file",
    b"%!PS": "PostScript",
    b"PK\x03\x04": "a ZIP archive",
}
_MARKUP = {b"<svg": "SVG", b"<html": "a web page", b"<!doctype html": "a web page"}


def why_unread(head: bytes) -> str:
    """Explain why a file is no image that is read; the text continues a sentence about the file.

    Args:
        head: First `HEAD_BYTES` bytes of the file, or all of a smaller one.

    >>> why_unread(b""), why_unread(b"hello")
    ('it is empty', 'it is no image')
    """
    if not head:
        return "it is empty"
    name = next((name for start, name in _BEGINNINGS.items() if head.startswith(start)), None) or _of_brand(head)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    name = name or next((name for start, name in _MARKUP.items() if text.startswith(start)), None)
    return f"it is {name}, which is not read; save it as JPEG or PNG" if name else "it is no image"


def _of_brand(head: bytes) -> str | None:
    """Return the format of an ISO media file, by its major brand, then by those it is compatible with."""
    if head[4:8] != b"ftyp":
        return None
    brands = {head[start : start + 4] for start in range(8, len(head), 4)}
    return next((name for brand, name in _BRANDS.items() if brand in brands), None)
