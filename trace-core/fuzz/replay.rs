//! The corpora, as tests of the crates run them.

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

/// A target, and what its corpus is called.
pub(crate) type Target = (&'static str, fn(&[u8]));

/// Calls each target with everything that lies in the corpus of its name, which has to be something.
pub(crate) fn replay(targets: &[Target]) {
    for (name, target) in targets {
        let directory = fuzz().join("corpus").join(name);
        let files = names(&directory);
        assert!(!files.is_empty(), "{name} has no corpus");
        for file in files {
            let data = fs::read(directory.join(&file)).unwrap_or_else(|error| panic!("{file}: {error}"));
            let held = catch_unwind(|| target(&data));
            assert!(held.is_ok(), "{name}/{file}: {:?}", String::from_utf8_lossy(&data));
        }
    }
}

/// The directory that this file lies in.
pub(crate) fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../trace-core/fuzz")
}

/// What lies in a directory, in order.
pub(crate) fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let mut names: Vec<_> = entries.map(|entry| name(entry.expect("a directory that can be read"))).collect();
    names.sort_unstable();
    names
}
