//! What the spool asks of a disk: a handful of calls, in one place, so that a test can make each of them fail.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

use super::record::{HEAD_BYTES, MESSAGE_BYTES_MAX};

#[cfg(any(test, feature = "testing"))]
use super::faults::{DiskFaults, Permit, Verdict};

/// Held while a call is made.
#[cfg(not(any(test, feature = "testing")))]
struct Permit;

/// A disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    #[cfg(any(test, feature = "testing"))]
    faults: DiskFaults,
}

/// What is asked of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// To look around and to read.
    Read,
    /// To make, rename or remove a file or a directory.
    Change,
    /// To fill a file.
    Write,
}

impl Disk {
    #[cfg(any(test, feature = "testing"))]
    pub(crate) const fn with_faults(faults: DiskFaults) -> Self {
        Self { faults }
    }

    /// Makes a directory, and those above it, that only this user can look into: spans may tell a lot.
    pub(crate) fn create_directory(&self, path: &Path) -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        let _permit = self.ask(Operation::Change)?;
        let mut builder = DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(path)
    }

    /// The names in a directory. Those that are not UTF-8 are not ours.
    pub(crate) fn names(&self, directory: &Path) -> io::Result<Vec<String>> {
        let _permit = self.ask(Operation::Read)?;
        let mut names = Vec::new();
        for entry in fs::read_dir(directory)? {
            names.extend(entry?.file_name().into_string().ok());
        }
        Ok(names)
    }

    /// A file that holds an exclusive lock for as long as it is open; `None` if somebody else has it. The system
    /// takes the lock from a process that is killed.
    pub(crate) fn lock(&self, path: &Path) -> io::Result<Option<File>> {
        let _permit = self.ask(Operation::Change)?;
        let file = self.options().create(true).truncate(false).open(path)?;
        match fs4::FileExt::try_lock(&file) {
            Ok(()) => Ok(Some(file)),
            Err(fs4::TryLockError::WouldBlock) => Ok(None),
            Err(fs4::TryLockError::Error(error)) => Err(error),
        }
    }

    /// Writes a new file of these pieces.
    pub(crate) fn write<'a>(&self, path: &Path, pieces: impl Iterator<Item = &'a [u8]>) -> io::Result<()> {
        let mut file = {
            let _permit = self.ask(Operation::Change)?;
            self.options().create(true).truncate(true).open(path)?
        };
        for piece in pieces {
            self.fill(&mut file, piece)?;
        }
        Ok(())
    }

    #[cfg(not(any(test, feature = "testing")))]
    fn fill(&self, file: &mut File, piece: &[u8]) -> io::Result<()> {
        let _permit = self.ask(Operation::Write)?;
        file.write_all(piece)
    }

    #[cfg(any(test, feature = "testing"))]
    fn fill(&self, file: &mut File, piece: &[u8]) -> io::Result<()> {
        let (verdict, _permit) = self.faults.judge(Operation::Write);
        match verdict {
            Verdict::Do => file.write_all(piece),
            Verdict::DoHalf => file.write_all(&piece[..piece.len() / 2]),
            Verdict::Fail(error) => {
                file.write_all(&piece[..piece.len() / 2])?;
                Err(error)
            }
        }
    }

    pub(crate) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let _permit = self.ask(Operation::Change)?;
        fs::rename(from, to)
    }

    pub(crate) fn remove(&self, path: &Path) -> io::Result<()> {
        let _permit = self.ask(Operation::Change)?;
        fs::remove_file(path)
    }

    /// The first bytes of a file, as many as there are up to [`HEAD_BYTES`], and the length of the whole.
    pub(crate) fn read_head(&self, path: &Path) -> io::Result<(Vec<u8>, u64)> {
        let _permit = self.ask(Operation::Read)?;
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let mut head = Vec::with_capacity(HEAD_BYTES);
        file.take(HEAD_BYTES as u64).read_to_end(&mut head)?;
        Ok((head, length))
    }

    /// A whole file, or as much of it as a file of ours may have.
    pub(crate) fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let _permit = self.ask(Operation::Read)?;
        let file = File::open(path)?;
        let length_max = HEAD_BYTES as u64 + MESSAGE_BYTES_MAX + 1;
        // Not more than 16 MiB.
        let mut bytes = Vec::with_capacity(file.metadata()?.len().min(length_max) as usize);
        file.take(length_max).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn options(&self) -> OpenOptions {
        let mut options = OpenOptions::new();
        options.write(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options
    }

    #[cfg(not(any(test, feature = "testing")))]
    #[expect(clippy::unused_self, reason = "a test's disk has something to say")]
    fn ask(&self, _: Operation) -> io::Result<Permit> {
        Ok(Permit)
    }

    #[cfg(any(test, feature = "testing"))]
    fn ask(&self, operation: Operation) -> io::Result<Permit<'_>> {
        match self.faults.judge(operation) {
            (Verdict::Fail(error), _) => Err(error),
            (Verdict::Do | Verdict::DoHalf, permit) => Ok(permit),
        }
    }
}
