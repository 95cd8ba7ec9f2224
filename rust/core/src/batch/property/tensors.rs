//! Joined, padded, cut and cut back is what was sent, for any datatype, shape and place of the ragged dimension.

use std::collections::BTreeSet;

use super::*;

const MAX_ROWS: u64 = 8;

/// One model: an input of any datatype whose dimension `ragged` is padded, and the sizes of the others.
#[derive(Debug, Clone)]
struct Form {
    datatype: Datatype,
    dims: Vec<u64>,
    ragged: usize,
    pad: Bytes,
}

/// One request: its rows, its length, and where its bytes begin.
type Sent = (u64, u64, u8);

fn form() -> impl Strategy<Value = Form> {
    let datatypes = [Datatype::Uint8, Datatype::Fp32, Datatype::Int64, Datatype::Bytes];
    (0..datatypes.len(), vec(1..4_u64, 1..4), any::<usize>(), -3..3_i32).prop_map(
        move |(at, dims, ragged, pad)| {
            let datatype = datatypes[at];
            let pad = datatype.element_of(f64::from(pad)).or_else(|| datatype.element_of(0.0)).unwrap();
            Form { datatype, ragged: ragged % dims.len(), dims, pad }
        },
    )
}

impl Form {
    fn model(&self) -> ModelShape {
        let spec = |name: &str, ragged| TensorSpec {
            name: name.into(),
            datatype: self.datatype,
            dims: vec![-1; self.dims.len()],
            presence: Presence::Required,
            ragged,
        };
        let ragged = Ragged { dim: self.ragged, pad: self.pad.clone() };
        let mask = TensorSpec { datatype: Datatype::Int32, dims: vec![-1], ..spec("mask", None) };
        let output = |name: &str, ragged_dim| OutputSpec { name: name.into(), ragged_dim };
        ModelShape {
            inputs: vec![spec("ragged", Some(ragged)), mask, spec("even", None)],
            outputs: vec![output("ragged", Some(self.ragged)), output("mask", Some(0)), output("even", None)],
            mask: Some(1),
            batching: Batching::Rows { max_rows: MAX_ROWS },
        }
    }

    fn tensor(&self, name: &str, rows: u64, length: u64, seed: u8) -> Tensor {
        let mut dims = self.dims.clone();
        dims[self.ragged] = length;
        let elements = rows * dims.iter().product::<u64>();
        let mut data = Vec::new();
        for at in 0..elements {
            let byte = (at as u8).wrapping_mul(31).wrapping_add(seed);
            if let Some(size) = self.datatype.element_bytes() {
                data.extend(std::iter::repeat_n(byte, size as usize));
            } else {
                let text = vec![byte; usize::from(byte % 4)];
                data.extend((text.len() as u32).to_le_bytes());
                data.extend(text);
            }
        }
        let shape: Vec<i64> = std::iter::once(rows).chain(dims).map(|dim| dim as i64).collect();
        Tensor::new(name.into(), self.datatype, &shape, data.into()).unwrap()
    }

    fn sent(&self, (rows, length, seed): Sent) -> Vec<Tensor> {
        let even = self.tensor("even", rows, self.dims[self.ragged], seed);
        vec![self.tensor("ragged", rows, length, seed), even]
    }
}

fn ones(rows: u64, length: u64) -> Vec<u8> {
    1_i32.to_le_bytes().repeat((rows * length) as usize)
}

