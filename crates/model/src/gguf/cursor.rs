//! Reads little-endian numbers from the front of a file whose length is known, of which only the
//! first part may be in memory.

/// Where a read stops short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Short {
    /// The file goes on, the bytes in memory do not: read more of it.
    OfBuffer,
    /// The file ends here.
    OfFile { needed_bytes: u64, available_bytes: u64 },
}

#[derive(Clone, Debug)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
    file_bytes: u64,
}

impl<'a> Cursor<'a> {
    /// `bytes` is the first part of a file of `file_bytes`.
    pub(super) fn new(bytes: &'a [u8], file_bytes: u64) -> Self {
        Self { bytes, position: 0, file_bytes }
    }

    /// Reads bytes that are all there is.
    pub(super) fn over(bytes: &'a [u8]) -> Self {
        Self::new(bytes, bytes.len() as u64)
    }

    pub(super) fn position(&self) -> usize {
        self.position
    }

    /// Bytes from here to the end of the file.
    pub(super) fn available_bytes(&self) -> u64 {
        self.file_bytes - self.position as u64
    }

    /// The next `n_bytes`.
    pub(super) fn take(&mut self, n_bytes: u64) -> Result<&'a [u8], Short> {
        let available_bytes = self.available_bytes();
        if n_bytes > available_bytes {
            return Err(Short::OfFile { needed_bytes: n_bytes, available_bytes });
        }
        let rest = &self.bytes[self.position..];
        let taken = usize::try_from(n_bytes).ok().and_then(|n_bytes| rest.get(..n_bytes));
        let taken = taken.ok_or(Short::OfBuffer)?;
        self.position += taken.len();
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Short> {
        let taken = self.take(N as u64)?;
        Ok(*taken.first_chunk().expect("`take` gives as many bytes as asked for"))
    }

    pub(super) fn u32(&mut self) -> Result<u32, Short> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Short> {
        self.array().map(u64::from_le_bytes)
    }

    /// A string: its length, then its bytes.
    pub(super) fn string(&mut self) -> Result<&'a [u8], Short> {
        let n_bytes = self.u64()?;
        self.take(n_bytes)
    }
}
