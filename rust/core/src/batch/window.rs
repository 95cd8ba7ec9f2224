//! Owns: when the head of a queue may leave: the whole of the thin path's waiting policy, as one pure function.
//! Must not know: queues, tensors, who waits. Priorities, deadlines and predicted latency change this file alone.
//! On failure: not applicable.

/// How much a lane may have in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Batches that run at the same time: the model's instances over all endpoints
    pub instances: u32,
    /// Batches that may be in flight: the instances and one for each endpoint, so that none waits for the wire
    pub slots: u32,
}

/// What the decision sees of one queue and its lane.
#[derive(Debug, Clone, Copy)]
pub struct QueueView {
    /// When its oldest request came
    pub oldest_ns: u64,
    /// Rows that wait in it
    pub rows: u64,
    /// Rows of a full batch
    pub max_rows: u64,
    /// Batches of the lane in flight
    pub in_flight: u32,
    /// What the lane may have in flight
    pub capacity: Capacity,
}

/// When a queue's head may leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// At once
    Now,
    /// At this time, if nothing happens before
    At(u64),
    /// Not before a batch of the lane ends
    OnCompletion,
}

/// At once when an instance is idle or the batch is full; otherwise when the oldest has waited `max_delay_ns`.
/// Nothing leaves while every slot is taken.
pub fn due(view: QueueView, max_delay_ns: u64, now_ns: u64) -> Due {
    if view.in_flight >= view.capacity.slots {
        return Due::OnCompletion;
    }
    let at_ns = view.oldest_ns.saturating_add(max_delay_ns);
    if view.in_flight < view.capacity.instances || view.rows >= view.max_rows || now_ns >= at_ns {
        return Due::Now;
    }
    Due::At(at_ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIEW: QueueView = QueueView {
        oldest_ns: 100,
        rows: 3,
        max_rows: 8,
        in_flight: 1,
        capacity: Capacity { instances: 1, slots: 2 },
    };

    #[test]
    fn an_idle_instance_takes_what_is_there() {
        assert_eq!(due(QueueView { in_flight: 0, ..VIEW }, 50, 100), Due::Now);
    }

    #[test]
    fn a_busy_lane_waits_for_a_full_batch_or_the_delay() {
        assert_eq!(due(VIEW, 50, 100), Due::At(150));
        assert_eq!(due(VIEW, 50, 150), Due::Now);
        assert_eq!(due(QueueView { rows: 8, ..VIEW }, 50, 100), Due::Now);
    }

    #[test]
    fn nothing_leaves_while_every_slot_is_taken() {
        assert_eq!(due(QueueView { in_flight: 2, rows: 8, ..VIEW }, 0, 1000), Due::OnCompletion);
    }
}
