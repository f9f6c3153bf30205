//! `triscore score`: one score without a server.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use triscore::deploy::{Requirement, select};
use triscore::scoring::{Launch, Precision};
use triscore::tensor::Difference;
use triscore::{BackendKind, Call, CompileOptions, Model, Port, Result, Scored, Value as Tensors};

use super::Global;
use super::output::{Output, table, text};
use super::tensor_file;

/// What `score` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The model: an .onnx file, or a folder that holds one.
    model: PathBuf,

    /// What to score on: cpu, gpu or fpga. Nothing weaker is used instead, unless --prefer says so.
    #[arg(long, default_value = "cpu")]
    backend: String,

    /// The inputs: .json (by name, or in the Open Inference Protocol's form), .npz (arrays by input
    /// name) or .npy (for a model of one input).
    #[arg(long, value_name = "FILE")]
    input: PathBuf,

    /// Where the outputs go: .json (in the Open Inference Protocol's form, or by name where an output
    /// is a sequence or map, which that form cannot hold), .npz or .npy.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,

    /// Use the CPU if what --backend names is not there, and say so.
    #[arg(long)]
    prefer: bool,

    /// Take an emulated device for a real one; its name says that it is emulated.
    #[arg(long)]
    allow_emulation: bool,

    /// Give up after so many milliseconds of scoring.
    #[arg(long, value_name = "MS")]
    timeout_ms: Option<u64>,

    /// In which precision to compute: model (as it says), f32, tf32, bf16, f16 or int8. A GPU takes all but int8, and computes what is quantised on integers in each; others compute as the model says.
    #[arg(long, default_value = "model")]
    precision: Precision,

    /// Score in f32, too, and tell how far the answers are apart.
    #[arg(long)]
    compare: bool,

    /// Tell how long each launch on the device took.
    #[arg(long)]
    profile: bool,
}

/// Scores and writes the outputs.
pub(super) fn run(args: &Args, global: &Global, out: &Output) -> Result<()> {
    let kind = args.backend.to_ascii_lowercase().parse::<BackendKind>()?;
    // Every file is looked at before anything slow is done.
    tensor_file::check_kind(&args.output)?;
    let model = Model::open(&args.model)?;
    let request = tensor_file::read(&args.input, model.signature())?;
    let requirement = match args.prefer {
        true if kind != BackendKind::Cpu => {
            Requirement::Prefer { order: vec![(kind, 1), (BackendKind::Cpu, 1)] }
        }
        _ => Requirement::Require { kind, count: 1 },
    };
    let selection = select(&requirement, &global.backends(), args.allow_emulation)?;
    if let Some(reason) = &selection.fell_back {
        out.note(&format!("note: {reason}"));
    }
    // The CPU may run the rest where it may run the whole.
    let host = global.backends().into_iter().find(|b| {
        args.prefer && b.kind() == BackendKind::Cpu && selection.backend.kind() != BackendKind::Cpu
    });
    // One call: measuring how batches are best run would take longer than the call.
    let precision = args.precision;
    let options =
        CompileOptions { lanes: Some(1), skip_tuning: true, host, precision, ..CompileOptions::default() };
    let scorer = selection.backend.compile(&model, &selection.devices, &options)?;
    let call = args.timeout_ms.map_or(Call::new(), |ms| Call::new().with_timeout(Duration::from_millis(ms)));
    let call = if args.profile { call.with_profile() } else { call };
    let scored = scorer.score(&request.inputs, &call)?;
    let differences = match args.compare {
        true => {
            let options = CompileOptions { precision: Precision::F32, ..options };
            let exact = selection.backend.compile(&model, &selection.devices, &options)?;
            differences(&model, &exact.score(&request.inputs, &Call::new())?, &scored)
        }
        false => Vec::new(),
    };
    tensor_file::write(&args.output, model.signature(), &scored.outputs, &request.form)?;
    let device = scorer.devices().first().map(ToString::to_string).unwrap_or_default();
    let ports = model.signature().outputs();
    let outputs = ports.iter().map(|p| format!("{} {}", p.name, p.kind)).collect::<Vec<_>>();
    let compute_ms = scored.timing.compute.as_secs_f64() * 1e3;
    let json = json!({
        "device": device,
        "emulated": scorer.devices().iter().any(|d| d.emulated),
        "fellBack": selection.fell_back,
        "placement": scorer.placement().summary(),
        "computeMs": compute_ms,
        "output": args.output,
        "outputs": outputs,
        "launches": launches(&model, &scored.launches),
        "againstF32": differences.iter().map(|(name, d)| json!({
            "output": name, "sqnrDb": d.sqnr_db(), "cosine": d.cosine(), "maxAbs": d.max_abs(),
        })).collect::<Vec<_>>(),
    });
    let mut host = String::new();
    for node in scorer.placement().on_host() {
        host.push_str(&format!("\non the host: {} '{}'", node.operator, node.node));
    }
    out.result(&json, || {
        let line = format!("{} scored on {device} in {compute_ms:.3} ms: ", args.output.display());
        let profile = if args.profile { profile(&model, &scored.launches) } else { String::new() };
        let apart = differences.iter().map(|(name, d)| {
            let (db, cosine, most) = (d.sqnr_db(), d.cosine(), d.max_abs());
            format!("\n{name} against f32: {db:.1} dB, cosine {cosine:.6}, largest difference {most:.3e}")
        });
        format!("{line}{}{host}{}{profile}", outputs.join(", "), apart.collect::<String>())
    })
}

/// How far the outputs that are f32 are from what they should be.
fn differences(model: &Model, exact: &Scored, got: &Scored) -> Vec<(String, Difference)> {
    let ports = model.signature().outputs().iter().zip(exact.outputs.iter().zip(&got.outputs));
    let difference = |(port, (exact, got)): (&Port, (&Tensors, &Tensors))| {
        let floats = |value: &Tensors| Some(value.as_tensor().ok()?.as_slice::<f32>().ok()?.to_vec());
        let mut difference = Difference::default();
        difference.add(&floats(exact)?, &floats(got)?);
        Some((port.name.clone(), difference))
    };
    ports.filter_map(difference).collect()
}

/// What was launched, and how long each took.
fn launches(model: &Model, launches: &[Launch]) -> Vec<Value> {
    let launch = |l: &Launch| json!({ "kernel": l.kernel, "nodes": names(model, l), "timeUs": l.time.as_secs_f64() * 1e6 });
    launches.iter().map(launch).collect()
}

fn names(model: &Model, launch: &Launch) -> Vec<String> {
    let node = |place: &usize| model.nodes().get(*place);
    let nodes = launch.nodes.iter().filter_map(node);
    nodes.map(|n| if n.name.is_empty() { n.operator.clone() } else { n.name.clone() }).collect()
}

/// The launches as a table, the longest first.
fn profile(model: &Model, launches: &[Launch]) -> String {
    if launches.is_empty() {
        return "\nnothing was launched on a device".to_owned();
    }
    let total = launches.iter().map(|l| l.time.as_secs_f64()).sum::<f64>().max(1e-12);
    let mut longest = launches.iter().collect::<Vec<_>>();
    longest.sort_by_key(|l| std::cmp::Reverse(l.time));
    let mut rows = table(&["kernel", "time us", "share", "nodes"]);
    for launch in longest {
        let seconds = launch.time.as_secs_f64();
        let (us, share) = (format!("{:.1}", seconds * 1e6), format!("{:.1} %", 100.0 * seconds / total));
        rows.add_row([launch.kernel.to_owned(), us, share, names(model, launch).join(", ")]);
    }
    format!("\n\n{}", text(&rows))
}
