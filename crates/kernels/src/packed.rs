//! Weight matrices repacked for the kernels.
//!
//! A file stores a matrix row by row. The kernels want the same columns of [`TILE_ROWS`] rows side
//! by side, so that one vector register holds one number for each of 16 outputs and no sum runs
//! across a register. A *tile* is 16 rows of all columns; inside it, *panels* of [`PANEL_COLS`]
//! columns follow one another, each complete with its scales, so that a product reads memory
//! strictly forwards.
//!
//! | layout | one panel of 16 rows x 32 columns |
//! | --- | --- |
//! | nibble | 256 bytes of codes, 16 f16 scales, (16 f16 offsets) |
//! | byte | 512 bytes of codes, then for each group of 32 or 16 columns 16 f16 scales, (16 f16 offsets) |
//! | float | 512 numbers as f32, f16 or bf16, column after column |
//!
//! A row is padded with zero columns to whole panels, a matrix with zero rows to whole tiles.

use half::f16;

use crate::blocks::{BlockType, Group, decode_block, dequantize_row};
use crate::pool::ThreadPool;
use crate::shared_slice::SharedSlice;

/// Rows of a tile: f32 lanes of a 512-bit register.
pub const TILE_ROWS: usize = 16;
/// Columns of a panel: the longest group that shares a scale.
pub const PANEL_COLS: usize = 32;

/// How the panels of a matrix are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Codes 0 to 15, stored two a byte; without offsets 8 stands for zero.
    Nibble {
        has_offset: bool,
    },
    /// Codes of one byte, 128 standing for zero; a scale for each `group_cols` (32 or 16).
    Byte {
        group_cols: usize,
        has_offset: bool,
    },
    F32,
    F16,
    BF16,
}

impl Layout {
    fn of(block_type: BlockType) -> Self {
        use BlockType as B;
        match block_type {
            B::F32 => Self::F32,
            B::F16 => Self::F16,
            B::BF16 => Self::BF16,
            B::Q4_0 => Self::Nibble { has_offset: false },
            B::Q4_1 | B::Q4K => Self::Nibble { has_offset: true },
            B::Q5_0 | B::Q8_0 => Self::Byte { group_cols: 32, has_offset: false },
            B::Q5_1 | B::Q5K => Self::Byte { group_cols: 32, has_offset: true },
            B::Q3K | B::Q6K => Self::Byte { group_cols: 16, has_offset: false },
            B::Q2K => Self::Byte { group_cols: 16, has_offset: true },
        }
    }

    /// Bytes of one panel.
    pub const fn panel_bytes(self) -> usize {
        let vector_bytes = TILE_ROWS * 2;
        match self {
            Self::Nibble { has_offset } => 256 + vector_bytes * (1 + has_offset as usize),
            Self::Byte { group_cols, has_offset } => {
                512 + PANEL_COLS / group_cols * vector_bytes * (1 + has_offset as usize)
            }
            Self::F32 => 2048,
            Self::F16 | Self::BF16 => 1024,
        }
    }

    /// What a stored code has too much.
    const fn zero_code(self) -> i32 {
        match self {
            Self::Nibble { has_offset: true } | Self::F32 | Self::F16 | Self::BF16 => 0,
            Self::Nibble { has_offset: false } => 8,
            Self::Byte { .. } => 128,
        }
    }

    pub const fn is_quantized(self) -> bool {
        matches!(self, Self::Nibble { .. } | Self::Byte { .. })
    }
}

/// A weight matrix in tiles: `n_rows` outputs, `n_cols` inputs.
pub struct PackedMatrix {
    layout: Layout,
    n_rows: usize,
    n_cols: usize,
    n_panels: usize,
    bytes: memmap2::MmapMut,
}

/// Why a matrix cannot be packed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    #[error("{n_bytes} bytes are not {n_rows} rows of {n_cols} {block_type} weights")]
    Size { n_bytes: usize, n_rows: usize, n_cols: usize, block_type: BlockType },
    #[error("no memory for a matrix of {n_bytes} bytes")]
    OutOfMemory { n_bytes: usize },
}

