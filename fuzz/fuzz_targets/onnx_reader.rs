//! Any bytes as a model: they are read or refused, never a panic, a hang, or memory without bound.
#![no_main]

use libfuzzer_sys::fuzz_target;
use triscore::Model;
use triscore::model::ReadLimits;

fuzz_target!(|file: &[u8]| {
    let mut limits = ReadLimits::default();
    // The fuzzer's own bound on memory is 2 GiB; what passes ours must stay far below.
    limits.max_decoded_bytes = 64 << 20;
    limits.max_sparse_bytes = 64 << 20;
    let Ok(model) = Model::from_bytes(file.to_vec(), &limits) else { return };
    // What was accepted has to hold what the checks promise to those below.
    assert!(model.external().is_empty());
    assert!(!model.signature().outputs().is_empty());
    if let Some(graph) = &model.proto().graph {
        assert_eq!(graph.node.len(), model.nodes().len());
        for tensor in &graph.initializer {
            if let Ok(tensor) = model.tensor(tensor) {
                assert_eq!(triscore::tensor::element_count(tensor.shape()).ok(), Some(tensor.len()));
            }
        }
    }
});
