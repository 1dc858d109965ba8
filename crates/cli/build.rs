//! Makes the built web app part of the program, where there is one.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let web = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../web");
    let build = web.join("build");
    println!("cargo:rerun-if-changed=build.rs");
    // Until it is built, whatever may build it is watched.
    let watched = if build.is_dir() { &build } else { &web };
    if watched.is_dir() {
        println!("cargo:rerun-if-changed={}", watched.display());
    }
    let mut files = Vec::new();
    if build.is_dir() {
        find(&build, &mut files)?;
    }
    files.sort();
    let mut source = "&[\n".to_owned();
    for file in files {
        let name = file.strip_prefix(&build).map_err(io::Error::other)?;
        let name = name.to_str().ok_or_else(|| io::Error::other("a name that is not Unicode"))?;
        let path = file.canonicalize()?;
        // As a Rust string literal.
        let path = format!("{:?}", path.display().to_string());
        // Writing to a string does not fail.
        let _ =
            writeln!(source, "    ({:?}, include_bytes!({path}) as &[u8]),", format!("/{name}"));
    }
    source.push(']');
    #[expect(clippy::disallowed_methods, reason = "what cargo says to build scripts")]
    let out = env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("run by cargo alone"))?;
    fs::write(Path::new(&out).join("web_files.rs"), source)
}

fn find(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}