impl PackedMatrix {
    /// Packs a row-major matrix of ggml blocks, on all threads of `pool`.
    ///
    /// # Errors
    /// If `bytes` is not `n_rows` rows of `n_cols` weights, or memory runs out.
    pub fn pack(
        pool: &ThreadPool,
        block_type: BlockType,
        (n_rows, n_cols): (usize, usize),
        bytes: &[u8],
    ) -> Result<Self, PackError> {
        let size = PackError::Size { n_bytes: bytes.len(), n_rows, n_cols, block_type };
        let row_bytes = block_type.row_bytes(n_cols).ok_or_else(|| size.clone())?;
        if n_rows == 0 || n_cols == 0 || row_bytes.checked_mul(n_rows) != Some(bytes.len()) {
            return Err(size);
        }
        let layout = Layout::of(block_type);
        let n_panels = n_cols.div_ceil(PANEL_COLS);
        let n_tiles = n_rows.div_ceil(TILE_ROWS);
        let tile_bytes = n_panels * layout.panel_bytes();
        let n_bytes = n_tiles * tile_bytes;
        let mut packed =
            memmap2::MmapMut::map_anon(n_bytes).map_err(|_| PackError::OutOfMemory { n_bytes })?;
        // Fewer, larger pages: a pass reads every byte of the weights once. Only advice.
        #[cfg(target_os = "linux")]
        let _ = packed.advise(memmap2::Advice::HugePage);

        let tiles = SharedSlice::new(&mut packed);
        pool.run(n_tiles, &|tile_idx| {
            // SAFETY: each task has a tile of its own.
            let tile = unsafe { tiles.take(tile_idx * tile_bytes, tile_bytes) };
            let first_row = tile_idx * TILE_ROWS;
            let end_row = n_rows.min(first_row + TILE_ROWS);
            for row_idx in first_row..end_row {
                let row = &bytes[row_idx * row_bytes..][..row_bytes];
                pack_row(layout, block_type, row, n_cols, row_idx - first_row, tile);
            }
            if layout.is_quantized() {
                // A row of padding must decode to zeros whatever stands for zero.
                let zero = pad_byte(layout);
                for lane in end_row - first_row..TILE_ROWS {
                    fill_codes(layout, tile, lane, zero);
                }
            }
        });
        Ok(Self { layout, n_rows, n_cols, n_panels, bytes: packed })
    }

    pub fn layout(&self) -> Layout {
        self.layout
    }

    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    pub fn n_cols(&self) -> usize {
        self.n_cols
    }

