//! Owns: the files that records are written to before anything else reads them, and the one thread that writes.
//! Must not know: what a record says; who reads the files.
//! On failure: what cannot be written stays in memory, is tried again each second, and above a bound is dropped and
//! counted; the request path never waits for a disk.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use forebay_core::account::{MAX_FRAME_BYTES, Outbox};
use parking_lot::{Condvar, Mutex};

use crate::report::Report;

/// A segment is closed at this size.
const SEGMENT_BYTES: u64 = 16 << 20;
/// After a failure.
const RETRY: Duration = Duration::from_secs(1);
/// Own answers come without a log entry that would wake the writer.
const IDLE: Duration = Duration::from_millis(200);
/// How often the size of the folder is looked at.
const MEASURE: Duration = Duration::from_secs(1);
const PREFIX: &str = "journal-";
const SUFFIX: &str = ".log";

/// Where records go, and how many may wait there for a reader.
#[derive(Debug, Clone)]
pub struct JournalSettings {
    /// The folder; it exists
    pub directory: PathBuf,
    /// All segments together; above it nothing more is written
    pub max_bytes: u64,
}

/// The writer of one process. Dropped, it writes what is there and ends.
#[derive(Debug)]
pub struct Journal {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    outbox: Arc<Outbox>,
    state: Mutex<State>,
    woken: Condvar,
    written_bytes: AtomicU64,
    failures: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    work: bool,
    stop: bool,
}

/// The segment that is being written.
struct Segment {
    settings: JournalSettings,
    number: u64,
    file: File,
    /// Whole frames end here
    bytes: u64,
    /// All segments together, as of the last look
    folder_bytes: u64,
    looked: Instant,
}

// === impl Journal ===

impl Journal {
    /// Begins a new segment and the thread that writes it.
    pub fn start(settings: JournalSettings, outbox: Arc<Outbox>, report: Arc<Report>) -> io::Result<Self> {
        let segment = Segment::begin(settings)?;
        let shared = Arc::new(Shared {
            outbox,
            state: Mutex::default(),
            woken: Condvar::new(),
            written_bytes: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        });
        let mine = shared.clone();
        let thread = std::thread::Builder::new()
            .name("forebay-journal".into())
            .spawn(move || mine.run(segment, &report))?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Says that there may be records. Cheap.
    pub fn wake(&self) {
        let mut state = self.shared.state.lock();
        if !state.work {
            state.work = true;
            drop(state);
            self.shared.woken.notify_one();
        }
    }

    /// Bytes written, and writes that failed.
    pub fn counts(&self) -> (u64, u64) {
        (self.shared.written_bytes.load(Relaxed), self.shared.failures.load(Relaxed))
    }

    /// Writes what is there and ends the thread.
    pub fn stop(&self) {
        let Some(thread) = self.thread.lock().take() else { return };
        self.shared.state.lock().stop = true;
        self.shared.woken.notify_one();
        // It panics nowhere; if it did, there is nothing left to stop.
        let _ = thread.join();
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.stop();
    }
}

// === impl Shared ===

impl Shared {
    fn run(&self, mut segment: Segment, report: &Report) {
        let mut frames = Vec::new();
        loop {
            let stop = self.wait();
            frames = self.outbox.take(frames);
            while !frames.is_empty() {
                match segment.write(&frames) {
                    Ok(()) => {
                        self.written_bytes.fetch_add(frames.len() as u64, Relaxed);
                        frames.clear();
                    }
                    Err(error) => {
                        self.failures.fetch_add(1, Relaxed);
                        report.say(
                            "journal_failed",
                            &format!("the ledger's journal cannot be written: {error}"),
                        );
                        if self.pause() {
                            // Stopping: nobody is left to try again.
                            let waiting = self.outbox.take(Vec::new());
                            self.outbox.lose(count(&frames) + count(&waiting));
                            return;
                        }
                    }
                }
            }
            if stop && self.outbox.bytes() == 0 {
                return;
            }
        }
    }

    /// Until there is work or the end; says whether it is the end.
    fn wait(&self) -> bool {
        let mut state = self.state.lock();
        if !state.work && !state.stop {
            self.woken.wait_for(&mut state, IDLE);
        }
        state.work = false;
        state.stop
    }

    /// Until it may be tried again; says whether it is the end.
    fn pause(&self) -> bool {
        let until = Instant::now() + RETRY;
        let mut state = self.state.lock();
        while !state.stop && !self.woken.wait_until(&mut state, until).timed_out() {}
        state.stop
    }
}

fn count(mut frames: &[u8]) -> u64 {
    let mut records = 0;
    while let Some((head, rest)) = frames.split_first_chunk::<4>() {
        records += 1;
        frames = rest.get(4 + u32::from_le_bytes(*head) as usize..).unwrap_or_default();
    }
    records
}

// === impl Segment ===

impl Segment {
    fn begin(settings: JournalSettings) -> io::Result<Self> {
        let number = numbers(&settings.directory)?.into_iter().max().unwrap_or(0) + 1;
        let file = create(&settings.directory, number)?;
        let folder_bytes = measure(&settings.directory)?;
        Ok(Self { settings, number, file, bytes: 0, folder_bytes, looked: Instant::now() })
    }

