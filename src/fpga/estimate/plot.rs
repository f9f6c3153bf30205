//! The roofline: what each layer does with a byte, and how much of what the board could do it reaches.

use super::Estimate;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 460.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 56.0;
const BOTTOM: f64 = 50.0;

/// Powers of ten along both axes.
struct Axes {
    x: (f64, f64),
    y: (f64, f64),
}

impl Axes {
    fn place(&self, x: f64, y: f64) -> (f64, f64) {
        let along = |v: f64, (low, high): (f64, f64)| ((v.log10() - low) / (high - low)).clamp(0.0, 1.0);
        let (x, y) = (along(x, self.x), along(y, self.y));
        (LEFT + x * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - y * (HEIGHT - TOP - BOTTOM))
    }
}

/// The picture of an estimate, as SVG: operations a second over operations a byte, both in powers of ten.
pub fn roofline(estimate: &Estimate, title: &str) -> String {
    let (peak, bandwidth) = (estimate.peak_operations_per_s(), estimate.board.memory_bytes_per_s);
    let axes = Axes { x: (-1.0, 4.0), y: (peak.log10().ceil() - 5.0, peak.log10().ceil()) };
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"14\">{}</text>\n\
         <text x=\"{LEFT}\" y=\"40\" fill=\"#a33\">estimated: {}, {:.0} MHz assumed; nothing was measured on a board</text>\n",
        escaped(title),
        escaped(estimate.board.device),
        estimate.board.assumed_clock_mhz,
    );
    for (axis, low, high) in [('x', axes.x.0, axes.x.1), ('y', axes.y.0, axes.y.1)] {
        for power in low.round() as i32..=high.round() as i32 {
            let value = 10f64.powi(power);
            let (x, y) = if axis == 'x' { axes.place(value, 1.0) } else { axes.place(1e-1, value) };
            let (x2, y2) = if axis == 'x' { (x, TOP) } else { (WIDTH - RIGHT, y) };
            out += &format!(
                "<line x1=\"{x:.1}\" y1=\"{y:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"#ddd\"/>\n"
            );
            let label = if axis == 'x' { format!("{value}") } else { format!("{}", value / 1e9) };
            let (tx, ty, anchor) = if axis == 'x' {
                (x, HEIGHT - BOTTOM + 16.0, "middle")
            } else {
                (LEFT - 6.0, y + 4.0, "end")
            };
            out += &format!("<text x=\"{tx:.1}\" y=\"{ty:.1}\" text-anchor=\"{anchor}\">{label}</text>\n");
        }
    }
    let roof = [0.1, peak / bandwidth, 1e4].map(|i| axes.place(i, (i * bandwidth).min(peak)));
    let points = roof.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect::<Vec<_>>().join(" ");
    out += &format!("<polyline points=\"{points}\" fill=\"none\" stroke=\"#333\" stroke-width=\"2\"/>\n");
    for layer in estimate.layers.iter().filter(|l| l.cost.products > 0) {
        let operations = 2.0 * layer.cost.products as f64;
        let bytes = (layer.cost.read_bytes + layer.cost.written_bytes).max(1) as f64;
        let (x, y) = axes.place(operations / bytes, operations / layer.time_s);
        let share = layer.time_s / estimate.time_s;
        out += &format!(
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{:.1}\" fill=\"#27c\" fill-opacity=\"0.5\"><title>{} {:?}: {:.1} % of the time, {}</title></circle>\n",
            3.0 + 30.0 * share.sqrt().min(0.5),
            layer.kernel,
            layer.nodes,
            100.0 * share,
            layer.bound,
        );
    }
    out += &format!(
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">operations a byte of the card's memory</text>\n\
         <text x=\"16\" y=\"{:.1}\" transform=\"rotate(-90 16 {:.1})\" text-anchor=\"middle\">GOP/s</text>\n</svg>\n",
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 12.0,
        HEIGHT / 2.0,
        HEIGHT / 2.0,
    );
    out
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
