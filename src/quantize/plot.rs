//! The report as a picture: a bar for each layer, the worst on top. Plain SVG that a browser shows in its light or dark colours.

use std::fmt::Write;

use super::report::Report;

const BAR: usize = 18;
const LABEL: usize = 330;
const WIDTH: usize = 420;
const TOP: usize = 60;

/// Layers above this are not worth a bar, and fill the picture.
const MOST_LAYERS: usize = 60;

/// An SVG of the layers' signal-to-noise ratios in decibels.
pub fn svg(report: &Report, title: &str) -> String {
    let layers = report.layers.iter().take(MOST_LAYERS).collect::<Vec<_>>();
    let finite = |db: f64| if db.is_finite() { db.max(0.0) } else { 0.0 };
    let longest = layers.iter().map(|l| finite(l.difference.sqnr_db())).fold(10.0, f64::max);
    let (height, width) = (TOP + layers.len() * BAR + 40, LABEL + WIDTH + 70);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <style>:root {{ color-scheme: light dark }} text {{ fill: CanvasText }} .bar {{ fill: #4a7fb5 }} .low {{ fill: #c2603f }}</style>\n\
         <text x=\"10\" y=\"22\" font-size=\"15\">{}</text>\n\
         <text x=\"10\" y=\"42\">Signal to quantisation noise in decibels, layer by layer, the worst first ({} of {})</text>\n",
        escaped(title),
        layers.len(),
        report.layers.len()
    );
    for (i, layer) in layers.iter().enumerate() {
        let (db, y) = (finite(layer.difference.sqnr_db()), TOP + i * BAR);
        // Below 20 dB the noise is a tenth of the signal: worth a look.
        let class = if db < 20.0 { "bar low" } else { "bar" };
        let length = db / longest * WIDTH as f64;
        let name = shortened(&format!("{} {}", layer.operator, layer.value));
        // Writing to a text does not fail.
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text><rect class=\"{class}\" x=\"{LABEL}\" y=\"{}\" width=\"{length:.1}\" \
             height=\"{}\"/><text x=\"{:.1}\" y=\"{}\">{db:.1}</text>",
            LABEL - 8,
            y + BAR - 5,
            escaped(&name),
            y + 2,
            BAR - 4,
            LABEL as f64 + length + 6.0,
            y + BAR - 5
        );
    }
    let axis = TOP + layers.len() * BAR + 8;
    for tenth in 0..=(longest / 10.0) as usize {
        let x = LABEL as f64 + tenth as f64 * 10.0 / longest * WIDTH as f64;
        let _ = writeln!(
            out,
            "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            axis + 12,
            tenth * 10
        );
    }
    out.push_str("</svg>\n");
    out
}

/// The end of a long name tells more than its beginning.
fn shortened(name: &str) -> String {
    const MOST: usize = 48;
    let count = name.chars().count();
    match count > MOST {
        true => format!("…{}", name.chars().skip(count - MOST + 1).collect::<String>()),
        false => name.to_owned(),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::{Difference, Layer};

    #[test]
    fn every_layer_has_a_bar_and_names_are_text() {
        let layer = |value: &str, noise: f32| {
            let mut difference = Difference::default();
            difference.add(&[1.0], &[1.0 - noise]);
            Layer { value: value.to_owned(), operator: "Conv".to_owned(), difference }
        };
        let report = Report {
            layers: vec![layer("bad<&>", 0.5), layer(&"long".repeat(30), 0.001), layer("exact", 0.0)],
            outputs: vec![],
            same_top: None,
            samples: 1,
        };
        let picture = svg(&report, "a \"model\"");
        assert_eq!(picture.matches("<rect").count(), 3);
        assert!(
            picture.contains("bad&lt;&amp;&gt;")
                && picture.contains("a &quot;model&quot;")
                && picture.contains("bar low")
        );
        assert!(!picture.contains("NaN") && !picture.contains("inf"), "{picture}");
    }
}
