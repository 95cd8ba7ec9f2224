//! Owns: a tensor's `data` array turned into raw bytes, and raw bytes into JSON values.
//! Must not know: the rest of the request.
//! On failure: closed; a value that the datatype cannot hold is refused, never wrapped or rounded to infinity.

use std::str::FromStr;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use forebay_core::batch::{Datatype, Tensor};
use jiter::{Jiter, Peek};

use super::fault::Fault;
use super::fields::{excerpt, is_number, kind, number_text, syntax};
use super::text;

/// Deepest nesting of arrays in `data`; no tensor has more dimensions.
const MAX_DEPTH: usize = 64;
/// Bytes of a text's length in raw form.
const PREFIX_BYTES: usize = 4;

/// Reads `json`, an array of values that may be nested in any way, as Triton takes it: its `elements` values in order.
/// Cost: linear in the text, one allocation.
pub(super) fn read(json: &[u8], tensor: &str, datatype: Datatype, elements: u64) -> Result<Bytes, Fault> {
    let array = Array { tensor, datatype, elements, json };
    match datatype {
        Datatype::Bool => array.read(|jiter, peek, raw| {
            if !matches!(peek, Peek::True | Peek::False) {
                return Err(array.wrong("`true` or `false`", peek));
            }
            raw.put_u8(u8::from(jiter.known_bool(peek).map_err(syntax)?));
            Ok(())
        }),
        Datatype::Uint8 => array.numbers::<u8>(BufMut::put_u8),
        Datatype::Uint16 => array.numbers::<u16>(BufMut::put_u16_le),
        Datatype::Uint32 => array.numbers::<u32>(BufMut::put_u32_le),
        Datatype::Uint64 => array.numbers::<u64>(BufMut::put_u64_le),
        Datatype::Int8 => array.numbers::<i8>(BufMut::put_i8),
        Datatype::Int16 => array.numbers::<i16>(BufMut::put_i16_le),
        Datatype::Int32 => array.numbers::<i32>(BufMut::put_i32_le),
        Datatype::Int64 => array.numbers::<i64>(BufMut::put_i64_le),
        Datatype::Fp32 => array.numbers::<Finite<f32>>(|raw, value| raw.put_f32_le(value.0)),
        Datatype::Fp64 => array.numbers::<Finite<f64>>(|raw, value| raw.put_f64_le(value.0)),
        Datatype::Bytes => array.read(|jiter, peek, raw| {
            if peek != Peek::String {
                return Err(array.wrong("a string", peek));
            }
            let text = jiter.known_str().map_err(syntax)?;
            let length = u32::try_from(text.len()).map_err(|_| {
                Fault::tensor(format!("tensor `{tensor}` has a text of {} bytes", text.len()))
            })?;
            raw.put_u32_le(length);
            raw.put_slice(text.as_bytes());
            Ok(())
        }),
        Datatype::Fp16 | Datatype::Bf16 => Err(Fault::tensor(format!(
            "tensor `{tensor}` is {datatype}, which JSON does not carry; send it as binary data"
        ))),
    }
}

/// Writes a tensor's values as one flat array.
pub(super) fn write(out: &mut Vec<u8>, tensor: &Tensor) -> Result<(), Fault> {
    let (name, datatype, data) = (tensor.name(), tensor.datatype(), tensor.data());
    out.push(b'[');
    match datatype {
        Datatype::Bool => each::<1>(out, data, |out, [byte]| {
            out.extend_from_slice(if byte == 0 { b"false" } else { b"true" });
        }),
        Datatype::Uint8 => each(out, data, |out, bytes| text::integer(out, u8::from_le_bytes(bytes))),
        Datatype::Uint16 => each(out, data, |out, bytes| text::integer(out, u16::from_le_bytes(bytes))),
        Datatype::Uint32 => each(out, data, |out, bytes| text::integer(out, u32::from_le_bytes(bytes))),
        Datatype::Uint64 => each(out, data, |out, bytes| text::integer(out, u64::from_le_bytes(bytes))),
        Datatype::Int8 => each(out, data, |out, bytes| text::integer(out, i8::from_le_bytes(bytes))),
        Datatype::Int16 => each(out, data, |out, bytes| text::integer(out, i16::from_le_bytes(bytes))),
        Datatype::Int32 => each(out, data, |out, bytes| text::integer(out, i32::from_le_bytes(bytes))),
        Datatype::Int64 => each(out, data, |out, bytes| text::integer(out, i64::from_le_bytes(bytes))),
        Datatype::Fp32 => each(out, data, |out, bytes| text::float(out, f32::from_le_bytes(bytes))),
        Datatype::Fp64 => each(out, data, |out, bytes| text::float(out, f64::from_le_bytes(bytes))),
        Datatype::Bytes => {
            let mut rest = data.as_ref();
            while rest.len() >= PREFIX_BYTES {
                let length = (rest.get_u32_le() as usize).min(rest.len());
                let (element, after) = rest.split_at(length);
                let element = std::str::from_utf8(element).map_err(|_| {
                    Fault::tensor(format!(
                        "output `{name}` holds bytes that are no UTF-8 text; ask for it with `binary_data` true"
                    ))
                })?;
                text::comma_in_array(out);
                text::string(out, element);
                rest = after;
            }
        }
        Datatype::Fp16 | Datatype::Bf16 => {
            return Err(Fault::tensor(format!(
                "output `{name}` is {datatype}, which JSON does not carry; ask for it with `binary_data` true"
            )));
        }
    }
    out.push(b']');
    Ok(())
}

