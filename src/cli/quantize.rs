//! `triscore quantize`: a float model becomes one that computes on 8-bit integers, or 8-bit floats, with a report of what that cost.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use triscore::graph::{Graph, encode, qonnx};
use triscore::int8::QType;
use triscore::quantize::{
    Calibration, Difference, Report, Scheme, plot, quantize, quantize_dynamic, quantize_float8,
};
use triscore::{BackendKind, DType, Model, Result, ScoreError, Signature, Tensor};

use super::Global;
use super::output::{Output, table};
use super::tensor_file;

/// What `quantize` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The float model: an .onnx file, or a folder that holds one.
    model: PathBuf,

    /// Typical inputs: a .npz or .npy file (the first axis is the samples), a .json request, or a folder of such files. Not for a QONNX
    /// model, which is quantised already: it is written with Q/DQ pairs, as every runtime of ONNX takes it.
    #[arg(long, value_name = "DATA")]
    calibrate: Option<PathBuf>,

    /// Where the quantised model goes.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,

    /// Find the range of what comes into each product anew for every call, as transformers need it: only products with constant
    /// weights become integers. DATA is then what both models are compared on.
    #[arg(long, conflicts_with_all = ["method", "symmetric"])]
    dynamic: bool,

    /// How ranges are chosen: every value in it, most of them (--percentile), least divergence, or least squared error.
    #[arg(long, value_enum, default_value = "min-max")]
    method: Method,

    /// How many percent of the values are in range, for --method percentile.
    #[arg(long, default_value_t = 99.99, value_name = "PERCENT")]
    percentile: f64,

    /// The type of activations: u8, i8, u16 or i16, with weights in i8; 16 bits keep what transformers need, and take the FPGA's engine about
    /// twice the time. Or f8e4m3 or f8e5m2, floats of 8 bits, for GPUs: only products with constant weights (f8e4m3) become so.
    #[arg(long, default_value = "u8", value_name = "TYPE")]
    activations: String,

    /// Let zero be the middle of the activations' range.
    #[arg(long)]
    symmetric: bool,

    /// One scale for all of a weight, instead of one for each output channel.
    #[arg(long)]
    per_tensor: bool,

    /// A node that stays float, by name or operator; may be given several times.
    #[arg(long, value_name = "NODE")]
    exclude: Vec<String>,

    /// At most so many samples.
    #[arg(long, default_value_t = 256, value_name = "N")]
    samples: usize,

    /// Where a picture of the layers goes (.svg).
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Method {
    MinMax,
    Percentile,
    Entropy,
    Mse,
}

/// Quantises and reports.
pub(super) fn run(args: &Args, global: &Global, out: &Output) -> Result<()> {
    let activations = args.activations.parse::<DType>().ok();
    let activations =
        activations.filter(|t| t.is_float8() || QType::try_from(*t).is_ok()).ok_or_else(|| {
            let what =
                format!("--activations {}: expected u8, i8, u16, i16, f8e4m3 or f8e5m2", args.activations);
            ScoreError::bad_config(what)
        })?;
    if activations.is_float8() && (args.dynamic || args.symmetric) {
        let what = format!("--activations {activations}: --dynamic and --symmetric are about integers");
        return Err(ScoreError::bad_config(what));
    }
    if !(0.0..=100.0).contains(&args.percentile) {
        return Err(ScoreError::bad_config(format!("--percentile {}: expected 0 to 100", args.percentile)));
    }
    let calibration = match args.method {
        Method::MinMax => Calibration::MinMax,
        Method::Percentile => Calibration::Percentile(args.percentile),
        Method::Entropy => Calibration::Entropy,
        Method::Mse => Calibration::Mse,
    };
    let scheme = Scheme {
        activations: QType::try_from(activations).unwrap_or(QType::U8),
        symmetric: args.symmetric,
        per_channel: !args.per_tensor,
        exclude: args.exclude.clone(),
    };
    let model = Model::open(&args.model)?;
    let data = match (&args.calibrate, qonnx::count(&model)) {
        (Some(data), 0) => data,
        (None, 0) => {
            let what =
                "--calibrate is missing: expected inputs that are typical for the model (.npz, .npy, .json)";
            return Err(ScoreError::bad_config(what));
        }
        (None, nodes) => return convert(args, &model, nodes, out),
        (Some(_), nodes) => {
            let what = format!(
                "the model is quantised already, by {nodes} nodes of QONNX: leave --calibrate out, and it is written with Q/DQ pairs"
            );
            return Err(ScoreError::bad_config(what).with_at(args.model.display().to_string()));
        }
    };
    let samples = samples(data, model.signature(), args.samples)?;
    let shown = !out.is_json() && std::io::stderr().is_terminal();
    let progress = |doing: &str, done: usize, of: usize| {
        if shown {
            let end = if done == of { "\n" } else { "" };
            let _ = write!(std::io::stderr(), "\r{doing}: {done} of {of}{end}");
        }
    };
    // The float model is run where all of ONNX runs.
    let cpu = global.backends().into_iter().find(|b| b.kind() == BackendKind::Cpu);
    let cpu = cpu.ok_or_else(|| {
        ScoreError::unavailable(
            "quantising runs the float model, and this program was built without the CPU backend",
        )
    })?;
    let done = match args.dynamic {
        true => quantize_dynamic(&model, &samples, &scheme, &*cpu, &progress)?,
        false if activations.is_float8() => {
            quantize_float8(&model, &samples, activations, &scheme, calibration, &*cpu, &progress)?
        }
        false => quantize(&model, &samples, &scheme, calibration, &*cpu, &progress)?,
    };
    let bytes = encode(&done.model)?;
    written(&args.output, &bytes)?;
    if let Some(path) = &args.plot {
        let title = format!("{} as {}", args.model.display(), args.output.display());
        written(path, plot::svg(&done.report, &title).as_bytes())?;
    }
    let sizes = (model.size_bytes(), bytes.len() as u64);
    out.result(&as_json(args, &done.report, samples.len(), sizes), || {
        as_text(args, &done.report, samples.len(), sizes)
    })
}

