//! Boards as their makers describe them.
//!
//! What a data sheet states is taken from it; what only a synthesis would tell (the clock) or what depends on the card that carries the
//! device is *assumed*, and says so.

/// A board: what there is of everything that bounds the engine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Board {
    /// As the command line names it.
    pub name: &'static str,
    /// The device, and the card.
    pub device: &'static str,
    /// Blocks for multiplication.
    pub dsp_blocks: usize,
    /// Products of two integers of up to 16 bits that one such block makes in a cycle.
    pub products_per_block: usize,
    /// Memory on the chip, in bytes.
    pub on_chip_bytes: usize,
    /// What the memory on the card gives, in bytes a second.
    pub memory_bytes_per_s: f64,
    /// The clock that the engine is assumed to reach, in MHz. Only a synthesis tells.
    pub assumed_clock_mhz: f64,
    /// Where the figures are from.
    pub source: &'static str,
}

/// An 18 × 19 multiplier pair a block, 20,480 bits a block of memory.
const fn m20k(blocks: usize) -> usize {
    blocks * 20_480 / 8
}

/// Blocks of 36,864 and of 294,912 bits.
const fn xilinx(block_rams: usize, ultra_rams: usize) -> usize {
    (block_rams * 36_864 + ultra_rams * 294_912) / 8
}

/// The boards that are described.
pub const BOARDS: [Board; 4] = [
    Board {
        name: "arria10",
        device: "Intel Arria 10 GX 1150 (PAC with Arria 10 GX: two banks of DDR4-2133)",
        dsp_blocks: 1518,
        products_per_block: 2,
        on_chip_bytes: m20k(2713),
        memory_bytes_per_s: 34.1e9,
        assumed_clock_mhz: 200.0,
        source: "Intel Arria 10 Device Overview (683332) and Core Fabric Handbook (683461): 1,518 DSP blocks, 3,036 18 x 19 multipliers, \
                 2,713 M20K blocks",
    },
    Board {
        name: "u250",
        device: "AMD Alveo U250 (four DDR4 channels)",
        dsp_blocks: 12_288,
        products_per_block: 1,
        on_chip_bytes: xilinx(2688, 1280),
        memory_bytes_per_s: 77e9,
        assumed_clock_mhz: 250.0,
        source: "Alveo U200 and U250 Data Sheet (DS962): 12,288 DSP slices, 2,688 block RAMs, 1,280 UltraRAMs, 77 GB/s",
    },
    Board {
        name: "u55c",
        device: "AMD Alveo U55C (16 GB of HBM2)",
        dsp_blocks: 9024,
        products_per_block: 1,
        on_chip_bytes: xilinx(2016, 960),
        memory_bytes_per_s: 460e9,
        assumed_clock_mhz: 250.0,
        source: "Alveo U55C Data Sheet (DS978): 9,024 DSP slices, 2,016 block RAMs, 960 UltraRAMs; 460 GB/s (UG1393, HBM Configuration)",
    },
    Board {
        name: "agilex7",
        device: "Intel Agilex 7 AGF 027 (two channels of DDR4-3200, assumed)",
        dsp_blocks: 8528,
        products_per_block: 2,
        on_chip_bytes: m20k(13_272),
        memory_bytes_per_s: 51.2e9,
        assumed_clock_mhz: 350.0,
        source: "Intel Agilex 7 FPGAs and SoCs Device Overview (683458): AGF 027, 8,528 DSP blocks, 13,272 M20K blocks; the memory is a \
                 card's, and assumed",
    },
];

/// The board of that name.
pub fn board(name: &str) -> Option<&'static Board> {
    BOARDS.iter().find(|b| b.name.eq_ignore_ascii_case(name))
}