proptest! {
    #[test]
    fn what_was_sent_comes_back(form in form(), sent in vec((1..5_u64, 1..12_u64, any::<u8>()), 1..25)) {
        let (model, key) = (form.model(), lane("echo"));
        let mut assembler = Assembler::new(ROOMY);
        let mut settings = LaneSettings::of(Capacity { instances: 64, slots: 64 });
        settings.classes = LengthClasses::Fixed([4, 9].into());
        assembler.open(key.clone(), &settings);
        for (at, &one) in sent.iter().enumerate() {
            let checked = model.check(form.sent(one), ["ragged"], Bytes::new()).unwrap();
            assembler.push(&key, pending(checked, at), 0).unwrap();
        }
        let mut answered = BTreeSet::new();
        while let Some(batch) = assembler.next(0) {
            prop_assert!(batch.rows <= MAX_ROWS);
            let outputs = echo(&batch);
            let (rows, length) = (batch.rows, batch.length);
            prop_assert!([4, 9, 10, 11].contains(&length));
            prop_assert_eq!(outputs[1].shape(), &[rows, length][..]);
            for (member, tensors) in batch.split(outputs).unwrap() {
                let one = sent[member.waiter];
                let expected = form.sent(one);
                prop_assert!(one.1 <= length);
                for (tensor, expected) in [&tensors[0], &tensors[2]].into_iter().zip(&expected) {
                    prop_assert_eq!(tensor.shape(), expected.shape());
                    prop_assert_eq!(tensor.data(), expected.data());
                }
                prop_assert_eq!(tensors[1].data(), &ones(one.0, one.1));
                prop_assert!(answered.insert(member.waiter));
            }
        }
        prop_assert_eq!(answered.len(), sent.len());
        prop_assert_eq!(assembler.load("pool").requests, 0);
    }

    #[test]
    fn halves_and_parts_come_back_too(form in form(), sent in vec((1..20_u64, 1..12_u64, any::<u8>()), 1..9)) {
        let (model, key) = (form.model(), lane("echo"));
        let mut assembler = Assembler::new(ROOMY);
        assembler.open(key.clone(), &LaneSettings::of(Capacity { instances: 64, slots: 64 }));
        let mut answers: Vec<Vec<Option<Vec<Tensor>>>> = Vec::new();
        for (at, &one) in sent.iter().enumerate() {
            let parts = model.check(form.sent(one), [], Bytes::new()).unwrap().parts();
            answers.push(vec![None; parts.len()]);
            for (part, checked) in parts.into_iter().enumerate() {
                assembler.push(&key, pending(checked, (at, part)), 0).unwrap();
            }
        }
        while let Some(batch) = assembler.next(0) {
            let (first, second) = batch.halves();
            for half in [Some(first), second].into_iter().flatten() {
                let outputs = echo(&half);
                for (member, tensors) in half.split(outputs).unwrap() {
                    answers[member.waiter.0][member.waiter.1] = Some(tensors);
                }
            }
        }
        for (parts, &one) in answers.into_iter().zip(&sent) {
            let joined = join_answers(parts.into_iter().map(Option::unwrap).collect()).unwrap();
            let expected = form.sent(one);
            prop_assert_eq!(joined[0].data(), expected[0].data());
            prop_assert_eq!(joined[0].shape(), expected[0].shape());
        }
    }

    #[test]
    fn an_answer_of_other_rows_or_length_reaches_nobody(
        sent in vec((1..3_u64, 1..9_u64), 1..4),
        more in 1..3_u64,
    ) {
        let (model, key) = (bytes_model(MAX_ROWS), lane("echo"));
        for wrong_rows in [true, false] {
            let mut assembler = Assembler::new(ROOMY);
            for &(rows, length) in &sent {
                assembler.push(&key, pending(bytes_request(&model, rows, length), ()), 0).unwrap();
            }
            let batch = assembler.next(0).unwrap();
            let (mut rows, mut length) = (batch.rows, batch.length);
            *(if wrong_rows { &mut rows } else { &mut length }) += more;
            let data = vec![0; (rows * length) as usize];
            let shape = [rows as i64, length as i64];
            let wrong = Tensor::new("ids".into(), Datatype::Uint8, &shape, data.into()).unwrap();
            let count = batch.members.len();
            let (error, members) = batch.split(vec![wrong]).unwrap_err();
            let slug = if wrong_rows { "batch_output_rows" } else { "batch_output_length" };
            prop_assert_eq!(error.slug(), slug);
            prop_assert_eq!(members.len(), count);
        }
    }
}