    /// Bytes that a product with this matrix reads.
    pub fn n_bytes(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn n_tiles(&self) -> usize {
        self.n_rows.div_ceil(TILE_ROWS)
    }

    /// The panels of one tile.
    pub(crate) fn tile(&self, tile_idx: usize) -> &[u8] {
        let tile_bytes = self.n_panels * self.layout.panel_bytes();
        &self.bytes[tile_idx * tile_bytes..][..tile_bytes]
    }

    /// Writes row `row_idx` as floats: the lookup of an embedding.
    ///
    /// # Panics
    /// If the row does not exist or `out` is not `n_cols` long.
    pub fn unpack_row(&self, row_idx: usize, out: &mut [f32]) {
        assert!(row_idx < self.n_rows, "row {row_idx} of {}", self.n_rows);
        assert_eq!(out.len(), self.n_cols, "columns of a row");
        let lane = row_idx % TILE_ROWS;
        let panels = self.tile(row_idx / TILE_ROWS).chunks_exact(self.layout.panel_bytes());
        for (panel, out) in panels.zip(out.chunks_mut(PANEL_COLS)) {
            for (col, out) in out.iter_mut().enumerate() {
                *out = panel_weight(self.layout, panel, lane, col);
            }
        }
    }
}

/// Where the code of (`lane`, `col`) lies in a panel of bytes: four columns of a row stay together,
/// as the four-way integer products want them.
fn byte_idx(lane: usize, col: usize) -> usize {
    col / 4 * 64 + lane * 4 + col % 4
}

fn vector_f16(bytes: &[u8], lane: usize) -> f32 {
    f16::from_le_bytes([bytes[lane * 2], bytes[lane * 2 + 1]]).to_f32()
}

/// The code of one weight less what stands for zero, its scale and its offset.
pub(crate) fn panel_code(layout: Layout, panel: &[u8], lane: usize, col: usize) -> i32 {
    let stored = match layout {
        Layout::Nibble { .. } => {
            let byte = panel[byte_idx(lane, col % 16)];
            if col < 16 { byte & 15 } else { byte >> 4 }
        }
        _ => panel[byte_idx(lane, col)],
    };
    i32::from(stored) - layout.zero_code()
}

/// Scale and offset of one group (`group_idx` within the panel) of one row.
pub(crate) fn panel_group(layout: Layout, panel: &[u8], lane: usize, group_idx: usize) -> Group {
    let (codes_bytes, n_groups, has_offset) = match layout {
        Layout::Nibble { has_offset } => (256, 1, has_offset),
        Layout::Byte { group_cols, has_offset } => (512, PANEL_COLS / group_cols, has_offset),
        _ => return Group { scale: 1.0, offset: 0.0 },
    };
    let scales = &panel[codes_bytes + group_idx * 32..];
    let offset = if has_offset {
        vector_f16(&panel[codes_bytes + (n_groups + group_idx) * 32..], lane)
    } else {
        0.0
    };
    Group { scale: vector_f16(scales, lane), offset }
}

/// The number at a place in a panel of floats.
pub(crate) fn float_weight(layout: Layout, panel: &[u8], number: usize) -> f32 {
    match layout {
        Layout::F32 => {
            let bytes = &panel[number * 4..][..4];
            f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
        }
        Layout::F16 => vector_f16(panel, number),
        _ => half::bf16::from_le_bytes([panel[number * 2], panel[number * 2 + 1]]).to_f32(),
    }
}

fn panel_weight(layout: Layout, panel: &[u8], lane: usize, col: usize) -> f32 {
    let group_cols = match layout {
        Layout::Nibble { .. } => PANEL_COLS,
        Layout::Byte { group_cols, .. } => group_cols,
        _ => return float_weight(layout, panel, col * TILE_ROWS + lane),
    };
    let group = panel_group(layout, panel, lane, col / group_cols);
    (panel_code(layout, panel, lane, col) as f32).mul_add(group.scale, group.offset)
}

fn pad_byte(layout: Layout) -> u8 {
    match layout {
        Layout::Nibble { has_offset: false } => 0x88,
        Layout::Byte { .. } => 128,
        _ => 0,
    }
}

fn fill_codes(layout: Layout, tile: &mut [u8], lane: usize, byte: u8) {
    let n_quads = if matches!(layout, Layout::Nibble { .. }) { 4 } else { 8 };
    for panel in tile.chunks_exact_mut(layout.panel_bytes()) {
        for quad in 0..n_quads {
            panel[quad * 64 + lane * 4..][..4].fill(byte);
        }
    }
}

/// Writes one row into its lane of a tile.
fn pack_row(
    layout: Layout,
    block_type: BlockType,
    row: &[u8],
    n_cols: usize,
    lane: usize,
    tile: &mut [u8],
) {
    let panel_bytes = layout.panel_bytes();
    match block_type {
        BlockType::Q4_0 | BlockType::Q4_1 => {
            let has_offset = block_type == BlockType::Q4_1;
            let header = if has_offset { 4 } else { 2 };
            for (block, panel) in
                row.chunks_exact(header + 16).zip(tile.chunks_exact_mut(panel_bytes))
            {
                let (scale, rest) = block.split_at(2);
                panel[256 + lane * 2..][..2].copy_from_slice(scale);
                if has_offset {
                    panel[288 + lane * 2..][..2].copy_from_slice(&rest[..2]);
                }
                // The file, too, keeps columns 0..16 in the low and 16..32 in the high halves.
                for (quad, codes) in block[header..].chunks_exact(4).enumerate() {
                    panel[quad * 64 + lane * 4..][..4].copy_from_slice(codes);
                }
            }
        }
        BlockType::Q8_0 => {
            for (block, panel) in row.chunks_exact(34).zip(tile.chunks_exact_mut(panel_bytes)) {
                panel[512 + lane * 2..][..2].copy_from_slice(&block[..2]);
                for (quad, codes) in block[2..].chunks_exact(4).enumerate() {
                    let place = &mut panel[quad * 64 + lane * 4..][..4];
                    for (out, code) in place.iter_mut().zip(codes) {
                        *out = code ^ 0x80;
                    }
                }
            }
        }
        BlockType::F32 | BlockType::F16 | BlockType::BF16 => {
            let width = block_type.block_bytes();
            for (col, number) in row.chunks_exact(width).enumerate() {
                let panel = &mut tile[col / PANEL_COLS * panel_bytes..];
                let place = (col % PANEL_COLS * TILE_ROWS + lane) * width;
                panel[place..][..width].copy_from_slice(number);
            }
        }
        _ => pack_decoded(layout, block_type, row, n_cols, lane, tile),
    }
}

/// Any quantised type by way of its codes.
fn pack_decoded(
    layout: Layout,
    block_type: BlockType,
    row: &[u8],
    n_cols: usize,
    lane: usize,
    tile: &mut [u8],
) {
    let block_len = block_type.block_len();
    let group_len = block_type.group_len().expect("float types are packed directly");
    let n_groups = PANEL_COLS / group_len;
    let mut codes = vec![0_i8; block_len];
    let mut groups = vec![Group { scale: 0.0, offset: 0.0 }; block_len / group_len];
    let codes_bytes = if matches!(layout, Layout::Nibble { .. }) { 256 } else { 512 };
    let has_offset = matches!(
        layout,
        Layout::Nibble { has_offset: true } | Layout::Byte { has_offset: true, .. }
    );
    debug_assert!(n_cols.is_multiple_of(block_len));
    for (block_idx, block) in row.chunks_exact(block_type.block_bytes()).enumerate() {
        decode_block(block_type, block, &mut codes, &mut groups);
        let panels = tile[block_idx * block_len / PANEL_COLS * layout.panel_bytes()..]
            .chunks_exact_mut(layout.panel_bytes());
        for (panel_idx, panel) in panels.take(block_len / PANEL_COLS).enumerate() {
            for col in 0..PANEL_COLS {
                let code = i32::from(codes[panel_idx * PANEL_COLS + col]) + layout.zero_code();
                let code = code as u8;
                match layout {
                    Layout::Nibble { .. } if col < 16 => panel[byte_idx(lane, col)] = code,
                    Layout::Nibble { .. } => panel[byte_idx(lane, col - 16)] |= code << 4,
                    _ => panel[byte_idx(lane, col)] = code,
                }
            }
            for group_idx in 0..n_groups {
                let group = groups[panel_idx * n_groups + group_idx];
                let scale_at = codes_bytes + group_idx * 32 + lane * 2;
                panel[scale_at..][..2].copy_from_slice(&f16::from_f32(group.scale).to_le_bytes());
                if has_offset {
                    let offset_at = scale_at + n_groups * 32;
                    let offset = f16::from_f32(group.offset).to_le_bytes();
                    panel[offset_at..][..2].copy_from_slice(&offset);
                }
            }
        }
    }
}

/// The numbers of a small tensor (a norm, a bias) as floats.
///
/// # Errors
/// If `bytes` is not `n_cols` weights of this type.
pub fn unpack_vector(
    block_type: BlockType,
    n_cols: usize,
    bytes: &[u8],
) -> Result<Vec<f32>, PackError> {
    if block_type.row_bytes(n_cols) != Some(bytes.len()) {
        return Err(PackError::Size { n_bytes: bytes.len(), n_rows: 1, n_cols, block_type });
    }
    let mut out = vec![0.0; n_cols];
    dequantize_row(block_type, bytes, &mut out);
    Ok(out)
}
