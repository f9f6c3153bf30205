//! QONNX: the same network written with its operator instead of Q/DQ pairs is the same on the device, to the bit.

use prost::Message;
use triscore::graph::{Graph, qonnx};
use triscore::model::ReadLimits;
use triscore::model::onnx::{NodeProto, OperatorSetIdProto, TensorProto};
use triscore::{Backend, Call, CompileOptions, DType, Model, Tensor};

use super::model::int;
use super::{FpgaBackend, QType, devices, heldout, models, quantized_to};

/// A model whose Q/DQ pairs, and whose dequantised constants, are operators of QONNX.
pub(crate) fn as_qonnx(model: &Model) -> Model {
    let mut proto = model.proto().clone();
    proto
        .opset_import
        .push(OperatorSetIdProto { domain: Some("qonnx.custom_op.general".to_owned()), version: Some(1) });
    let graph = proto.graph.as_mut().unwrap();
    let nodes = std::mem::take(&mut graph.node);
    let tensor = |name: &str| {
        let found = model.proto().graph.as_ref().unwrap().initializer.iter().find(|t| t.name() == name);
        found.map(|t| model.tensor(t).unwrap())
    };
    let mut add = |name: String, tensor: Tensor| {
        graph.initializer.push(TensorProto {
            name: Some(name.clone()),
            data_type: Some(tensor.dtype().onnx_code()),
            dims: tensor.shape().iter().map(|n| *n as i64).collect(),
            raw_data: Some(tensor.as_bytes().to_vec().into()),
            ..Default::default()
        });
        name
    };
    let floats = |t: &Tensor| match t.dtype() {
        DType::U8 => t.as_slice::<u8>().unwrap().iter().map(|v| f32::from(*v)).collect::<Vec<_>>(),
        DType::I8 => t.as_slice::<i8>().unwrap().iter().map(|v| f32::from(*v)).collect(),
        DType::U16 => t.as_slice::<u16>().unwrap().iter().map(|v| f32::from(*v)).collect(),
        _ => t.as_slice::<i32>().unwrap().iter().map(|v| *v as f32).collect(),
    };
    for node in &nodes {
        if node.op_type() == "QuantizeLinear" {
            continue;
        }
        if node.op_type() != "DequantizeLinear" {
            graph.node.push(node.clone());
            continue;
        }
        let made = node.output[0].clone();
        let (scale, zero) = (tensor(&node.input[1]).unwrap(), tensor(&node.input[2]).unwrap());
        let maker = nodes.iter().find(|n| n.output[0] == node.input[0]);
        let (x, along) = match maker {
            Some(quantize) => (quantize.input[0].clone(), vec![]),
            None => {
                // What the integers stand for, and the scales along their axis.
                let integers = tensor(&node.input[0]).unwrap();
                let axis = node.attribute.iter().find(|a| a.name() == "axis").map_or(0, |a| a.i()) as usize;
                let inner =
                    integers.shape()[(axis + 1).min(integers.shape().len())..].iter().product::<usize>();
                let (scales, zeros) = (scale.as_slice::<f32>().unwrap(), floats(&zero));
                let channel = |i: usize| if scales.len() == 1 { 0 } else { i / inner % scales.len() };
                let values = floats(&integers);
                let values =
                    values.iter().enumerate().map(|(i, v)| (v - zeros[channel(i)]) * scales[channel(i)]);
                let values = Tensor::from_slice(integers.shape(), &values.collect::<Vec<_>>()).unwrap();
                let mut along = vec![1; integers.shape().len()];
                if scales.len() > 1 {
                    along[axis] = scales.len();
                }
                (add(format!("{made}/x"), values), along)
            }
        };
        let (bits, signed) = match zero.dtype() {
            DType::U8 => (8.0, 0),
            DType::I8 => (8.0, 1),
            DType::U16 => (16.0, 0),
            _ => (32.0, 1),
        };
        let zeros = Tensor::from_slice(&along, &floats(&zero)).unwrap();
        let scales = scale.reshape(&along).unwrap();
        let inputs = vec![
            x,
            add(format!("{made}/s"), scales),
            add(format!("{made}/z"), zeros),
            add(format!("{made}/b"), Tensor::from_slice(&[], &[bits as f32]).unwrap()),
        ];
        graph.node.push(NodeProto {
            op_type: Some("IntQuant".to_owned()),
            domain: Some("qonnx.custom_op.general".to_owned()),
            input: inputs,
            output: vec![made],
            attribute: vec![int("signed", signed)],
            ..Default::default()
        });
    }
    Model::from_bytes(proto.encode_to_vec(), &ReadLimits::default()).unwrap()
}

#[test]
fn qonnx_is_what_its_pairs_are() {
    for device in devices() {
        let (fpga, one) = (FpgaBackend::new(), std::slice::from_ref(&device));
        for (folder, activations) in
            [("digits_cnn", QType::U8), ("digits_res", QType::U8), ("digits_mlp", QType::U16)]
        {
            let pairs = quantized_to(folder, activations);
            let model = as_qonnx(&pairs);
            assert!(qonnx::count(&model) > 5 && qonnx::count(&pairs) == 0);
            let inputs = [heldout(folder).rows(0, 0..9).unwrap()];
            let score = |model: &Model| {
                let scorer = fpga.compile(model, one, &CompileOptions::default()).unwrap();
                assert!(scorer.placement().is_all_on_device(), "{}", scorer.placement().summary());
                scorer.score(&inputs, &Call::new()).unwrap().tensor(0).unwrap().clone()
            };
            assert_eq!(score(&model).as_bytes(), score(&pairs).as_bytes(), "{device}: {folder}");
            // Written back, it is a model that anybody runs.
            let written = Graph::of(&model).unwrap().to_model().unwrap();
            let domains =
                written.graph.unwrap().node.iter().map(|n| n.domain().to_owned()).collect::<Vec<_>>();
            assert!(domains.iter().all(String::is_empty), "{domains:?}");
        }
    }
    let float = Model::open(models("digits_cnn")).unwrap();
    assert_eq!(qonnx::count(&float), 0);
}
