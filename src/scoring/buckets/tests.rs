use std::sync::Mutex;

use super::*;
use crate::scoring::{BackendKind, Timing};

/// Doubles tokens, and adds up those that a mask lets through: or all of them, and one for each.
#[derive(Debug)]
struct Tokens {
    signature: Signature,
    limits: Limits,
    placement: Placement,
    devices: Vec<Device>,
    heeds_mask: bool,
    seen: Mutex<Vec<usize>>,
}

fn named(names: &[&str]) -> Vec<Dim> {
    names.iter().map(|name| Dim::named(*name)).collect()
}

fn ports() -> (Vec<Port>, Vec<Port>) {
    let input = |name: &str| Port::tensor(name, DType::I64, named(&["batch", "sequence"]));
    let doubled = Port::tensor("doubled", DType::F32, named(&["batch", "sequence"]));
    (vec![input("tokens"), input("mask")], vec![doubled, Port::tensor("sum", DType::F32, named(&["batch"]))])
}

fn tokens(heeds_mask: bool) -> Arc<Tokens> {
    let (inputs, outputs) = ports();
    Arc::new(Tokens {
        signature: Signature::new(inputs, outputs).unwrap(),
        limits: Limits::new(1),
        placement: Placement::new(BackendKind::Custom("tokens"), Vec::new()),
        devices: Vec::new(),
        heeds_mask,
        seen: Mutex::default(),
    })
}

impl Scorer for Tokens {
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn limits(&self) -> &Limits {
        &self.limits
    }
    fn placement(&self) -> &Placement {
        &self.placement
    }
    fn devices(&self) -> &[Device] {
        &self.devices
    }
    fn score(&self, inputs: &[Tensor], _: &Call) -> Result<Scored> {
        let (tokens, mask) = (inputs[0].as_slice::<i64>()?, inputs[1].as_slice::<i64>()?);
        let shape = inputs[0].shape();
        self.seen.lock().unwrap().push(shape[1]);
        let weight = |mask: i64| if self.heeds_mask { mask } else { 1 };
        let terms = tokens.iter().zip(mask).map(|(token, mask)| ((token + 1) * weight(*mask)) as f32);
        let terms = terms.collect::<Vec<_>>();
        let row = |row: usize| terms[row * shape[1]..][..shape[1]].iter().sum();
        let sums = (0..shape[0]).map(row).collect::<Vec<f32>>();
        let doubled = tokens.iter().map(|token| 2.0 * *token as f32).collect::<Vec<_>>();
        let outputs = [Tensor::from_slice(shape, &doubled)?, Tensor::from_slice(&[shape[0]], &sums)?];
        Ok(Scored::new(outputs.map(Value::Tensor).to_vec(), Timing::default()))
    }
    fn health(&self) -> Health {
        Health::Ready
    }
}

fn call(rows: usize, length: usize) -> Vec<Tensor> {
    let count = (rows * length) as i64;
    let tokens = (1..=count).collect::<Vec<_>>();
    let of = |values: &[i64]| Tensor::from_slice(&[rows, length], values).unwrap();
    vec![of(&tokens), of(&vec![1; tokens.len()])]
}

#[test]
fn inputs_are_padded_and_outputs_cut_back() {
    let inner = tokens(true);
    let buckets = Buckets::default().with("sequence", [8, 4, 4]);
    let scorer = Bucketed::new(inner.clone(), buckets, Precision::Model).unwrap();
    // Half of the first as it is, and padded to the last, then each once.
    assert_eq!(std::mem::take(&mut *inner.seen.lock().unwrap()), [2, 8, 4, 8]);
    // (length, what the device sees)
    for (length, seen) in [(1, 4), (4, 4), (5, 8), (8, 8), (9, 9), (0, 0)] {
        let inputs = call(2, length);
        let (got, expected) = (scorer.score(&inputs, &Call::new()), inner.score(&inputs, &Call::new()));
        assert_eq!(got.unwrap().outputs, expected.unwrap().outputs, "{length}");
        assert_eq!(std::mem::take(&mut *inner.seen.lock().unwrap()), [seen, length], "{length}");
    }
    let mixed = [call(2, 3).swap_remove(0), call(2, 4).swap_remove(1)];
    assert!(scorer.score(&mixed, &Call::new()).unwrap_err().to_string().contains("sequence"));
}

#[test]
fn a_model_that_heeds_padding_is_refused() {
    let buckets = Buckets::default().with("sequence", [1, 4]);
    let refused = Bucketed::new(tokens(false), buckets, Precision::Model).unwrap_err().to_string();
    assert!(refused.contains("padding 1 up to 4") && refused.contains("'sum'"), "{refused}");
}

#[test]
fn dimensions_that_cannot_be_padded_are_refused() {
    let refused = |inputs: Vec<Port>, outputs: Vec<Port>, dimension: &str| {
        let signature = Signature::new(inputs, outputs).unwrap();
        check_ports(&signature, dimension).unwrap_err().to_string()
    };
    let (inputs, outputs) = ports();
    let said = refused(inputs.clone(), outputs.clone(), "length");
    assert!(said.contains("'length'") && said.contains("batch, sequence"), "{said}");
    let said = refused(inputs.clone(), outputs, "batch");
    assert!(said.contains("batch axis"), "{said}");
    let odd = Port::tensor("odd", DType::F32, named(&["batch", "tokens_out"]));
    let said = refused(inputs.clone(), vec![odd], "sequence");
    assert!(said.contains("'odd'") && said.contains("tokens_out"), "{said}");
    let map = PortKind::Sequence(Box::new(PortKind::Map { key: DType::I64, value: DType::F32 }));
    let map = Port { name: "map".to_owned(), kind: map, optional: false };
    let said = refused(inputs, vec![map], "sequence");
    assert!(said.contains("'map'"), "{said}");
    let text = Port::tensor("text", DType::String, named(&["batch", "sequence"]));
    let said = refused(vec![text], Vec::new(), "sequence");
    assert!(said.contains("'text'"), "{said}");
}

#[test]
fn buckets_of_other_models_are_left_out() {
    let (inputs, outputs) = ports();
    let signature = Signature::new(inputs, outputs).unwrap();
    let buckets = Buckets::default().with("sequence", [4]).with("height", [32]);
    assert_eq!(buckets.of(&signature), Buckets::default().with("sequence", [4]));
    assert!(Buckets::default().is_empty() && !buckets.is_empty());
    let twice = Buckets::default().with("sequence", [8, 0, 2]).with("sequence", [4, 8]);
    assert_eq!(twice, Buckets::default().with("sequence", [2, 4, 8]));
}