fn each<const N: usize>(out: &mut Vec<u8>, data: &[u8], mut element: impl FnMut(&mut Vec<u8>, [u8; N])) {
    let (elements, _) = data.as_chunks::<N>();
    for bytes in elements {
        text::comma_in_array(out);
        element(out, *bytes);
    }
}

/// A `data` array and what it must hold.
#[derive(Clone, Copy)]
struct Array<'a> {
    tensor: &'a str,
    datatype: Datatype,
    elements: u64,
    json: &'a [u8],
}

// === impl Array ===

impl Array<'_> {
    /// Reads every value by `element`.
    fn read(
        self,
        mut element: impl FnMut(&mut Jiter<'_>, Peek, &mut BytesMut) -> Result<(), Fault>,
    ) -> Result<Bytes, Fault> {
        let Self { tensor, datatype, elements, json } = self;
        // Every value takes at least one character and a comma, so the text bounds what a shape can ask for.
        let fitting = usize::try_from(elements).unwrap_or(usize::MAX).min(json.len() / 2 + 1);
        let size = datatype.element_bytes().unwrap_or(PREFIX_BYTES as u64) as usize;
        let mut raw = BytesMut::with_capacity(fitting * size);
        let mut jiter = Jiter::new(json).with_allow_inf_nan();
        let peek = jiter.peek().map_err(syntax)?;
        if peek != Peek::Array {
            return Err(Fault::tensor(format!(
                "the `data` of tensor `{tensor}` must be an array, not {}",
                kind(peek)
            )));
        }
        let (mut depth, mut found) = (1, 0_u64);
        let mut next = jiter.known_array().map_err(syntax)?;
        loop {
            next = match next {
                None => {
                    depth -= 1;
                    if depth == 0 {
                        break;
                    }
                    jiter.array_step()
                }
                Some(Peek::Array) => {
                    depth += 1;
                    if depth > MAX_DEPTH {
                        return Err(Fault::tensor(format!(
                            "the `data` of tensor `{tensor}` is nested deeper than {MAX_DEPTH} arrays"
                        )));
                    }
                    jiter.known_array()
                }
                Some(peek) => {
                    found += 1;
                    if found > elements {
                        return Err(self.miscounted("more"));
                    }
                    element(&mut jiter, peek, &mut raw)?;
                    jiter.array_step()
                }
            }
            .map_err(syntax)?;
        }
        jiter.finish().map_err(syntax)?;
        if found < elements {
            return Err(self.miscounted(&format!("{found}")));
        }
        Ok(raw.freeze())
    }

    fn numbers<T: FromStr>(self, put: impl Fn(&mut BytesMut, T)) -> Result<Bytes, Fault> {
        self.read(|jiter, peek, raw| {
            if !is_number(peek) {
                return Err(self.wrong("a number", peek));
            }
            let text = number_text(jiter, peek)?;
            let value = text.parse().map_err(|_| {
                let Self { tensor, datatype, .. } = self;
                Fault::tensor(format!(
                    "tensor `{tensor}` carries {}, which {datatype} cannot hold",
                    excerpt(text)
                ))
            })?;
            put(raw, value);
            Ok(())
        })
    }

    fn wrong(self, wanted: &str, peek: Peek) -> Fault {
        let Self { tensor, datatype, .. } = self;
        Fault::tensor(format!("tensor `{tensor}` of {datatype} must hold {wanted}, not {}", kind(peek)))
    }

    fn miscounted(self, found: &str) -> Fault {
        let Self { tensor, elements, .. } = self;
        Fault::tensor(format!("the shape of tensor `{tensor}` asks for {elements} values, but {found} came"))
    }
}

/// A float that is infinite only if its text says so.
struct Finite<F>(F);

impl<F: FromStr + Into<f64> + Copy> FromStr for Finite<F> {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let value: F = text.parse().map_err(|_| ())?;
        if value.into().is_infinite() && !text.ends_with("Infinity") { Err(()) } else { Ok(Self(value)) }
    }
}

#[cfg(test)]
mod tests;
