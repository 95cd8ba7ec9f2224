//! Owns: the fields of an encoded protobuf message, borrowed from it, and the writing of small ones.
//! Must not know: which messages there are.
//! On failure: closed; a message that is cut or malformed anywhere is an error, never a shorter message.
//!
//! Envoy's messages have hundreds of fields, of which a few are needed: read into a tree of owned values, they would
//! cost more than the decision.

use bytes::BufMut;
use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint, encoded_len_varint};

/// The value of one field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    /// A number or a bool
    Varint(u64),
    /// Text, bytes or a message
    Bytes(&'a [u8]),
    /// A fixed number, which nothing here needs
    Fixed,
}

/// The message is cut or is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Gives every field in its order. A message that comes in pieces (a field of it twice) is given as two.
pub(crate) fn fields<'a>(
    mut message: &'a [u8],
    mut take: impl FnMut(u32, Value<'a>) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    while !message.is_empty() {
        let (number, wire) = decode_key(&mut message).map_err(|_| Malformed)?;
        let value = match wire {
            WireType::Varint => Value::Varint(decode_varint(&mut message).map_err(|_| Malformed)?),
            WireType::LengthDelimited => {
                let length = decode_varint(&mut message).map_err(|_| Malformed)?;
                let length = usize::try_from(length).map_err(|_| Malformed)?;
                Value::Bytes(cut(&mut message, length)?)
            }
            WireType::SixtyFourBit => {
                cut(&mut message, 8)?;
                Value::Fixed
            }
            WireType::ThirtyTwoBit => {
                cut(&mut message, 4)?;
                Value::Fixed
            }
            WireType::StartGroup | WireType::EndGroup => return Err(Malformed),
        };
        take(number, value)?;
    }
    Ok(())
}

/// Text, or nothing that can be read.
pub(crate) fn text(bytes: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(bytes).map_err(|_| Malformed)
}

/// How long a text, bytes or message field is when its content is `length` bytes, for field numbers below 16.
pub(crate) fn field_len(length: usize) -> usize {
    1 + encoded_len_varint(length as u64) + length
}

/// The head of a text, bytes or message field; its content follows.
pub(crate) fn put_head(out: &mut impl BufMut, number: u32, length: usize) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(length as u64, out);
}

/// A text, bytes or message field.
pub(crate) fn put_bytes(out: &mut impl BufMut, number: u32, content: &[u8]) {
    put_head(out, number, content.len());
    out.put_slice(content);
}

fn cut<'a>(message: &mut &'a [u8], length: usize) -> Result<&'a [u8], Malformed> {
    let (taken, rest) = message.split_at_checked(length).ok_or(Malformed)?;
    *message = rest;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(message: &[u8]) -> Result<Vec<(u32, Value<'_>)>, Malformed> {
        let mut all = Vec::new();
        fields(message, |number, value| {
            all.push((number, value));
            Ok(())
        })?;
        Ok(all)
    }

    #[test]
    fn every_wire_type_is_read_or_passed_over() {
        let mut message = vec![8, 0x96, 1];
        put_bytes(&mut message, 2, b"ab");
        message.extend([0x19, 1, 2, 3, 4, 5, 6, 7, 8, 0x25, 1, 2, 3, 4]);
        let expected =
            vec![(1, Value::Varint(150)), (2, Value::Bytes(b"ab")), (3, Value::Fixed), (4, Value::Fixed)];
        assert_eq!(read(&message).unwrap(), expected);
    }

    #[test]
    fn a_message_that_is_cut_anywhere_is_an_error() {
        let mut message = vec![8, 0x96, 1];
        let whole = message.len();
        put_bytes(&mut message, 2, b"abc");
        for cut in 1..message.len() {
            assert_eq!(read(&message[..cut]).is_ok(), cut == whole, "{cut}");
        }
        assert_eq!(read(&[0x0b]), Err(Malformed));
        assert_eq!(read(&[0]), Err(Malformed));
    }
}