    /// Appends whole frames, or nothing.
    fn write(&mut self, frames: &[u8]) -> io::Result<()> {
        if self.looked.elapsed() > MEASURE {
            self.looked = Instant::now();
            self.folder_bytes = measure(&self.settings.directory)?;
        }
        if self.folder_bytes + frames.len() as u64 > self.settings.max_bytes {
            return Err(io::Error::other(
                "it holds as much as `max_journal_bytes` allows; is the ledger behind?",
            ));
        }
        if self.bytes >= SEGMENT_BYTES {
            self.file = create(&self.settings.directory, self.number + 1)?;
            self.number += 1;
            self.bytes = 0;
        }
        if let Err(error) = self.file.write_all(frames) {
            // A part of it may be there: it is taken away, or else the segment ends before it.
            if self.file.set_len(self.bytes).is_err() {
                self.bytes = SEGMENT_BYTES;
            }
            return Err(error);
        }
        self.bytes += frames.len() as u64;
        self.folder_bytes += frames.len() as u64;
        Ok(())
    }
}

fn create(directory: &Path, number: u64) -> io::Result<File> {
    let path = directory.join(format!("{PREFIX}{number:020}{SUFFIX}"));
    OpenOptions::new().append(true).create_new(true).open(path)
}

/// The numbers of the segments that are there.
fn numbers(directory: &Path) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name();
        let digits = name.to_str().and_then(|n| n.strip_prefix(PREFIX)).and_then(|n| n.strip_suffix(SUFFIX));
        found.extend(digits.and_then(|d| d.parse::<u64>().ok()));
    }
    Ok(found)
}

fn measure(directory: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for number in numbers(directory)? {
        let path = directory.join(format!("{PREFIX}{number:020}{SUFFIX}"));
        // The reader may have deleted it since.
        bytes += std::fs::metadata(path).map_or(0, |m| m.len());
    }
    Ok(bytes)
}

/// What an outbox may hold: enough for a disk that is away for a while, or for one large record.
pub fn outbox_bytes(max_journal_bytes: u64) -> usize {
    (max_journal_bytes / 16).clamp(MAX_FRAME_BYTES as u64, 16 << 20) as usize
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use forebay_core::policy::pb::LedgerRecord;

    use super::*;

    fn folder(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("forebay-journal-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).unwrap();
        path
    }

    fn journal(directory: &Path, max_bytes: u64) -> (Journal, Arc<Outbox>) {
        let outbox = Arc::new(Outbox::new(1 << 20));
        let settings = JournalSettings { directory: directory.to_path_buf(), max_bytes };
        (Journal::start(settings, outbox.clone(), Arc::new(Report::default())).unwrap(), outbox)
    }

    fn record(user: &str) -> LedgerRecord {
        LedgerRecord { user: user.into(), ..LedgerRecord::default() }
    }

    #[test]
    fn each_process_begins_a_segment_and_leaves_whole_frames() {
        let directory = folder("begins");
        for user in ["a", "bb"] {
            let (journal, outbox) = journal(&directory, 1 << 20);
            outbox.push(&record(user));
            journal.wake();
            journal.stop();
        }
        let read = |n: u64| std::fs::read(directory.join(format!("journal-{n:020}.log"))).unwrap();
        assert_eq!((count(&read(1)), count(&read(2))), (1, 1));
        assert_eq!(read(1).len() + 1, read(2).len());
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn above_its_bound_nothing_is_written_and_the_loss_is_counted() {
        let directory = folder("bound");
        let (journal, outbox) = journal(&directory, 100);
        for _ in 0..20 {
            outbox.push(&record("somebody"));
        }
        journal.wake();
        while journal.counts().1 == 0 {
            std::thread::yield_now();
        }
        journal.stop();
        assert_eq!((journal.counts().0, outbox.counts()), (0, (20, 20)));
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn what_came_while_it_could_not_write_is_lost_with_the_rest() {
        let directory = folder("late");
        let (journal, outbox) = journal(&directory, 100);
        outbox.push(&record(&"a".repeat(200)));
        while journal.counts().1 == 0 {
            journal.wake();
            std::thread::yield_now();
        }
        // The writer holds the first and waits to try again.
        outbox.push(&record("b"));
        journal.stop();
        assert_eq!(outbox.counts(), (2, 2));
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn records_that_come_while_it_writes_are_written_before_it_ends() {
        let directory = folder("all");
        let (journal, outbox) = journal(&directory, 64 << 20);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        outbox.push(&record("somebody"));
                        journal.wake();
                    }
                });
            }
        });
        journal.stop();
        let written = std::fs::read(directory.join(format!("journal-{:020}.log", 1))).unwrap();
        assert_eq!((count(&written), outbox.counts()), (2_000, (2_000, 0)));
        assert_eq!(journal.counts(), (written.len() as u64, 0));
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error() {
        let outbox = Arc::new(Outbox::new(1));
        let settings = JournalSettings { directory: PathBuf::from("/nowhere/at/all"), max_bytes: 1 };
        assert!(Journal::start(settings, outbox, Arc::new(Report::default())).is_err());
    }
}
