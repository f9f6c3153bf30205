//! Any bytes as a request's body, for models of every kind: tensors or an error, never a panic, a hang, or
//! memory without bound; and what was read is written, and read again as the same.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use triscore::server::json::{Answer, decode, encode};
use triscore::{DType, Dim, Port, PortKind, Signature, Value};

/// One input of each type by name; one with fixed and free axes; text of any shape; a tensor that tells no
/// shape beside one that may be left out; and a single number.
static SIGNATURES: LazyLock<Vec<Signature>> = LazyLock::new(|| {
    let batch = || Dim::named("batch");
    let free = || vec![Dim::Free(None), Dim::Free(None)];
    let shapeless = PortKind::Tensor { dtype: DType::F16, dims: None };
    let mut optional = Port::tensor("mask", DType::Bool, vec![batch()]);
    optional.optional = true;
    let every = DType::all().map(|d| Port::tensor(d.to_string(), d, vec![batch(), Dim::Fixed(2)]));
    let image = vec![batch(), Dim::Fixed(1), Dim::Fixed(2), Dim::Fixed(2)];
    [
        every.collect(),
        vec![Port::tensor("x", DType::F32, image)],
        vec![Port::tensor("data", DType::String, free())],
        vec![Port { name: "x".to_owned(), kind: shapeless, optional: false }, optional],
        vec![Port::tensor("n", DType::I64, vec![])],
    ]
    .into_iter()
    // What goes in comes out, so that an answer can be read as a request.
    .map(|ports: Vec<Port>| Signature::new(ports.clone(), ports).expect("a signature"))
    .collect()
});

fuzz_target!(|body: &[u8]| {
    for signature in &*SIGNATURES {
        let Ok(request) = decode(body, signature) else { continue };
        assert_eq!(request.inputs.len(), signature.inputs().len());
        // Nested lists tell no length below an axis of none.
        let told = request.inputs.iter().all(|t| !t.shape().contains(&0));
        if signature.check(&request.inputs).is_err() || !told {
            continue;
        }
        let values = request.inputs.iter().cloned().map(Value::Tensor).collect::<Vec<_>>();
        let answer = Answer { model_name: "m", model_version: None };
        let mut text = Vec::new();
        encode(&mut text, &values, signature, &request.form, answer).expect("it was read, so it can be written");
        // An answer of the protocol says "outputs" where a request says "inputs".
        let text = String::from_utf8(text).expect("JSON is UTF-8");
        let named = matches!(request.form, triscore::server::json::ReplyForm::Named);
        let text = if named { text } else { text.replacen("\"outputs\":", "\"inputs\":", 1) };
        if let Ok(again) = decode(text.as_bytes(), signature) {
            assert_eq!(again.inputs, request.inputs);
        } else if named {
            panic!("an answer cannot be read as a request: {text}");
        }
    }
});
