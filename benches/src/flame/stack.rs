//! From addresses to the functions that the code there was written in, inlined ones too.
//!
//! Most of what a request costs is inlined into a few large functions, so that a profile of functions says nothing. The
//! program's own line tables know the chain of calls that each instruction was inlined through.

use std::collections::HashMap;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::rc::Rc;

use addr2line::Loader;
use object::{Object, ObjectSegment};

/// Where a thread was, from the innermost place outwards, and how much it spent there.
pub(crate) type Stacks = HashMap<Vec<Place>, f64>;

/// An address as a profiler tells it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    /// In this program, as its debug information counts.
    Here(u64),
    /// In a library, which has nothing but names.
    Elsewhere(String),
}

/// A call in the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Its bare name: line tables have no paths.
    pub(crate) function: String,
    /// From the workspace's folder, or that of all crates.
    pub(crate) file: String,
    pub(crate) line: u32,
    /// The text of the line; empty for what is not in the workspace.
    pub(crate) text: Rc<str>,
}

/// Resolves addresses of a program.
pub(crate) struct Resolver {
    loader: Loader,
    segments: Vec<Segment>,
    sources: HashMap<String, Rc<[Rc<str>]>>,
    known: HashMap<u64, Rc<[Frame]>>,
}

struct Segment {
    in_file: (u64, u64),
    address: u64,
}

impl Resolver {
    pub(crate) fn new(program: &Path) -> Result<Self, Box<dyn Error>> {
        let data = fs::read(program)?;
        let file = object::File::parse(&*data)?;
        let segments = file.segments();
        let segments =
            segments.map(|segment| Segment { in_file: segment.file_range(), address: segment.address() });
        Ok(Self {
            loader: Loader::new(program).map_err(|error| error.to_string())?,
            segments: segments.collect(),
            sources: HashMap::new(),
            known: HashMap::new(),
        })
    }

    /// The address of what is at this place in the program's file, as perf tells places.
    pub(crate) fn address(&self, offset: u64) -> Option<u64> {
        self.segments.iter().find_map(|segment| {
            let (start, length) = segment.in_file;
            let inside = offset.checked_sub(start).filter(|inside| *inside < length)?;
            Some(segment.address + inside)
        })
    }

    /// All calls of a stack, the innermost first.
    pub(crate) fn frames(&mut self, stack: &[Place]) -> Vec<Frame> {
        stack.iter().flat_map(|place| self.at(place).to_vec()).collect()
    }

    fn at(&mut self, place: &Place) -> Rc<[Frame]> {
        let address = match place {
            Place::Here(address) => *address,
            Place::Elsewhere(name) => {
                let frame =
                    Frame { function: name.clone(), file: String::new(), line: 0, text: Rc::from("") };
                return Rc::from([frame]);
            }
        };
        if let Some(known) = self.known.get(&address) {
            return known.clone();
        }
        let frames: Rc<[Frame]> = self.frames_at(address).into();
        self.known.insert(address, frames.clone());
        frames
    }

    fn frames_at(&mut self, address: u64) -> Vec<Frame> {
        calls(&self.loader, address)
            .into_iter()
            .map(|(function, file, line)| {
                let text = self.text(&file, line);
                Frame { function, file: short_path(&file).to_owned(), line, text }
            })
            .collect()
    }

    fn text(&mut self, file: &str, line: u32) -> Rc<str> {
        if !file.starts_with(root()) {
            return Rc::from("");
        }
        let lines = self.sources.entry(file.to_owned()).or_insert_with(|| {
            let text = fs::read_to_string(file).unwrap_or_default();
            text.lines().map(|line| Rc::from(line.trim())).collect()
        });
        lines.get((line as usize).wrapping_sub(1)).cloned().unwrap_or_else(|| Rc::from(""))
    }
}

/// The calls that were inlined to this address, the innermost first: function, file, line. What cannot be read has no name: that
/// of its caller will do.
fn calls(loader: &Loader, address: u64) -> Vec<(String, String, u32)> {
    let mut calls = Vec::new();
    let Ok(mut frames) = loader.find_frames(address) else { return calls };
    while let Ok(Some(frame)) = frames.next() {
        let function = frame.function.as_ref().and_then(|name| Some(name.demangle().ok()?.into_owned()));
        let location = frame.location.map(|location| (location.file, location.line));
        let (file, line) = location.unwrap_or_default();
        let (function, file) = (function.unwrap_or_default(), file.unwrap_or_default());
        calls.push((bare_name(&function).to_owned(), file.to_owned(), line.unwrap_or_default()));
    }
    calls
}

/// The workspace's folder.
fn root() -> &'static str {
    let benches = env!("CARGO_MANIFEST_DIR");
    benches.rsplit_once('/').map_or(benches, |(root, _)| root)
}

/// A path without where it happens to lie on this machine.
fn short_path(path: &str) -> &str {
    if let Some(path) = path.strip_prefix(root()) {
        return path.trim_start_matches('/');
    }
    if let Some((_, path)) = path.split_once("/registry/src/") {
        return path.split_once('/').map_or(path, |(_, path)| path);
    }
    path.split_once("/library/").map_or(path, |(_, path)| path)
}

/// A name without the types that it was made for.
fn bare_name(name: &str) -> &str {
    match name.find('<') {
        Some(end) if end > 0 => &name[..end],
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use object::{ObjectSection, ObjectSymbol};

    use super::*;

    #[test]
    fn names_and_paths_say_what_does_not_change() {
        assert_eq!(bare_name("set<&str, u16>"), "set");
        assert_eq!(bare_name("{closure#0}<T>"), "{closure#0}");
        assert_eq!(bare_name("<A as B>::c"), "<A as B>::c");
        let here = format!("{}/trace-core/src/id.rs", root());
        assert_eq!(short_path(&here), "trace-core/src/id.rs");
        assert_eq!(short_path("/a/registry/src/index-1/axum-0.8.9/src/lib.rs"), "axum-0.8.9/src/lib.rs");
        assert_eq!(short_path("/rustc/1a/library/core/src/ptr/mod.rs"), "core/src/ptr/mod.rs");
    }

    #[test]
    fn an_address_is_the_function_there() {
        std::hint::black_box(landmark_of_the_tests as fn());
        let program = std::env::current_exe().unwrap();
        // Where it is in memory is not where it is in the file, so the symbols are asked.
        let data = fs::read(&program).unwrap();
        let file = object::File::parse(&*data).unwrap();
        let is_wanted = |symbol: &object::Symbol<'_, '_>| {
            symbol.name().is_ok_and(|name| name.contains("landmark_of_the_tests"))
        };
        let address = file.symbols().find(is_wanted).unwrap().address();

        let mut resolver = Resolver::new(&program).unwrap();
        let frames = resolver.frames(&[Place::Here(address), Place::Elsewhere("malloc".to_owned())]);
        let names: Vec<_> = frames.iter().map(|frame| &*frame.function).collect();
        assert_eq!(names, ["landmark_of_the_tests", "malloc"]);
        assert_eq!(frames[0].file, "benches/src/flame/stack.rs");
        assert!(!frames[0].text.is_empty(), "{frames:?}");
        let text = file.section_by_name(".text").unwrap();
        assert_eq!(resolver.address(text.file_range().unwrap().0), Some(text.address()));
    }

    // Functions that nothing was inlined to have no names among the tables of lines.
    #[inline(never)]
    fn landmark_of_the_tests() {
        inlined();
    }

    #[inline(always)]
    fn inlined() {
        std::hint::black_box(());
    }
}
