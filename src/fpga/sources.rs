//! The engine's kernels, as one source: what an emulator builds, and what a board's binary was made from.

use super::tile::Tile;

/// The version of what host and kernels agree on: descriptors, packing orders, arguments. A binary of another version is refused.
pub(super) const ABI_VERSION: u32 = 2;

/// All files as one text: `opencl3` would pass several wrongly, and an FPGA is synthesised from one anyway.
pub(super) fn engine() -> String {
    [
        include_str!("../../kernels/opencl/common.cl"),
        include_str!("../../kernels/opencl/matrix.cl"),
        include_str!("../../kernels/opencl/pack.cl"),
        include_str!("../../kernels/opencl/depthwise.cl"),
        include_str!("../../kernels/opencl/elementwise.cl"),
        include_str!("../../kernels/opencl/move.cl"),
        include_str!("../../kernels/opencl/pool.cl"),
        include_str!("../../kernels/opencl/softmax.cl"),
        include_str!("../../kernels/opencl/layernorm.cl"),
    ]
    .join("\n")
}

/// What the kernels are built with: the sizes that host and kernels share.
pub(super) fn options(tile: Tile) -> String {
    format!("-DROWS={} -DK_CAPACITY={} -DENGINE_ABI={ABI_VERSION}", tile.rows, tile.depth)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fpga::plan::Kernel;

    #[test]
    fn every_kernel_is_in_the_source_once() {
        let source = engine();
        for kernel in Kernel::ALL {
            let head = format!("FPGA_TASK {}(ENGINE_ARGUMENTS)", kernel.name());
            assert_eq!(source.matches(&head).count(), 1, "{head}");
        }
        assert_eq!(
            source.matches("FPGA_TASK ").count(),
            Kernel::ALL.len() + 2,
            "and the two definitions of the macro"
        );
        assert!(!source.contains("#include") && source.is_ascii());
    }
}
