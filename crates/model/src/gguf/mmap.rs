//! A file mapped into memory: the one `unsafe` of this crate.

#![expect(unsafe_code, reason = "mapping a file is unsafe: another process may change it")]

use std::fs::File;
use std::io;

/// A file mapped for reading, kept open so that its length can be asked again.
///
/// The bytes are only as stable as the file. If another process truncates it, touching a page past
/// the new end ends this process with `SIGBUS`, and no code here can turn that into an error. What
/// limits the risk: headers are read with ordinary reads and never through the map;
/// [`MappedFile::file_bytes`] is asked each time a tensor is handed out, so a file that has already
/// shrunk is a typed error; and replacing a model by renaming a new file over it, as every
/// downloader does, leaves the map on the old file, whole. What remains is a file truncated in
/// place while its weights are being read.
#[derive(Debug)]
pub(super) struct MappedFile {
    map: memmap2::Mmap,
    file: File,
}

impl MappedFile {
    pub(super) fn new(file: File) -> io::Result<Self> {
        // SAFETY: the map is read-only and private to this struct, which keeps the file open. That
        // nobody else changes the file meanwhile cannot be enforced on any system; see above for
        // how it is made unlikely and for what happens then.
        let map = unsafe { memmap2::Mmap::map(&file) }?;
        Ok(Self { map, file })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Lets go of the memory behind a range; whoever reads it again gets it from the file again.
    pub(super) fn release(&self, offset: usize, n_bytes: usize) {
        #[cfg(unix)]
        {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: the map is shared with the file and never written, so a page that is dropped
            // comes back as it was.
            let released = unsafe { self.map.unchecked_advise_range(advice, offset, n_bytes) };
            // It is advice: without it the pages only stay longer.
            let _ = released;
        }
        #[cfg(not(unix))]
        let _ = (offset, n_bytes);
    }

    /// How long the file is now.
    pub(super) fn file_bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}
