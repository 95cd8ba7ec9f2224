//! Owns: width and height of a picture in a `data:` URL, read from the few bytes of its header.
//! Must not know: what sizes are used for.
//! On failure: open; whatever is not a well-formed header has no size.
//!
//! Base64 keeps every three bytes in four characters, so any byte is decoded alone: nothing but the header is
//! read of a picture of megabytes, also where a JPEG keeps its size behind other segments.
//! Sources: PNG third edition, 11.2.1; `GIF89a`, 18; RFC 9649 (`WebP`), 2.5 to 2.7; ITU-T T.81 (JPEG), B.2.2.

/// Size of a picture; neither side is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pixels {
    pub(super) width: u32,
    pub(super) height: u32,
}

/// A JPEG has a dozen segments before its frame; more than this many is no picture.
const MOST_SEGMENTS: usize = 512;

/// Size of the picture in this URL: `None` unless it is a base64 `data:` URL of a PNG, GIF, `WebP` or JPEG.
pub(super) fn pixels(url: &str) -> Option<Pixels> {
    let (scheme, rest) = url.split_at_checked(5)?;
    if !scheme.eq_ignore_ascii_case("data:") {
        return None;
    }
    let (media_type, data) = rest.split_once(',')?;
    if !media_type.trim_end().to_ascii_lowercase().ends_with(";base64") {
        return None;
    }
    let file = Base64(data.as_bytes());
    let (width, height) = match file.bytes::<4>(0)? {
        [0x89, b'P', b'N', b'G'] => png(file)?,
        [b'G', b'I', b'F', b'8'] => (file.le16(6)?, file.le16(8)?),
        [b'R', b'I', b'F', b'F'] => webp(file)?,
        [0xFF, 0xD8, 0xFF, _] => jpeg(file)?,
        _ => return None,
    };
    (width > 0 && height > 0).then_some(Pixels { width, height })
}

fn png(file: Base64<'_>) -> Option<(u32, u32)> {
    let header = file.bytes::<4>(12)? == *b"IHDR";
    header.then_some((u32::from_be_bytes(file.bytes(16)?), u32::from_be_bytes(file.bytes(20)?)))
}

fn webp(file: Base64<'_>) -> Option<(u32, u32)> {
    if file.bytes(8)? != *b"WEBP" {
        return None;
    }
    match &file.bytes::<4>(12)? {
        b"VP8 " if file.bytes(23)? == [0x9D, 0x01, 0x2A] => {
            Some((file.le16(26)? & 0x3FFF, file.le16(28)? & 0x3FFF))
        }
        b"VP8L" if file.bytes(20)? == [0x2F] => {
            let bits = u32::from_le_bytes(file.bytes(21)?);
            Some(((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1))
        }
        b"VP8X" => {
            let [w0, w1, w2, h0, h1, h2] = file.bytes(24)?;
            Some((u32::from_le_bytes([w0, w1, w2, 0]) + 1, u32::from_le_bytes([h0, h1, h2, 0]) + 1))
        }
        _ => None,
    }
}

fn jpeg(file: Base64<'_>) -> Option<(u32, u32)> {
    let mut at = 2;
    for _ in 0..MOST_SEGMENTS {
        let [mark, marker] = file.bytes(at)?;
        if mark != 0xFF {
            return None;
        }
        match marker {
            // Fill byte, and markers without a segment.
            0xFF => at += 1,
            0x01 | 0xD0..=0xD7 => at += 2,
            // A frame, of whichever coding: length, precision, height, width. C4, C8 and CC are other things.
            0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF => {
                return Some((file.be16(at + 7)?, file.be16(at + 5)?));
            }
            // The picture begins or ends, and there was no frame.
            0xD8..=0xDA => return None,
            _ => at += 2 + (file.be16(at + 2)?.max(2) as usize),
        }
    }
    None
}

/// Base64 text that is decoded where it is asked for.
#[derive(Clone, Copy)]
struct Base64<'a>(&'a [u8]);

impl Base64<'_> {
    fn bytes<const N: usize>(self, at: usize) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = self.byte(at + index)?;
        }
        Some(bytes)
    }

    fn byte(self, at: usize) -> Option<u8> {
        let first = at / 3 * 4 + at % 3;
        let six = |index: usize| self.0.get(index).and_then(|&character| six_bits(character));
        let pair = u16::from(six(first)?) << 6 | u16::from(six(first + 1)?);
        Some((pair >> (4 - 2 * (at % 3))) as u8)
    }

    fn le16(self, at: usize) -> Option<u32> {
        Some(u32::from(u16::from_le_bytes(self.bytes(at)?)))
    }

    fn be16(self, at: usize) -> Option<u32> {
        Some(u32::from(u16::from_be_bytes(self.bytes(at)?)))
    }
}

/// Value of a character of the standard or the URL-safe alphabet.
fn six_bits(character: u8) -> Option<u8> {
    match character {
        b'A'..=b'Z' => Some(character - b'A'),
        b'a'..=b'z' => Some(character - b'a' + 26),
        b'0'..=b'9' => Some(character - b'0' + 52),
        b'+' | b'-' => Some(62),
        b'/' | b'_' => Some(63),
        _ => None,
    }
}
