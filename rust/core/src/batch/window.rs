//! Owns: when the next batch of a lane may leave, as one pure function.
//! Must not know: queues, tensors, who waits, how latency is learned.
//! On failure: open; where nobody knows when an instance will be idle, the next batch waits for an end.

use super::Capacity;

/// A lead is never shorter than this: a timer and a thread are not faster.
const MIN_LEAD_NS: u64 = 200_000;
/// And never longer: what comes meanwhile is better company.
const MAX_LEAD_NS: u64 = 10_000_000;

/// What the decision sees of a lane in which something waits.
#[derive(Debug, Clone, Copy)]
pub(super) struct LaneState {
    /// Its batches in flight
    pub in_flight: u32,
    /// What it may have in flight
    pub capacity: Capacity,
    /// When an instance will be idle for the next batch; `None`: nobody knows
    pub idle_at_ns: Option<u64>,
    /// How long before that the batch leaves
    pub lead_ns: u64,
}

/// When a batch may leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// At once
    Now,
    /// At this time, if nothing happens before
    At(u64),
    /// Not before a batch of the lane ends
    OnCompletion,
}

/// At once when an instance is idle. Otherwise so late that the batch arrives just when one will be: leaving earlier
/// would not run it earlier, only close it to what still comes, be it company or something more urgent. That holds for
/// a full batch and for a near deadline too. Nothing leaves while every slot is taken.
pub(super) fn due(lane: LaneState) -> Due {
    if lane.in_flight >= lane.capacity.slots {
        return Due::OnCompletion;
    }
    if lane.in_flight < lane.capacity.instances {
        return Due::Now;
    }
    match lane.idle_at_ns {
        Some(at_ns) => Due::At(at_ns.saturating_sub(lane.lead_ns)),
        None => Due::OnCompletion,
    }
}

/// How long before an instance is idle the next batch leaves: its way, and twice the usual error of the prediction,
/// but not more than half of what a batch takes.
pub(super) fn lead_ns(way_ns: u64, error_ns: u64, batch_ns: u64) -> u64 {
    let most = (batch_ns / 2).clamp(MIN_LEAD_NS, MAX_LEAD_NS);
    way_ns.saturating_add(error_ns.saturating_mul(2)).clamp(MIN_LEAD_NS, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LANE: LaneState = LaneState {
        in_flight: 1,
        capacity: Capacity { instances: 1, slots: 2 },
        idle_at_ns: Some(1000),
        lead_ns: 100,
    };

    #[test]
    fn an_idle_instance_takes_what_is_there() {
        assert_eq!(due(LaneState { in_flight: 0, ..LANE }), Due::Now);
    }

    #[test]
    fn a_busy_lane_waits_until_just_before_an_instance_is_idle() {
        assert_eq!(due(LANE), Due::At(900));
        assert_eq!(due(LaneState { idle_at_ns: None, ..LANE }), Due::OnCompletion);
    }

    #[test]
    fn nothing_leaves_while_every_slot_is_taken() {
        assert_eq!(due(LaneState { in_flight: 2, ..LANE }), Due::OnCompletion);
    }

    #[test]
    fn a_lead_covers_the_way_and_the_error_within_bounds() {
        assert_eq!(lead_ns(500_000, 100_000, 20_000_000), 700_000);
        assert_eq!(lead_ns(0, 0, 20_000_000), MIN_LEAD_NS);
        assert_eq!(lead_ns(0, 900_000_000, 2_000_000), 1_000_000);
        assert_eq!(lead_ns(0, 900_000_000, 0), MIN_LEAD_NS);
    }
}
