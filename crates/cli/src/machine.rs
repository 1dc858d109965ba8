//! What the machine has.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::time::Instant;

use rapport_kernels::{Isa, ThreadPool};

use rapport_cli::pull::{self, Paths};

/// Cores that do arithmetic: hyper-threads of one core share its units, so they count once.
pub(crate) fn physical_cores() -> NonZeroUsize {
    let available = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let cores = (0..available.get())
        .filter_map(|cpu| {
            let folder = format!("/sys/devices/system/cpu/cpu{cpu}/topology");
            let read = |file: &str| std::fs::read_to_string(format!("{folder}/{file}")).ok();
            Some((read("physical_package_id")?, read("core_id")?))
        })
        .collect::<BTreeSet<_>>();
    NonZeroUsize::new(cores.len()).unwrap_or(available).min(available)
}

/// Bytes a second that all threads read from memory: the ceiling of writing a reply, which reads
/// every weight once a token. The best of several passes over 256 MiB.
pub(crate) fn read_bandwidth(pool: &ThreadPool) -> f64 {
    const N_WORDS: usize = 32 << 20;
    const CHUNK_WORDS: usize = 1 << 16;
    let words = vec![1_u64; N_WORDS];
    let mut best = 0.0_f64;
    for _ in 0..5 {
        let start = Instant::now();
        pool.run(N_WORDS / CHUNK_WORDS, &|chunk_idx| {
            let chunk = &words[chunk_idx * CHUNK_WORDS..][..CHUNK_WORDS];
            let (lanes, _) = chunk.as_chunks::<32>();
            let mut sums = [0_u64; 32];
            for lane in lanes {
                sums.iter_mut().zip(lane).for_each(|(sum, word)| *sum = sum.wrapping_add(*word));
            }
            std::hint::black_box(sums);
        });
        best = best.max((N_WORDS * 8) as f64 / start.elapsed().as_secs_f64());
    }
    best
}

/// `rapport doctor`: what the machine has, and what would help.
pub(crate) fn doctor(paths: &Paths, out: &mut impl Write) -> io::Result<()> {
    let cores = physical_cores();
    writeln!(out, "cores            {cores} physical")?;
    let available: Vec<&str> =
        Isa::ALL.iter().filter(|isa| isa.is_available()).map(|isa| isa.as_str()).collect();
    writeln!(out, "instruction sets {}", available.join(", "))?;
    if Isa::detect() == Isa::Scalar {
        writeln!(out, "                 ! no AVX2: replies will be slow on this processor")?;
    }
    if let Some(megabytes) = available_memory_mb() {
        writeln!(out, "memory free      {megabytes} MB")?;
        if megabytes < 600 {
            writeln!(
                out,
                "                 ! the default model wants about 600 MB: close something"
            )?;
        }
    }
    let pool = ThreadPool::new(cores);
    writeln!(out, "memory reads     {:.1} GB/s", read_bandwidth(&pool) / 1e9)?;
    let home = paths.cache.as_path();
    let existing = home.ancestors().find(|folder| folder.exists()).unwrap_or(home);
    if let Ok(stat) = rustix::fs::statvfs(existing) {
        let megabytes = stat.f_bavail * stat.f_frsize / 1_000_000;
        writeln!(out, "disk free        {megabytes} MB at {}", home.display())?;
        if megabytes < 200 {
            writeln!(
                out,
                "                 ! pulling a model needs more: set RAPPORT_HOME elsewhere"
            )?;
        }
    }
    match pull::find(pull::DEFAULT_MODEL, paths) {
        Ok(files) => writeln!(out, "default model    {}", files.gguf.display()),
        Err(error) => writeln!(out, "default model    ! {error}"),
    }
}

fn available_memory_mb() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes / 1000)
}
