//! Owns one case of the assembler's bench: its tensors, one round of it, and what a round costs.
//! Must not know other cases, how figures are printed.
//! On failure: what the assembler refuses is an error with its reason.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use forebay_core::batch::{
    Assembler, Batch, BatchError, Batching, Bounds, Capacity, Datatype, LaneKey, LaneSettings, ModelShape,
    OutputSpec, PendingRequest, Presence, Priority, Ragged, Tenant, Tensor, TensorSpec,
};

use crate::error::BenchError;

/// What a request's tensors are.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// In reports
    pub name: &'static str,
    datatype: Datatype,
    /// Elements of one token
    width: i64,
    /// Rows of one request
    rows: i64,
    /// Whether requests differ in length, and are padded
    ragged: bool,
}

/// Requests of one shape that go in one batch.
pub struct Case {
    shape: Shape,
    model: ModelShape,
    requests: Vec<Tensor>,
    assembler: Assembler<usize>,
    key: LaneKey,
    tenant: Tenant,
    now_ns: u64,
}

/// What rounds of a case cost.
pub struct Measured {
    /// Bytes of one batch's inputs, padded
    pub batch_bytes: usize,
    /// Padded tokens for one that is not padding
    pub padding: f64,
    /// Written bytes
    pub assemble_gb_per_s: f64,
    /// Bytes of the answer
    pub split_gb_per_s: f64,
    /// Whether padding was cut off in the middle of the bytes, so that they were copied
    pub copied_split: bool,
    /// Check, queue, take, assemble, end and split
    pub us_per_request: f64,
}

/// What one round, or all of them, took and moved.
#[derive(Default)]
struct Spent {
    assemble: Duration,
    split: Duration,
    whole: Duration,
    written_bytes: usize,
    answered_bytes: usize,
    padded_tokens: u64,
    tokens: u64,
}

// === impl Shape ===

impl Shape {
    /// Token ids of lengths 4 to 512, one row in a request
    pub const IDS: Self = Self { name: "ids", datatype: Datatype::Int64, width: 1, rows: 1, ragged: true };
    /// States of 64 floats for every token, two rows in a request: cutting back copies
    pub const STATES: Self =
        Self { name: "states", datatype: Datatype::Fp32, width: 64, rows: 2, ragged: true };
    /// 128 KiB in every request, all alike: nothing is padded
    pub const EVEN: Self =
        Self { name: "even", datatype: Datatype::Fp32, width: 384, rows: 1, ragged: false };

    fn length(&self, at: usize) -> i64 {
        // About the quantiles of a log-normal of median 64 and sigma 1.
        let spread = [4, 9, 17, 26, 36, 47, 58, 64, 71, 85, 104, 130, 167, 225, 330, 512];
        if self.ragged { spread[at * 5 % spread.len()] } else { 85 }
    }

    fn tensor(&self, length: i64) -> Result<Tensor, BatchError> {
        let shape = [self.rows, length, self.width];
        let bytes = shape.iter().product::<i64>() as u64 * self.datatype.element_bytes().unwrap_or(1);
        Tensor::new("x".into(), self.datatype, &shape, vec![1; bytes as usize].into())
    }

    fn model(&self) -> ModelShape {
        let pad = self.datatype.element_of(0.0).unwrap_or_default();
        let spec = TensorSpec {
            name: "x".into(),
            datatype: self.datatype,
            dims: vec![-1, -1],
            presence: Presence::Required,
            ragged: self.ragged.then_some(Ragged { dim: 0, pad: pad.clone() }),
        };
        let mask =
            TensorSpec { name: "mask".into(), datatype: Datatype::Int64, dims: vec![-1], ..spec.clone() };
        ModelShape {
            inputs: if self.ragged { vec![spec, mask] } else { vec![spec] },
            outputs: vec![OutputSpec { name: "x".into(), ragged_dim: self.ragged.then_some(0) }],
            mask: self.ragged.then_some(1),
            batching: Batching::Rows { max_rows: 64 },
        }
    }
}

// === impl Case ===

impl Case {
    /// So many requests, all in one batch.
    pub fn new(shape: Shape, requests: usize) -> Self {
        let bounds = Bounds { max_rows: u64::MAX, max_tokens: u64::MAX, max_bytes: u64::MAX };
        let key = LaneKey { pool: "pool".into(), model: "model".into(), version: "".into() };
        let mut assembler = Assembler::new(bounds);
        assembler.open(key.clone(), &LaneSettings::of(Capacity { instances: 1, slots: 1 }));
        let tensors = (0..requests).filter_map(|at| shape.tensor(shape.length(at + 7)).ok()).collect();
        let tenant = Tenant { name: "tenant".into(), weight: 1 };
        Self { shape, model: shape.model(), requests: tensors, assembler, key, tenant, now_ns: 0 }
    }

