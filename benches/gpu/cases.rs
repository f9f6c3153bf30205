//! What is measured, and what the hardware could do at most.

use triscore::model::ReadLimits;
use triscore::scoring::{Device, Precision};
use triscore::{Model, Result};

use crate::networks;

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

    pub(crate) fn model(&self) -> Result<Model> {
        Model::from_bytes(self.file(), &ReadLimits::default())
    }

    /// Rows a second at most: by the arithmetic and the traffic that nobody can leave out, and by what was read on one H200 with random data
    /// (790 TFLOP/s of 16-bit products, 4.3 TB/s). Nothing for other devices, and for precisions whose rate was not read.
    pub(crate) fn roof(&self, device: &Device, precision: Precision) -> Option<f64> {
        let is_known = device.name.contains("H200") && !device.emulated;
        let is_16_bits = matches!(precision, Precision::Bf16 | Precision::F16);
        self.h200.filter(|_| is_known && is_16_bits)
    }
}