fn written(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).map_err(|e| ScoreError::io("write", path, e))
}

/// Writes a QONNX model with Q/DQ pairs.
fn convert(args: &Args, model: &Model, nodes: usize, out: &Output) -> Result<()> {
    let bytes = encode(&Graph::of(model)?.to_model()?)?;
    written(&args.output, &bytes)?;
    let json = json!({
        "model": args.model,
        "output": args.output,
        "rewritten": nodes,
        "sizeBytes": { "qonnx": model.size_bytes(), "quantised": bytes.len() },
    });
    out.result(&json, || {
        format!(
            "{}: {} bytes, of {} as QONNX; {nodes} of its nodes are Q/DQ pairs now\n",
            args.output.display(),
            bytes.len(),
            model.size_bytes()
        )
    })
}

/// Samples of one row each, from a file or from every file of a folder.
fn samples(path: &Path, signature: &Signature, most: usize) -> Result<Vec<Vec<Tensor>>> {
    let mut files = Vec::new();
    if path.is_dir() {
        let entries = std::fs::read_dir(path).map_err(|e| ScoreError::io("list", path, e))?;
        for entry in entries {
            files.push(entry.map_err(|e| ScoreError::io("list", path, e))?.path());
        }
        files.retain(|f| tensor_file::check_kind(f).is_ok());
        files.sort();
        if files.is_empty() {
            let what = "no file in it ends in .json, .npz or .npy";
            return Err(ScoreError::bad_input(what).with_at(path.display().to_string()));
        }
    } else {
        files.push(path.to_owned());
    }
    let mut samples = Vec::new();
    for file in files {
        let inputs = tensor_file::read(&file, signature)?.inputs;
        let rows = signature.rows(&inputs);
        match signature.batch_axis() {
            Some(axis) => {
                for row in 0..rows.min(most - samples.len()) {
                    samples.push(inputs.iter().map(|t| t.rows(axis, row..row + 1)).collect::<Result<_>>()?);
                }
            }
            None => samples.push(inputs),
        }
        if samples.len() >= most {
            break;
        }
    }
    Ok(samples)
}

fn numbers(d: &Difference) -> Value {
    let db = d.sqnr_db();
    json!({
        // Without noise there is no ratio.
        "sqnrDb": if db.is_finite() { json!(db) } else { Value::Null },
        "cosine": d.cosine(),
        "meanAbsError": d.mean_abs(),
        "maxAbsError": d.max_abs(),
    })
}

fn as_json(args: &Args, report: &Report, samples: usize, (before, after): (u64, u64)) -> Value {
    let with = |mut value: Value, name: &str, text: &str| {
        if let Some(map) = value.as_object_mut() {
            map.insert(name.to_owned(), json!(text));
        }
        value
    };
    let layers = report
        .layers
        .iter()
        .map(|l| with(with(numbers(&l.difference), "operator", &l.operator), "value", &l.value));
    let outputs = report.outputs.iter().map(|(name, d)| with(numbers(d), "name", name));
    json!({
        "model": args.model,
        "output": args.output,
        "sizeBytes": { "float": before, "quantised": after },
        "samples": { "calibrated": samples, "compared": report.samples },
        "outputs": outputs.collect::<Vec<_>>(),
        "sameTop": report.same_top.map(|(same, of)| json!({ "same": same, "of": of })),
        "layers": layers.collect::<Vec<_>>(),
        "plot": args.plot,
    })
}

fn as_text(args: &Args, report: &Report, samples: usize, (before, after): (u64, u64)) -> String {
    const WORST: usize = 10;
    let row = |name: &str, operator: &str, d: &Difference| {
        vec![
            name.to_owned(),
            operator.to_owned(),
            if d.sqnr_db().is_finite() { format!("{:.1}", d.sqnr_db()) } else { "exact".to_owned() },
            format!("{:.6}", d.cosine()),
            format!("{:.3e}", d.max_abs()),
        ]
    };
    let layers = report.layers.iter().take(WORST).map(|l| row(&l.value, &l.operator, &l.difference));
    let outputs = report.outputs.iter().map(|(name, d)| row(name, "output", d));
    let mut shown = table(&["value", "operator", "SQNR dB", "cosine", "max error"]);
    shown.add_rows(outputs.chain(layers));
    let mut text = format!("The outputs, and the worst of {} layers:\n{shown}", report.layers.len());
    if let Some((same, of)) = report.same_top {
        text += &format!("\nThe largest element of a row is the same in {same} of {of} rows.");
    }
    text += &format!(
        "\n{}: {} bytes, of {before} as floats; calibrated on {samples} samples, compared on {}\n",
        args.output.display(),
        after,
        report.samples
    );
    text
}
