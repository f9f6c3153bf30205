//! What the command line asks for.

use std::path::PathBuf;

use triscore::DType;
use triscore::scoring::Precision;

use crate::cases::{NETWORKS, Network, QUICK};

/// Printed for `--help`, and for what is not understood.
const HELP: &str = "\
The GPU backend on whole networks. Options:
  --quick               small networks and few rounds; what an emulated device gets in any case
  --networks A,B        of resnet50, bert-base, bert-large (the first two)
  --batches 1,8,32,128
  --precisions bf16,f16,tf32,f32,f8e4m3,i8 (the last two quantised here, on random inputs, with bf16 between)
  --rounds N            at most so many; fewer where a round takes long (200)
  --json PATH           writes everything that was measured
  --write-models DIR    writes the networks as ONNX files, for other runtimes, and measures nothing
  --fill-cache ARCH     compiles all kernels for an architecture (sm_90a) into TRISCORE_KERNEL_CACHE, without a device, and measures nothing";

/// What is to be done.
pub(crate) struct Options {
    pub(crate) quick: bool,
    networks: Option<Vec<String>>,
    pub(crate) batches: Option<Vec<usize>>,
    precisions: Option<Vec<String>>,
    pub(crate) rounds: usize,
    pub(crate) json: Option<PathBuf>,
    pub(crate) write_models: Option<PathBuf>,
    pub(crate) fill_cache: Option<String>,
}

/// How a network is computed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Form {
    pub(crate) name: &'static str,
    pub(crate) precision: Precision,
    /// What it is quantised to.
    pub(crate) quantised: Option<DType>,
}

const fn float(name: &'static str, precision: Precision) -> Form {
    Form { name, precision, quantised: None }
}

/// What is not quantised of a quantised network is in bf16.
const fn quantised(name: &'static str, dtype: DType) -> Form {
    Form { name, precision: Precision::Bf16, quantised: Some(dtype) }
}

const FORMS: [Form; 6] = [
    float("bf16", Precision::Bf16),
    float("f16", Precision::F16),
    float("tf32", Precision::Tf32),
    float("f32", Precision::F32),
    quantised("f8e4m3", DType::F8E4M3),
    quantised("i8", DType::I8),
];

impl Options {
    /// Of this process; ends it where there is nothing to do.
    pub(crate) fn of_process() -> Self {
        let mut options = Self {
            quick: false,
            networks: None,
            batches: None,
            precisions: None,
            rounds: 200,
            json: None,
            write_models: None,
            fill_cache: None,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            let mut value = || arguments.next().unwrap_or_else(|| stop(&format!("{name} wants a value")));
            match name.as_str() {
                "--quick" => options.quick = true,
                "--networks" => options.networks = Some(list(&value())),
                "--batches" => {
                    let number = |n: &String| n.parse().unwrap_or_else(|_| stop(&format!("a batch of {n}")));
                    options.batches = Some(list(&value()).iter().map(number).collect());
                }
                "--precisions" => options.precisions = Some(list(&value())),
                "--rounds" => {
                    options.rounds = value().parse().unwrap_or_else(|_| stop("--rounds wants a number"))
                }
                "--json" => options.json = Some(value().into()),
                "--write-models" => options.write_models = Some(value().into()),
                "--fill-cache" => options.fill_cache = Some(value()),
                // Cargo's own word to a benchmark.
                "--bench" => {}
                // `cargo test --benches` wants to know only that it builds and starts.
                "--test" => std::process::exit(0),
                _ => stop(&format!("unknown option {name}")),
            }
        }
        options
    }

    /// The networks that are asked for.
    pub(crate) fn networks(&self) -> Vec<&'static Network> {
        let all = if self.quick { QUICK } else { NETWORKS };
        let Some(wanted) = &self.networks else { return all.iter().filter(|n| !n.only_by_name).collect() };
        let find = |name: &String| {
            let found =
                all.iter().find(|n| n.name.trim_end_matches("-small") == name.trim_end_matches("-small"));
            found.unwrap_or_else(|| stop(&format!("unknown network {name}")))
        };
        wanted.iter().map(find).collect()
    }

    /// The precisions that are asked for.
    pub(crate) fn forms(&self) -> Vec<Form> {
        let Some(wanted) = &self.precisions else {
            return FORMS.into_iter().filter(|form| !self.quick || form.name != "tf32").collect();
        };
        let find = |name: &String| {
            let found = FORMS.into_iter().find(|form| form.name == name);
            found.unwrap_or_else(|| stop(&format!("unknown precision {name}")))
        };
        wanted.iter().map(find).collect()
    }

    /// The batches that are asked for.
    pub(crate) fn batches(&self) -> Vec<usize> {
        let usual: &[usize] = if self.quick { &[1, 2] } else { &[1, 8, 32, 128] };
        self.batches.clone().unwrap_or_else(|| usual.to_vec())
    }
}

fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::to_owned).collect()
}

fn stop(what: &str) -> ! {
    if what != "unknown option --help" {
        eprintln!("{what}");
    }
    eprintln!("{HELP}");
    std::process::exit(2)
}
