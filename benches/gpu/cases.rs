//! What is measured, and what the hardware could do at most.

use triscore::cpu::CpuBackend;
use triscore::graph::encode;
use triscore::int8::QType;
use triscore::model::ReadLimits;
use triscore::quantize::{Calibration, Scheme, quantize, quantize_float8};
use triscore::scoring::Device;
use triscore::{DType, Model, Result};

use crate::options::Form;
use crate::{inputs, networks};

/// Inputs that ranges are found from.
const SAMPLES: u64 = 4;

/// A network with seeded weights.
pub(crate) struct Network {
    pub(crate) name: &'static str,
    /// What a row is.
    pub(crate) unit: &'static str,
    /// Whether it is left out unless it is asked for.
    pub(crate) only_by_name: bool,
    make: fn() -> Vec<u8>,
    /// Rows a second at most on one H200, at 16 bits: see [`Network::roof`].
    h200: Option<f64>,
}

/// What claims are about.
pub(crate) const NETWORKS: &[Network] = &[
    Network {
        name: "resnet50",
        unit: "images",
        only_by_name: false,
        make: || networks::resnet(&[3, 4, 6, 3], 64, 224, 1000),
        h200: Some(96_600.0),
    },
    Network {
        name: "bert-base",
        unit: "sequences",
        only_by_name: false,
        make: || networks::bert(12, 768, 12, 128, 30_522),
        h200: Some(35_400.0),
    },
    Network {
        name: "bert-large",
        unit: "sequences",
        only_by_name: true,
        make: || networks::bert(24, 1024, 16, 384, 30_522),
        h200: Some(3_200.0),
    },
];

/// The same kinds of layers, small enough for a device that is emulated.
pub(crate) const QUICK: &[Network] = &[
    Network {
        name: "resnet50-small",
        unit: "images",
        only_by_name: false,
        make: || networks::resnet(&[1, 1], 8, 32, 10),
        h200: None,
    },
    Network {
        name: "bert-base-small",
        unit: "sequences",
        only_by_name: false,
        make: || networks::bert(2, 32, 2, 16, 100),
        h200: None,
    },
];

impl Network {
    /// Its file, and the model that is read from it.
    pub(crate) fn file(&self) -> Vec<u8> {
        (self.make)()
    }

    /// Quantised to a type, if that is wanted, by what a few random inputs make of it.
    pub(crate) fn model(&self, quantised: Option<DType>) -> Result<Model> {
        let limits = ReadLimits::default();
        let model = Model::from_bytes(self.file(), &limits)?;
        let Some(dtype) = quantised else { return Ok(model) };
        let samples = (1..=SAMPLES).map(|seed| inputs::rows(model.signature().inputs(), 1, seed));
        let samples = samples.collect::<Vec<_>>();
        let (cpu, scheme) = (CpuBackend::new(), Scheme::default());
        let done = match QType::try_from(dtype) {
            Ok(activations) => {
                let scheme = Scheme { activations, symmetric: true, ..scheme };
                quantize(&model, &samples, &scheme, Calibration::MinMax, &cpu, &|_, _, _| {})?
            }
            Err(_) => {
                quantize_float8(&model, &samples, dtype, &scheme, Calibration::MinMax, &cpu, &|_, _, _| {})?
            }
        };
        Model::from_bytes(encode(&done.model)?, &limits)
    }

    /// Rows a second at most: by the arithmetic and the traffic that nobody can leave out, and by what was read on one H200 with random data
    /// (790 TFLOP/s of 16-bit products, 4.3 TB/s). Nothing for other devices, and for precisions whose rate was not read.
    pub(crate) fn roof(&self, device: &Device, form: Form) -> Option<f64> {
        let is_known = device.name.contains("H200") && !device.emulated;
        let is_16_bits = matches!(form.name, "bf16" | "f16");
        self.h200.filter(|_| is_known && is_16_bits)
    }
}
