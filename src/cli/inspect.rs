//! `triscore inspect`: what a model is, and where each backend would run it.

use std::path::PathBuf;

use serde_json::{Value, json};
use triscore::scoring::Site;
use triscore::{Backend, Model, Placement, Port, Result};

use super::Global;
use super::output::{Output, size, table, text};

/// What `inspect` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The model: an .onnx file, or a folder that holds one.
    model: PathBuf,

    /// Estimate what the FPGA engine would do on a board that is not there: arria10, u250, u55c or agilex7.
    #[cfg(feature = "opencl")]
    #[arg(long, value_name = "NAME")]
    fpga_board: Option<String>,

    /// Rows of the batch to estimate.
    #[cfg(feature = "opencl")]
    #[arg(long, default_value_t = 1, value_name = "N", requires = "fpga_board")]
    batch: usize,

    /// Where a picture of the estimate goes: a roofline (.svg).
    #[cfg(feature = "opencl")]
    #[arg(long, value_name = "FILE", requires = "fpga_board")]
    roofline: Option<PathBuf>,
}

/// Reads the model and prints what it is.
pub(super) fn run(args: &Args, global: &Global, out: &Output) -> Result<()> {
    let model = Model::open(&args.model)?;
    #[cfg(feature = "opencl")]
    if let Some(board) = &args.fpga_board {
        return super::estimate::run(&model, board, args.batch, args.roofline.as_deref(), out);
    }
    let places = global.backends().into_iter().map(|b| (b.kind().to_string(), place(&*b, &model)));
    let places = places.collect::<Vec<_>>();
    out.result(&to_json(&model, &places), || to_text(&model, &places))
}

type Places = [(String, std::result::Result<Placement, String>)];

/// Where a backend would run the model, on its first device; or why it would not.
fn place(backend: &dyn Backend, model: &Model) -> std::result::Result<Placement, String> {
    let devices = backend.probe().map_err(|e| e.to_string())?;
    let device = devices.first().ok_or("it has no device")?;
    backend.place(model, device).map_err(|e| e.to_string())
}

fn to_json(model: &Model, places: &Places) -> Value {
    let ports = |ports: &[Port]| {
        ports
            .iter()
            .map(|p| json!({ "name": p.name, "type": p.kind.to_string(), "optional": p.optional }))
            .collect::<Vec<_>>()
    };
    let signature = model.signature();
    let placement = places.iter().map(|(backend, place)| match place {
        Ok(placement) => json!({
            "backend": backend,
            "summary": placement.summary(),
            "nodes": placement.nodes().iter().map(|n| json!({
                "node": n.node,
                "operator": n.operator,
                "site": site(&n.site),
                "reason": reason(&n.site),
            })).collect::<Vec<_>>(),
        }),
        Err(reason) => json!({ "backend": backend, "reason": reason }),
    });
    json!({
        "path": model.path(),
        "sizeBytes": model.size_bytes(),
        "irVersion": model.ir_version(),
        "opsets": model.opsets().iter().map(|(d, v)| (domain(d).to_owned(), json!(v))).collect::<serde_json::Map<_, _>>(),
        "producer": model.producer(),
        "parameters": model.parameter_count(),
        "parameterBytes": model.parameter_bytes(),
        "inputs": ports(signature.inputs()),
        "outputs": ports(signature.outputs()),
        "batchAxis": signature.batch_axis(),
        "operators": model.operators().into_iter().map(|(o, n)| (o, json!(n))).collect::<serde_json::Map<_, _>>(),
        "placement": placement.collect::<Vec<_>>(),
    })
}

fn domain(name: &str) -> &str {
    if name.is_empty() { "ai.onnx" } else { name }
}

fn site(site: &Site) -> &'static str {
    match site {
        Site::Device => "device",
        Site::Host { .. } => "host",
        _ => "nowhere",
    }
}

fn reason(site: &Site) -> Option<&str> {
    match site {
        Site::Host { reason } | Site::Nowhere { reason } => Some(reason),
        _ => None,
    }
}

fn to_text(model: &Model, places: &Places) -> String {
    let signature = model.signature();
    let opsets =
        model.opsets().iter().map(|(d, v)| format!("{} {v}", domain(d))).collect::<Vec<_>>().join(", ");
    let mut head = format!(
        "{}  {}, {} parameters ({})\nIR version {}, operator sets: {opsets}{}\n",
        model.path().map(|p| p.display().to_string()).unwrap_or_default(),
        size(model.size_bytes()),
        model.parameter_count(),
        size(model.parameter_bytes()),
        model.ir_version(),
        model.producer().map(|p| format!(", made by {p}")).unwrap_or_default(),
    );
    let mut ports = table(&["port", "name", "type"]);
    for (side, list) in [("input", signature.inputs()), ("output", signature.outputs())] {
        for port in list {
            let optional = if port.optional { " (optional)" } else { "" };
            ports.add_row([side.to_owned(), port.name.clone(), format!("{}{optional}", port.kind)]);
        }
    }
    head.push_str(&match signature.batch_axis() {
        Some(axis) => format!("batch axis {axis}, as its shapes say\n\n"),
        None => "no batch axis\n\n".to_owned(),
    });
    let mut operators = table(&["operator", "nodes"]);
    for (operator, count) in model.operators() {
        operators.add_row([operator, count.to_string()]);
    }
    let mut placement = String::new();
    for (backend, place) in places {
        match place {
            Ok(p) => {
                placement.push_str(&format!("{}\n", p.summary()));
                for node in p.nodes().iter().filter(|n| n.site != Site::Device) {
                    let why = reason(&node.site).unwrap_or_default();
                    placement.push_str(&format!(
                        "  {} '{}': {}: {why}\n",
                        node.operator,
                        node.node,
                        site(&node.site)
                    ));
                }
            }
            Err(reason) => placement.push_str(&format!("{backend}: not there: {reason}\n")),
        }
    }
    format!(
        "{head}{}\n\n{}\n\nPLACEMENT (nodes on the device of all)\n{placement}",
        text(&ports),
        text(&operators)
    )
}