    /// Rounds for some seconds, after a tenth of them that do not count.
    pub fn measure(mut self, seconds: f64) -> Result<Measured, BenchError> {
        let (mut all, mut rounds) = (Spent::default(), 0_u64);
        let begun = Instant::now();
        while begun.elapsed().as_secs_f64() < seconds * 1.1 {
            let counts = begun.elapsed().as_secs_f64() >= seconds * 0.1;
            let spent = self.round().map_err(|error| refused(&error))?;
            if counts {
                all.add(&spent);
                rounds += 1;
            }
        }
        let gb_per_s = |bytes: usize, part: Duration| bytes as f64 / part.as_secs_f64() / 1e9;
        let requests = rounds as f64 * self.requests.len() as f64;
        Ok(Measured {
            batch_bytes: all.written_bytes / rounds.max(1) as usize,
            padding: all.padded_tokens as f64 / all.tokens as f64,
            assemble_gb_per_s: gb_per_s(all.written_bytes, all.assemble),
            split_gb_per_s: gb_per_s(all.answered_bytes, all.split),
            copied_split: self.shape.ragged && self.shape.rows > 1 && self.requests.len() > 1,
            us_per_request: all.whole.as_secs_f64() * 1e6 / requests,
        })
    }

    /// All requests once through the assembler. Making the answer is not part of it.
    fn round(&mut self) -> Result<Spent, BatchError> {
        let mut spent = Spent::default();
        let queueing = Instant::now();
        self.now_ns += 1_000_000_000;
        for (at, tensor) in self.requests.iter().enumerate() {
            let checked = self.model.check(vec![tensor.clone()], [], Bytes::new())?;
            let (tenant, deadline_ns) = (self.tenant.clone(), self.now_ns + 1_000_000_000);
            let request = PendingRequest { checked, tenant, priority: Priority::P1, deadline_ns, waiter: at };
            self.assembler.push(&self.key, request, self.now_ns)?;
        }
        spent.whole += queueing.elapsed();
        loop {
            let taking = Instant::now();
            let Some(batch) = self.assembler.next(self.now_ns) else { break };
            let assembling = Instant::now();
            let (message, first_bytes, length) = message(&batch);
            spent.assemble += assembling.elapsed();
            // 100 ms for any batch: nothing is worth a batch of its own, so all requests stay in one.
            self.assembler.ended(&batch.departed(), Some(self.now_ns + 100_000_000));
            spent.whole += taking.elapsed();
            spent.written_bytes += message.len();
            spent.padded_tokens += batch.padded_tokens();
            spent.tokens += batch.tokens;
            let shape = [batch.rows as i64, length, self.shape.width];
            let data = Bytes::from(message).slice(..first_bytes);
            spent.answered_bytes += data.len();
            let answer = Tensor::new("x".into(), self.shape.datatype, &shape, data)?;
            let splitting = Instant::now();
            black_box(batch.split(vec![answer]).map_err(|(error, _)| error)?);
            spent.split += splitting.elapsed();
        }
        spent.whole += spent.split;
        Ok(spent)
    }
}

// === impl Spent ===

impl Spent {
    fn add(&mut self, other: &Self) {
        self.assemble += other.assemble;
        self.split += other.split;
        self.whole += other.whole;
        self.written_bytes += other.written_bytes;
        self.answered_bytes += other.answered_bytes;
        self.padded_tokens += other.padded_tokens;
        self.tokens += other.tokens;
    }
}

/// All inputs of a batch one behind the other, as a message holds them; the bytes and the length of the first.
fn message(batch: &Batch<usize>) -> (Vec<u8>, usize, i64) {
    let inputs: Vec<_> = batch.inputs().collect();
    let mut message = Vec::with_capacity(inputs.iter().map(|input| input.bytes).sum());
    for input in &inputs {
        input.write_into(&mut message);
    }
    let bytes = inputs.first().map_or(0, |input| input.bytes);
    let length = inputs.first().and_then(|input| input.shape.get(1)).map_or(1, |&length| length as i64);
    (message, bytes, length)
}

fn refused(error: &BatchError) -> BenchError {
    BenchError::option("assemble", format!("was refused by the assembler: {error}"))
}
