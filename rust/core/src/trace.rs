//! Owns: the W3C trace context of a request: continued from the client's, or begun, and sampled or not.
//! Must not know: spans, exporters.
//! On failure: a header that is malformed is as if there were none, as the recommendation asks.

/// Of the trace id, the low 56 bits decide on sampling, so that every replica and every service agrees.
const RANDOM_BITS: u32 = 56;
const PER_MILLION: u128 = 1_000_000;

/// Where a request stands in its trace.
///
/// *Source*: W3C Trace Context, `traceparent` version 00.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// Of the whole trace; never 0
    pub trace_id: u128,
    /// Of the client's span; 0: the trace begins here
    pub parent_span_id: u64,
    /// Of our span; never 0
    pub span_id: u64,
    /// Whether the trace is kept
    pub sampled: bool,
}

// === impl TraceContext ===

impl TraceContext {
    /// The context of request `id`, under the client's `traceparent` where it sent a good one.
    ///
    /// A trace that begins here has the request's id and is sampled by the share; one that the client began is sampled
    /// as the client says.
    pub fn of(id: u128, traceparent: &str, sampled_per_million: u32) -> Self {
        let span_id = nonzero(id as u64 ^ (id >> 64) as u64);
        if let Some((trace_id, parent_span_id, sampled)) = parse(traceparent) {
            return Self { trace_id, parent_span_id, span_id, sampled };
        }
        let trace_id = if id == 0 { 1 } else { id };
        Self { trace_id, parent_span_id: 0, span_id, sampled: sampled(trace_id, sampled_per_million) }
    }

    /// The header that goes on to the upstream: our span is its parent.
    pub fn traceparent(&self) -> String {
        format!("00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, u8::from(self.sampled))
    }
}

fn sampled(trace_id: u128, per_million: u32) -> bool {
    let random = trace_id & ((1 << RANDOM_BITS) - 1);
    random * PER_MILLION < u128::from(per_million) << RANDOM_BITS
}

fn nonzero(id: u64) -> u64 {
    if id == 0 { 1 } else { id }
}

/// Trace id, parent span id and the sampled flag.
fn parse(header: &str) -> Option<(u128, u64, bool)> {
    let mut parts = header.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let version = hex(version, 2)?;
    // Version 255 is forbidden; later ones may say more, but begin the same.
    if version == 0xff || (version == 0 && parts.next().is_some()) {
        return None;
    }
    let (trace_id, parent_id, flags) = (hex(trace, 32)?, hex(parent, 16)? as u64, hex(flags, 2)?);
    (trace_id != 0 && parent_id != 0).then_some((trace_id, parent_id, flags & 1 == 1))
}

/// A number of exactly so many lower-case hex digits.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let right = text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if right { u128::from_str_radix(text, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_clients_trace_goes_on_with_our_span() {
        let context = TraceContext::of(7, CLIENT, 0);
        assert_eq!(context.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
        assert_eq!((context.parent_span_id, context.span_id), (0xb7ad_6b71_6920_3331, 7));
        assert!(context.sampled);
        assert_eq!(context.traceparent(), "00-0af7651916cd43dd8448eb211c80319c-0000000000000007-01");
        assert!(!TraceContext::of(7, &CLIENT.replace("-01", "-00"), 1_000_000).sampled);
    }

    #[test]
    fn what_is_malformed_begins_a_trace() {
        let zeros = CLIENT.replace("b7ad6b7169203331", "0000000000000000");
        let later = format!("cc{}-more", &CLIENT[2..]);
        for bad in ["", "00", &CLIENT.to_uppercase(), &zeros, &CLIENT[..54], &format!("{CLIENT}-x")] {
            let context = TraceContext::of(9, bad, 0);
            assert_eq!((context.trace_id, context.parent_span_id, context.sampled), (9, 0, false), "{bad}");
        }
        assert_ne!(TraceContext::of(9, &later, 0).parent_span_id, 0, "a later version begins the same");
        assert_eq!(TraceContext::of(9, &CLIENT.replacen("00", "ff", 1), 0).parent_span_id, 0);
    }

    #[test]
    fn the_share_is_kept_and_ids_are_never_zero() {
        let ids = (1..=20_000_u128).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835) >> 3);
        let kept = ids.filter(|id| TraceContext::of(*id, "", 10_000).sampled).count();
        assert!((120..300).contains(&kept), "{kept} of 20,000 at 1 %");
        assert!(TraceContext::of(u128::MAX, "", 1_000_000).sampled);
        let zero = TraceContext::of(0, "", 0);
        assert_eq!((zero.trace_id, zero.span_id, zero.sampled), (1, 1, false));
    }
}
