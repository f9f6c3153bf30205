//! `triscore inspect MODEL --fpga-board NAME`: what the engine would do on a board that is not there, estimated.

use std::path::Path;

use serde_json::{Value, json};
use triscore::fpga::estimate::{BOARDS, Board, Candidate, Estimate, Layer, board, estimate, plot};
use triscore::{Model, Result, ScoreError};

use super::output::{Output, size, table, text};

/// What every output says.
const WARNING: &str =
    "ESTIMATED from the kernels' loops and the board's data sheet; nothing of it was measured on a board.";

/// Layers that are shown: the longest.
const MOST_LAYERS: usize = 20;
/// Sizes of the engine that are shown: the best.
const MOST_SIZES: usize = 5;

/// Estimates and prints.
pub(super) fn run(
    model: &Model,
    name: &str,
    batch: usize,
    roofline: Option<&Path>,
    out: &Output,
) -> Result<()> {
    let unknown = || {
        let known = BOARDS.iter().map(|b| format!("{} ({})", b.name, b.device)).collect::<Vec<_>>();
        ScoreError::bad_config(format!("--fpga-board {name}: expected one of {}", known.join(", ")))
    };
    let board = board(name).ok_or_else(unknown)?;
    if batch == 0 || batch > 4096 {
        return Err(ScoreError::bad_config(format!("--batch {batch}: expected 1 to 4096")));
    }
    let found = estimate(model, board, batch)?;
    if let Some(path) = roofline {
        let title = format!("{} on {}", model.path().unwrap_or(Path::new("a model")).display(), board.name);
        std::fs::write(path, plot::roofline(&found, &title)).map_err(|e| ScoreError::io("write", path, e))?;
    }
    out.result(&as_json(model, &found, roofline), || as_text(model, board, &found))
}

fn names(model: &Model, layer: &Layer) -> Vec<String> {
    let node = |place: &usize| model.nodes().get(*place);
    let nodes = layer.nodes.iter().filter_map(node);
    nodes.map(|n| if n.name.is_empty() { n.operator.clone() } else { n.name.clone() }).collect()
}

fn candidate(c: &Candidate) -> Value {
    json!({
        "rows": c.size.tile.rows,
        "depth": c.size.tile.depth,
        "units": c.size.units,
        "dspBlocks": c.dsp_blocks,
        "onChipBytes": c.on_chip_bytes,
        "fits": c.fits,
        "rowsPerS": c.rows_per_s,
    })
}

fn as_json(model: &Model, found: &Estimate, roofline: Option<&Path>) -> Value {
    let layers = found.layers.iter().map(|l| {
        json!({
            "kernel": l.kernel,
            "nodes": names(model, l),
            "cycles": l.cost.cycles,
            "readBytes": l.cost.read_bytes,
            "writtenBytes": l.cost.written_bytes,
            "products": l.cost.products,
            "timeUs": l.time_s * 1e6,
            "bound": l.bound.to_string(),
        })
    });
    let board = &found.board;
    json!({
        "estimated": true,
        "note": WARNING,
        "board": {
            "name": board.name,
            "device": board.device,
            "dspBlocks": board.dsp_blocks,
            "onChipBytes": board.on_chip_bytes,
            "memoryBytesPerS": board.memory_bytes_per_s,
            "assumedClockMhz": board.assumed_clock_mhz,
            "source": board.source,
        },
        "batch": found.rows,
        "timeUs": found.time_s * 1e6,
        "rowsPerS": found.best.rows_per_s,
        "gops": found.operations_per_s() / 1e9,
        "peakGops": found.peak_operations_per_s() / 1e9,
        "hostNodes": found.on_host,
        "engine": candidate(&found.best),
        "sizes": found.candidates.iter().map(candidate).collect::<Vec<_>>(),
        "layers": layers.collect::<Vec<_>>(),
        "roofline": roofline,
    })
}

fn as_text(model: &Model, board: &Board, found: &Estimate) -> String {
    let mut layers = found.layers.iter().collect::<Vec<_>>();
    layers.sort_by(|a, b| b.time_s.total_cmp(&a.time_s));
    let mut rows = table(&["kernel", "time us", "share", "cycles", "GOP/s", "bytes", "bound", "nodes"]);
    for layer in layers.iter().take(MOST_LAYERS) {
        rows.add_row([
            layer.kernel.to_owned(),
            format!("{:.1}", layer.time_s * 1e6),
            format!("{:.1} %", 100.0 * layer.time_s / found.time_s),
            layer.cost.cycles.to_string(),
            format!("{:.1}", 2.0 * layer.cost.products as f64 / layer.time_s / 1e9),
            size(layer.cost.read_bytes + layer.cost.written_bytes),
            layer.bound.to_string(),
            names(model, layer).join(", "),
        ]);
    }
    let mut sizes = table(&["rows", "units", "DSP blocks", "on chip", "fits", "rows/s"]);
    let misfit = found.candidates.iter().find(|c| !c.fits);
    for c in found.candidates.iter().filter(|c| c.fits).take(MOST_SIZES).chain(misfit) {
        sizes.add_row([
            format!("{} × 16", c.size.tile.rows),
            c.size.units.to_string(),
            format!("{} of {}", c.dsp_blocks, board.dsp_blocks),
            size(c.on_chip_bytes as u64),
            if c.fits { "yes".to_owned() } else { "no".to_owned() },
            format!("{:.1}", c.rows_per_s),
        ]);
    }
    let host = match found.on_host {
        0 => String::new(),
        n => format!("\n{n} nodes run on the host and are not in it."),
    };
    let shown = layers.len().min(MOST_LAYERS);
    format!(
        "{WARNING}\n{}: {} MHz assumed, {:.1} GB/s\n  from {}\n\n\
         batch {}: {:.3} ms, {:.1} rows/s, {:.0} GOP/s of {:.0} at most{host}\n\nSIZES OF THE ENGINE\n{}\n\nTHE {shown} LONGEST OF {} LAUNCHES\n{}",
        board.device,
        board.assumed_clock_mhz,
        board.memory_bytes_per_s / 1e9,
        board.source,
        found.rows,
        found.time_s * 1e3,
        found.best.rows_per_s,
        found.operations_per_s() / 1e9,
        found.peak_operations_per_s() / 1e9,
        text(&sizes),
        layers.len(),
        text(&rows)
    )
}
