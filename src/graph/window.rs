//! The window of a convolution or a pooling: kernel, strides, dilations, padding.

use super::attributes::Attributes;
use crate::error::{Result, ScoreError};

/// How a window moves over the spatial axes; one entry an axis, padding before all axes first, then after all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Elements of the kernel along each axis; empty where the weights tell it.
    pub kernel: Vec<usize>,
    /// Steps between two outputs.
    pub strides: Vec<usize>,
    /// Steps between two elements of the kernel.
    pub dilations: Vec<usize>,
    /// Padding, `[begins…, ends…]`.
    pub pads: Vec<usize>,
    /// Whether the padding follows from the input's length instead.
    pub auto_pad: AutoPad,
}

/// Padding that follows from the input's length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AutoPad {
    /// As said.
    None,
    /// So that there are `ceil(input / stride)` outputs, the odd element behind.
    SameUpper,
    /// So that there are `ceil(input / stride)` outputs, the odd element in front.
    SameLower,
}

impl Window {
    /// The window of a convolution over that many spatial axes.
    ///
    /// # Errors
    /// `BadModel` for attributes that do not fit the number of axes, or a step of zero.
    pub fn of_conv(attributes: &Attributes, axes: usize) -> Result<Window> {
        let one_each = |name: &str| -> Result<Vec<usize>> {
            let values = attributes.lengths(name)?.unwrap_or_else(|| vec![1; axes]);
            if values.len() != axes || values.contains(&0) {
                let what = format!("{name} is {values:?}: expected {axes} numbers above zero");
                return Err(ScoreError::bad_model(what));
            }
            Ok(values)
        };
        let auto_pad = match attributes.text("auto_pad").unwrap_or("NOTSET") {
            "NOTSET" | "VALID" | "" => AutoPad::None,
            "SAME_UPPER" => AutoPad::SameUpper,
            "SAME_LOWER" => AutoPad::SameLower,
            other => return Err(ScoreError::bad_model(format!("auto_pad is '{other}'"))),
        };
        // Negative padding (cropping) exists in ONNX's text and in nobody's models.
        let pads = match attributes.text("auto_pad") {
            Some("VALID") => None,
            _ => attributes.lengths("pads")?,
        };
        let pads = pads.unwrap_or_else(|| vec![0; 2 * axes]);
        if pads.len() != 2 * axes {
            return Err(ScoreError::bad_model(format!("pads is {pads:?}: expected {} numbers", 2 * axes)));
        }
        let kernel = attributes.lengths("kernel_shape")?.unwrap_or_default();
        if !kernel.is_empty() && (kernel.len() != axes || kernel.contains(&0)) {
            let what = format!("kernel_shape is {kernel:?}: expected {axes} numbers above zero");
            return Err(ScoreError::bad_model(what));
        }
        Ok(Window {
            kernel,
            strides: one_each("strides")?,
            dilations: one_each("dilations")?,
            pads,
            auto_pad,
        })
    }

    /// The window of a pooling, which says its kernel.
    ///
    /// # Errors
    /// As [`of_conv`](Self::of_conv); `BadModel` without a kernel.
    pub fn of_pool(attributes: &Attributes, axes: usize) -> Result<Window> {
        let window = Self::of_conv(attributes, axes)?;
        match window.kernel.is_empty() {
            true if axes > 0 => Err(ScoreError::bad_model("it has no kernel_shape")),
            _ => Ok(window),
        }
    }

    /// How many elements of padding stand before and after an axis of that length, for a kernel of that many elements.
    pub fn padding(&self, axis: usize, length: usize, kernel: usize) -> (usize, usize) {
        let at = |list: &[usize], i: usize| list.get(i).copied().unwrap_or(0);
        let (stride, dilation) = (at(&self.strides, axis).max(1), at(&self.dilations, axis).max(1));
        if self.auto_pad == AutoPad::None {
            return (at(&self.pads, axis), at(&self.pads, axis + self.strides.len()));
        }
        let outputs = length.div_ceil(stride);
        let span = (kernel.max(1) - 1).saturating_mul(dilation).saturating_add(1);
        let needed = outputs.saturating_sub(1).saturating_mul(stride).saturating_add(span);
        let total = needed.saturating_sub(length);
        let (less, more) = (total / 2, total - total / 2);
        match self.auto_pad {
            AutoPad::SameLower => (more, less),
            _ => (less, more),
        }
    }

    /// How many outputs there are along an axis of that length; zero where the kernel does not fit once.
    pub fn outputs(&self, axis: usize, length: usize, kernel: usize, ceil: bool) -> usize {
        let at = |list: &[usize]| list.get(axis).copied().unwrap_or(1).max(1);
        let (stride, dilation) = (at(&self.strides), at(&self.dilations));
        let (before, after) = self.padding(axis, length, kernel);
        let span = (kernel.max(1) - 1).saturating_mul(dilation).saturating_add(1);
        let padded = length.saturating_add(before).saturating_add(after);
        let Some(room) = padded.checked_sub(span) else { return 0 };
        match ceil {
            false => room / stride + 1,
            // Rounding up must not begin a window behind the input and its front padding.
            true => (room.div_ceil(stride) + 1).min((length + before).saturating_sub(1) / stride + 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_count_their_outputs() {
        let of = |attributes: Attributes| Window::of_conv(&attributes, 1).unwrap();
        let plain = of(Attributes::new());
        let strided = of(Attributes::new().with_ints("strides", &[2]).with_ints("pads", &[1, 1]));
        let dilated = of(Attributes::new().with_ints("dilations", &[2]));
        let same = |mode: &str| of(Attributes::new().with_text("auto_pad", mode).with_ints("strides", &[2]));
        // Window, length, kernel, rounding up, padding, outputs.
        let rows = [
            (&plain, 5, 3, false, (0, 0), 3),
            (&plain, 2, 3, false, (0, 0), 0),
            (&strided, 32, 3, false, (1, 1), 16),
            (&strided, 33, 3, false, (1, 1), 17),
            (&strided, 4, 3, true, (1, 1), 3),
            (&dilated, 7, 3, false, (0, 0), 3),
            (&same("SAME_UPPER"), 5, 2, false, (0, 1), 3),
            (&same("SAME_LOWER"), 5, 2, false, (1, 0), 3),
            (&same("SAME_UPPER"), 6, 3, false, (0, 1), 3),
        ];
        for (window, length, kernel, ceil, padding, outputs) in rows {
            let what = format!("{window:?} over {length} with {kernel}");
            assert_eq!(window.padding(0, length, kernel), padding, "{what}");
            assert_eq!(window.outputs(0, length, kernel, ceil), outputs, "{what}");
        }
    }

    #[test]
    fn windows_that_do_not_fit_are_refused() {
        let rows = [
            (
                Attributes::new().with_ints("strides", &[0, 1]),
                "strides is [0, 1]: expected 2 numbers above zero",
            ),
            (Attributes::new().with_ints("strides", &[1]), "strides is [1]"),
            (Attributes::new().with_ints("pads", &[1, 1]), "pads is [1, 1]: expected 4 numbers"),
            (Attributes::new().with_ints("pads", &[-1, 0, 0, 0]), "expected no negative number"),
            (Attributes::new().with_ints("kernel_shape", &[3]), "kernel_shape is [3]"),
            (Attributes::new().with_text("auto_pad", "SOME"), "auto_pad is 'SOME'"),
        ];
        for (attributes, expected) in rows {
            let error = Window::of_conv(&attributes, 2).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert!(Window::of_pool(&Attributes::new(), 2).unwrap_err().to_string().contains("kernel_shape"));
    }
}
