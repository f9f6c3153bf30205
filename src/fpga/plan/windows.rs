//! Pools.

use super::Planner;
use super::words::{Descriptor, Kernel, type_code};
use crate::error::{Result, ScoreError};
use crate::graph::{Node, Window};
use crate::int8::{QParams, QType};
use crate::layout::view::View;
use crate::layout::view::channels_last;

/// What the pool kernel does: its `L_KIND`.
enum Kind {
    Max,
    Average { from: QParams, to: QParams },
    Global { from: QParams, to: QParams },
}

impl Kind {
    /// What it makes, where that is not as what it reads.
    fn to(&self) -> Option<&QParams> {
        match self {
            Self::Max => None,
            Self::Average { to, .. } | Self::Global { to, .. } => Some(to),
        }
    }
}

impl Planner<'_> {
    pub(super) fn pool(&mut self, node: &Node) -> Result<()> {
        let (x, kind, qtype) = match node.op.name.as_str() {
            "MaxPool" => {
                let qtype = self.qtype(node, 0)?;
                if node.outputs.iter().skip(1).any(Option::is_some) {
                    return Err(ScoreError::unsupported("the places of the maxima"));
                }
                (self.view(node, 0)?, Kind::Max, qtype)
            }
            name => {
                let ((x, from), to) = (self.quantised(node, 0)?, self.made(node, 3)?);
                let is_global = name == "QLinearGlobalAveragePool";
                (
                    x,
                    if is_global { Kind::Global { from, to } } else { Kind::Average { from, to } },
                    from.qtype(),
                )
            }
        };
        let attributes = &node.op.attributes;
        if attributes.flag("channels_last") {
            return Err(ScoreError::unsupported("channels_last"));
        }
        let axes = x.shape.len().saturating_sub(2);
        if !(1..=2).contains(&axes) {
            return Err(ScoreError::unsupported(format!(
                "a pool over {axes} axes: the engine has one over 1 or 2"
            )));
        }
        let x = self.channels_contiguous(node, x)?;
        let y_type = kind.to().map_or(qtype, |to| to.qtype());
        let y = self.allocate_output(node, &channels_last(axes + 2), y_type.size_bytes())?;
        let two = |list: &[usize], one: usize| match list {
            [a] => [one, *a],
            [a, b, ..] => [*a, *b],
            [] => [one, one],
        };
        let spatial = two(x.shape.get(2..).unwrap_or_default(), 1);
        let (kernel, strides, dilations, pads) = match kind {
            Kind::Global { .. } => (spatial, [1, 1], [1, 1], [0, 0]),
            _ => {
                let window = Window::of_pool(attributes, axes)?;
                let kernel_of = |a: usize| window.kernel.get(a).copied().unwrap_or(1);
                let pads =
                    (0..axes).map(|a| window.padding(a, x.length(a + 2), kernel_of(a)).0).collect::<Vec<_>>();
                (two(&window.kernel, 1), two(&window.strides, 1), two(&window.dilations, 1), two(&pads, 0))
            }
        };
        let out = two(y.shape.get(2..).unwrap_or_default(), 1);
        let row = |v: &View| if axes == 2 { v.stride(2) } else { 0 };
        let descriptor = Descriptor::new()
            .view(&x)
            .ints(&[x.stride(0), row(&x), x.stride(axes + 1)])
            .int(type_code(qtype))
            .ints(&spatial)
            .int(x.length(1))
            .ints(&kernel)
            .ints(&strides)
            .ints(&dilations)
            .ints(&pads)
            .ints(&out)
            .view(&y)
            .ints(&[y.stride(0), row(&y), y.stride(axes + 1)])
            .int(type_code(y_type));
        let descriptor = parameters(descriptor, &kind, qtype, kernel, attributes.flag("count_include_pad"))?;
        self.operator(node, Kernel::Pool, descriptor, x.length(0) * out[0], &[&x], &y);
        Ok(())
    }
}

/// The words from `L_KIND` on.
fn parameters(
    words: Descriptor,
    kind: &Kind,
    qtype: QType,
    kernel: [usize; 2],
    count_padding: bool,
) -> Result<Descriptor> {
    let whole = |v: i32| v as f32;
    Ok(match kind {
        Kind::Max => words
            .int(0)
            .int(0)
            .float(1.0)
            .float(1.0)
            .int(0)
            .float(whole(qtype.min()))
            .float(whole(qtype.max()))
            .int(0),
        Kind::Average { from, to } => words
            .int(1)
            .int(from.zero_point())
            .float(from.scale())
            .float(to.scale())
            .int(to.zero_point())
            .float(whole(to.qtype().min()))
            .float(whole(to.qtype().max()))
            .int(i64::from(count_padding)),
        Kind::Global { from, to } => {
            let count = kernel.iter().product::<usize>();
            // So many integers have a sum that fits 32 bits.
            if count > i32::MAX as usize / (from.qtype().count() - 1) {
                return Err(ScoreError::unsupported(format!("a mean of {count} elements")));
            }
            let (low, high) = super::words::bounds(to);
            let factor = from.scale() / (to.scale() * count as f32);
            words
                .int(2)
                .int(from.zero_point())
                .float(factor)
                .float(1.0)
                .int(to.zero_point())
                .float(low)
                .float(high)
                .int(0)
        }
    })
}
