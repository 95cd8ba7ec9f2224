//! Owns: waking a task at a moment, to some 50 µs: the runtime's own timer is a millisecond late, and a batch that
//! leaves that late leaves its model server idle.
//! Must not know: what happens then.
//! On failure: open; where the system gives no such timer, the runtime's is used.

use std::time::Instant;

/// One timer for one task. It belongs to the runtime in which it was made.
#[derive(Debug)]
pub struct Alarm {
    #[cfg(target_os = "linux")]
    timer: Option<timerfd::Timer>,
}

// === impl Alarm ===

impl Alarm {
    /// Must be called inside a runtime with I/O.
    #[allow(clippy::new_without_default)] // it takes a place in the runtime
    pub fn new() -> Self {
        Self {
            #[cfg(target_os = "linux")]
            timer: timerfd::Timer::new().ok(),
        }
    }

    /// Resolves at `when`.
    pub(super) async fn at(&self, when: Instant) {
        #[cfg(target_os = "linux")]
        if let Some(timer) = &self.timer
            && timer.at(when).await.is_ok()
        {
            return;
        }
        tokio::time::sleep_until(when.into()).await;
    }
}

#[cfg(target_os = "linux")]
mod timerfd {
    use std::io;
    use std::os::fd::OwnedFd;
    use std::time::Instant;

    use rustix::io::read;
    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    };
    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;

    /// A descriptor that can be read when its time has come.
    #[derive(Debug)]
    pub(super) struct Timer(AsyncFd<OwnedFd>);

    impl Timer {
        #[expect(
            deprecated,
            reason = "meant for types that may change their descriptor; an `OwnedFd` does not"
        )]
        pub(super) fn new() -> io::Result<Self> {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
            Ok(Self(AsyncFd::with_interest(timer, Interest::READABLE)?))
        }

        pub(super) async fn at(&self, when: Instant) -> io::Result<()> {
            let left = when.saturating_duration_since(Instant::now());
            // Zero would disarm it.
            if left.is_zero() {
                return Ok(());
            }
            let it_value = Timespec::try_from(left).map_err(io::Error::other)?;
            let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
            timerfd_settime(
                self.0.get_ref(),
                TimerfdTimerFlags::empty(),
                &Itimerspec { it_interval, it_value },
            )?;
            loop {
                // Being armed forgets what it had to tell, so that what can be read is of this time.
                let mut ready = self.0.readable().await?;
                let mut count = [0; 8];
                if let Ok(told) = ready.try_io(|timer| Ok(read(timer.get_ref(), &mut count)?)) {
                    return told.map(|_| ());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn it_rings_at_its_time_again_and_again_also_after_it_was_given_up() {
        let alarm = Alarm::new();
        for us in [0, 300, 1_700, 50] {
            let when = Instant::now() + Duration::from_micros(us);
            alarm.at(when).await;
            assert!(Instant::now() >= when);
            let given_up =
                tokio::time::timeout(Duration::from_millis(1), alarm.at(when + Duration::from_secs(60)));
            assert!(given_up.await.is_err());
        }
    }
}
