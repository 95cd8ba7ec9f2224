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
    pixels_of_base64(data)
}

/// Size of the picture in this base64 text.
pub(super) fn pixels_of_base64(data: &str) -> Option<Pixels> {
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

#[cfg(test)]
mod tests {
    use super::*;

    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    fn url(media_type: &str, file: &[u8]) -> String {
        let mut url = format!("data:{media_type};base64,");
        for chunk in file.chunks(3) {
            let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
            let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
            for index in 0..4 {
                let six = (bits >> (18 - 6 * index) & 0x3F) as usize;
                url.push(if index <= chunk.len() { char::from(ALPHABET[six]) } else { '=' });
            }
        }
        url
    }

    /// Headers of pictures of 640 × 480, as the formats' documents lay them out.
    fn headers() -> Vec<(&'static str, Vec<u8>)> {
        let png =
            [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".as_slice(), &640_u32.to_be_bytes(), &480_u32.to_be_bytes()]
                .concat();
        let gif = b"GIF89a\x80\x02\xE0\x01\xF7".to_vec();
        let lossy = b"RIFF\0\0\0\0WEBPVP8 \0\0\0\0\0\0\0\x9D\x01\x2A\x80\x02\xE0\x41".to_vec();
        let bits: u32 = 0x27F | 0x1DF << 14;
        let lossless = [b"RIFF\0\0\0\0WEBPVP8L\0\0\0\0\x2F".as_slice(), &bits.to_le_bytes()].concat();
        let extended = b"RIFF\0\0\0\0WEBPVP8X\0\0\0\0\0\0\0\0\x7F\x02\0\xDF\x01\0".to_vec();
        let segment = |marker: u8, bytes: usize| {
            [vec![0xFF, marker], ((bytes + 2) as u16).to_be_bytes().to_vec(), vec![7; bytes]].concat()
        };
        let frame = b"\xFF\xC2\x00\x11\x08\x01\xE0\x02\x80\x03".as_slice();
        let jpeg = [
            b"\xFF\xD8".as_slice(),
            &segment(0xE0, 14),
            &segment(0xE1, 60_000),
            b"\xFF",
            &segment(0xC4, 20),
            frame,
        ]
        .concat();
        vec![
            ("png", png),
            ("gif", gif),
            ("webp", lossy),
            ("webp", lossless),
            ("webp", extended),
            ("jpeg", jpeg),
        ]
    }

    #[test]
    fn reads_the_size_of_every_format() {
        for (format, header) in headers() {
            let expected = Some(Pixels { width: 640, height: 480 });
            assert_eq!(pixels(&url(&format!("image/{format}"), &header)), expected, "{format}");
        }
    }

    #[test]
    fn a_header_that_ends_early_or_lies_has_no_size() {
        for (format, header) in headers() {
            for end in 0..header.len().min(40) {
                let cut = pixels(&url("image/x", &header[..end]));
                assert!(cut.is_none() || end > 9 && format == "gif", "{format} cut at {end}: {cut:?}");
            }
        }
        let zero = b"GIF89a\0\0\xE0\x01";
        for url in [
            url("image/gif", zero),
            url("image/bmp", b"BM\x80\x02"),
            url("image/jpeg", &[0xFF, 0xD8, 0xFF, 0xFF, 0xFF]),
            url(
                "image/jpeg",
                &b"\xFF\xD8".iter().copied().chain([0xFF, 0xE0, 0, 2].repeat(1000)).collect::<Vec<_>>(),
            ),
            "https://x.test/a.png".to_owned(),
            "data:image/png,iVBORw0KGgo".to_owned(),
            "data:image/png;base64,*".to_owned(),
            "data:".to_owned(),
            "dat\u{e9}".to_owned(),
            String::new(),
        ] {
            assert_eq!(pixels(&url), None, "{url}");
        }
    }
}
